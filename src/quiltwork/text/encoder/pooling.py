"""From a sentence's token vectors to one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How configurations say it that are older than sentence-transformers 5.3, in the order in which vectors are joined."""


@dataclass(frozen=True)
class Pooling:
    """Ways to make one vector of many; several ones are laid end to end. Gradients go through."""

    modes: tuple[str, ...]
    with_prompt: bool = True
    """Whether the tokens of a prompt count."""

    def width(self, of_token: int) -> int:
        """Length of a sentence's vector."""
        return len(self.modes) * of_token

    def __call__(self, tokens: Tensor, lengths: Tensor, prompts: Tensor) -> Tensor:
        """Sentences' vectors (m, modes x d).

        tokens : (n, d), sentence after sentence; lengths : (m,) tokens of each; prompts : (m,) how many of them, at its
        beginning, are of the prompt. A sentence that is nothing but its prompt has zeros.
        """
        places = torch.arange(len(tokens)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        if not self.with_prompt and bool((prompts > 0).any()):
            prompts = torch.minimum(prompts, lengths)
            kept = places >= prompts.repeat_interleave(lengths)
            tokens, places, lengths = tokens[kept], places[kept], lengths - prompts
        there = lengths > 0
        some = lengths[there]
        parts = [_MODES[mode](tokens, some, places) for mode in self.modes]
        pooled = tokens.new_zeros(len(lengths), self.width(tokens.shape[1]))
        pooled[there] = torch.cat(parts, dim=1)
        return pooled


def read_pooling(config: Mapping[str, Any], width: int, where: str) -> Pooling:
    """From the ``config.json`` of a Pooling module. width : of a token's vector.

    Raises BadInputError naming a field, UnsupportedError naming a mode that is not known.
    """
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes) if isinstance(modes, list) else ()
    if not modes:
        raise BadInputError("must be a mode or a list of modes", where=f"{where}: pooling_mode")
    for mode in modes:
        if mode not in _MODES:
            hint = f"known: {', '.join(_MODES)}"
            raise UnsupportedError(f"{str(mode)[:40]!r} is not known", where=f"{where}: pooling_mode", hint=hint)
    for name in ("embedding_dimension", "word_embedding_dimension"):
        if (told := config.get(name)) is not None and told != width:
            raise BadInputError(f"is {told}, but the model's tokens have {width} numbers", where=f"{where}: {name}")
    return Pooling(modes, config.get("include_prompt", True) is not False)


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Of each stretch of rows, in the order of the rows, so that it is the same whatever lies beside it."""
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)


def _cls(tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    return tokens[lengths.cumsum(0) - lengths]


def _last(tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    return tokens[lengths.cumsum(0) - 1]


def _max(tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    return torch.segment_reduce(tokens, "max", lengths=lengths, axis=0, unsafe=True)


def _mean(tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    return _sums(tokens, lengths) / lengths[:, None]


def _mean_sqrt(tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    return _sums(tokens, lengths) / lengths[:, None].to(tokens.dtype).sqrt()


def _weighted(tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    """A token counts by its place in the text, the prompt's counted: 1, 2, 3 ... (Muennighoff 2022)."""
    weights = (places + 1).to(tokens.dtype)[:, None]
    return _sums(tokens * weights, lengths) / _sums(weights, lengths)


_MODES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted,
    "lasttoken": _last,
}
