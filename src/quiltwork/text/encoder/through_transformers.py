"""Encoders of all other families, computed by transformers: slower than ``packed``, and as exact."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.text.encoder.weights import Floats

Ids = npt.NDArray[np.int64]

_HARMLESS = ("position_ids", "token_type_ids", "inv_freq")
"""Ends of names of what checkpoints hold or lack though it is computed."""


def build_model(config: Mapping[str, Any], arrays: Mapping[str, Floats], where: str, files: str) -> Any:
    """A model of transformers with these weights, without its pooler; nothing is looked for anywhere else.

    where, files : what errors call its configuration and its weights. Raises UnsupportedError for a family that
    transformers does not have, BadInputError naming an array that is missing or of a wrong shape.
    """
    from transformers import CONFIG_MAPPING, AutoModel

    family = config.get("model_type")
    if family not in CONFIG_MAPPING:
        raise UnsupportedError(f"{str(family)[:40]!r} is no family that is known", where=f"{where}: model_type")
    try:
        settings = CONFIG_MAPPING[family].from_dict({name: one for name, one in config.items() if name != "dtype"})
        with torch.random.fork_rng(devices=[]):  # it draws weights first, which is nobody else's business
            model = AutoModel.from_config(settings, dtype=torch.float32, attn_implementation="eager")
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BadInputError(f"no model can be built from it: {line}", where=where) from error
    if isinstance(getattr(model, "pooler", None), torch.nn.Module):
        model.pooler = None  # for classification; many checkpoints do not even hold it
    fill_model(model, arrays, files)
    return model.eval().requires_grad_(False)


def fill_model(model: Any, arrays: Mapping[str, Floats], files: str) -> None:
    """Put a checkpoint's arrays into a model; those of a head above it are left alone. Raises BadInputError."""
    wanted = dict(model.state_dict())
    prefix = f"{model.base_model_prefix}."
    given = {name.removeprefix(prefix): array for name, array in arrays.items()}
    given |= {
        name[: -len(old)] + new: array
        for old, new in ((".gamma", ".weight"), (".beta", ".bias"))
        for name, array in given.items()
        if name.endswith(old)
    }
    state = {}
    for name, tensor in wanted.items():
        found = given.get(name)
        if found is None:
            if name.endswith(_HARMLESS):
                continue
            raise BadInputError("is missing", where=f"{files}: {name}")
        if found.shape != tuple(tensor.shape):
            has, wants = list(found.shape), list(tensor.shape)
            raise BadInputError(f"has the shape {has}, the configuration says {wants}", where=f"{files}: {name}")
        state[name] = torch.from_numpy(np.array(found))
    model.load_state_dict(state, strict=False)


class ThroughTransformers:
    """An encoder of any family. Sentences of one length are computed together, so that nothing is padded."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = set(inspect.signature(model.forward).parameters)
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        self.width = int(config.hidden_size)
        most = getattr(config, "max_position_embeddings", None)
        self.longest = int(most) if isinstance(most, int) and most > 0 else 1 << 20

    def __call__(self, sentences: Sequence[Ids]) -> torch.Tensor:
        """The tokens' vectors (n, d), one sentence after the other."""
        lengths = np.array([len(one) for one in sentences], np.int64)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        found = torch.empty(int(bounds[-1]), self.width)
        with torch.inference_mode():
            for length in np.unique(lengths):
                places = np.flatnonzero(lengths == length).tolist()
                ids = torch.from_numpy(np.stack([sentences[place] for place in places]))
                given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                states = self._model(**{name: one for name, one in given.items() if name in self._takes})[0]
                for place, state in zip(places, states, strict=True):
                    found[bounds[place] : bounds[place + 1]] = state
        return found
