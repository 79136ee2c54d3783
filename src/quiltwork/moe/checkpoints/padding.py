"""Which places of a batch are tokens: transformers tells its attention, and not its feed-forward layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import UnsupportedError


class Padding:
    """The mask of the batch under way, shared by the sparse blocks of one model, which runs one batch at a time.

    It stays until the next batch: gradient checkpointing runs a layer again after the model's forward has ended.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def watch(self, model: Any) -> None:
        """Read the mask of every batch that the transformers model ``model`` is given."""
        model.base_model.register_forward_pre_hook(self._read, with_kwargs=True)

    def tokens(self, x: Tensor) -> Tensor | None:
        """Of x (B, S, D) the flat places (T,) int64 of tokens, or None where all places are.

        A mask over more than the S places of x is of tokens before them as well (a key-value cache).
        """
        mask = self.mask
        if mask is None or x.ndim != 3 or mask.shape[0] != x.shape[0] or mask.shape[1] < x.shape[1]:
            return None
        flat = mask[:, -x.shape[1] :].reshape(-1).to(x.device) != 0
        return None if bool(flat.all()) else flat.nonzero()[:, 0]

    def _read(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("output_router_logits"):
            raise UnsupportedError(
                "the experts are not transformers' any more", where="output_router_logits", hint="record_routing"
            )
        given = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.mask = given if isinstance(given, torch.Tensor) and given.ndim == 2 else None
