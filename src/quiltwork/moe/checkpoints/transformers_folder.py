"""A transformers model out of a folder: whole, or one line that says what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.moe.checkpoints.expert_names import expert_names
from quiltwork.moe.checkpoints.sparse_families import FAMILIES
from quiltwork.zoo.config import LARGEST_SIZE, MOST_LAYERS, read_json
from quiltwork.zoo.source import scan

Shapes = Mapping[str, tuple[int, ...]]
_LAYERS = ("num_hidden_layers", "n_layer")
_SIZES = (
    *_LAYERS, "hidden_size", "n_embd", "intermediate_size", "moe_intermediate_size", "vocab_size", "num_local_experts",
    "num_experts", "num_experts_per_tok", "num_attention_heads", "n_head",
)  # fmt: skip


def read_config(folder: str | os.PathLike[str]) -> dict[str, Json]:
    """A checkpoint's config.json. Raises NotFoundError, and BadInputError where it is none or a size is absurd."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        what = "is no folder of a checkpoint: there is no config.json" if path.is_dir() else "no such folder"
        raise NotFoundError(what, where=str(path))
    config = read_json(path / "config.json")
    check_sizes(config, str(path / "config.json"))
    return config


def check_sizes(config: Mapping[str, Json], where: str) -> None:
    """Raise BadInputError naming a size in a configuration that is no size, or absurd."""
    for name in _SIZES:
        most = MOST_LAYERS if name in _LAYERS else LARGEST_SIZE
        value = config.get(name, 1)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most):
            raise BadInputError(f"must be 1 to {most}, not {value!r:.40}", where=f"{where}: {name}")


def model_class(name: Json, where: str) -> Any:
    """A model's class by the name that configurations call it (``architectures``). Raises UnsupportedError."""
    import transformers

    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UnsupportedError(f"{str(name)[:60]!r} is no model of transformers", where=f"{where}: architectures")
    return found


def read_model(folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Any:
    """The transformers model of a folder, ready to be run. Nothing is looked for anywhere else.

    Raises NotFoundError; BadInputError naming the tensor that is missing or of another shape than the configuration
    says, or the file that is damaged; UnsupportedError for a model that transformers does not have.
    """
    path = Path(folder)
    config = read_config(path)
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    made = model_class(named, str(path / "config.json"))
    found: Shapes = {name: item.shape for name, item in scan(path).slices().items()}
    with _quietly(), told_of(path):
        with torch.device("meta"):
            built = made(made.config_class.from_pretrained(path))
        lacking = _difference(built, found)
        if lacking is None:
            model, told = made.from_pretrained(path, dtype=dtype, local_files_only=True, output_loading_info=True)
            odd = sorted(map(str, told["missing_keys"])) + sorted(map(str, told["mismatched_keys"]))
            lacking = f"lacks {odd[0]}" if odd else None
    if lacking is not None:
        raise BadInputError(lacking, where=str(path), hint="config.json is another model's, or weights are lost")
    return model.eval()


def _difference(model: Any, found: Shapes) -> str | None:
    """The first way in which a file's tensors are not those that the model, built without weights, asks for."""
    prefix = f"{model.base_model_prefix}."
    given = {_plain(name, prefix): (name, shape) for name, shape in found.items()}
    family = FAMILIES.get(model.config.model_type)
    for name, tensor in model.state_dict().items():
        if name in model.all_tied_weights_keys:
            continue
        wanted = {name: tuple(tensor.shape)}
        if family is not None and _plain(name, prefix) not in given:
            wanted = expert_names(family, name, wanted[name])
        for each, shape in wanted.items():
            there = given.get(_plain(each, prefix))
            if there is None:
                return f"lacks {each}"
            if there[1] != shape:
                return f"{there[0]} has the shape {list(there[1])}, the configuration says {list(shape)}"
    return None


def _plain(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )  # fmt: skip


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Whatever transformers raises is told as one line about the folder."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise BadInputError(f"cannot be loaded: {type(error).__name__}: {lines[0][:200]}", where=str(path)) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and reports: what they say is said in one line."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
