"""Saving a sparse transformers model: in Mixtral's format where that can express it, else in its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.moe.checkpoints.expert_names import own_names, split_experts
from quiltwork.moe.checkpoints.fresh_folder import fresh_folder
from quiltwork.moe.checkpoints.mixtral_folder import why_not_mixtral, write_mixtral, write_tensors
from quiltwork.moe.checkpoints.sparse_block import SparseBlock, sparse_blocks
from quiltwork.moe.checkpoints.sparse_families import FAMILIES, SparseFamily
from quiltwork.moe.gate_settings import FIELD, gates_document
from quiltwork.zoo.checkpoint import TOKENIZER_FILES

OWN = "quiltwork_moe"
"""``model_type`` of our own format: one that transformers refuses instead of loading half of it."""
FORMATS = ("auto", "mixtral", "own")
_LIKE_MIXTRAL = {"llama": "Llama", "mistral": "Mistral"}
"""Dense families that differ from Mixtral in their feed-forward layers alone, and how their classes begin."""


@dataclass(frozen=True)
class Saved:
    """How a model was saved."""

    format: str
    """``mixtral``, ``own``, or the ``model_type`` of an adopted model."""
    reason: str | None = None
    """Why it is not ``mixtral``, where that was looked at."""


def save_moe(
    model: Any, folder: str | os.PathLike[str], *, format: str = "auto",
    tokenizer: str | os.PathLike[str] | None = None,
) -> Saved:  # fmt: skip
    """Write an upcycled or adopted model to a folder that ``load_moe`` reads, its gates with it.

    An adopted model is written in its own family's format, an upcycled one as a Mixtral that transformers loads. What
    Mixtral cannot express (biases, layers that are not gated or not sparse, null experts, raw weights) is written in
    our own format: transformers' names, and each expert's tensors by themselves.

    Parameters
    ----------
    format : ``mixtral`` refuses what Mixtral cannot express, ``own`` writes any upcycled model in our own format.
    tokenizer : a folder whose tokenizer is written as well.

    Raises UnsupportedError, ConflictError where the folder is in use, CapacityError where the disk is full.
    """
    if format not in FORMATS:
        raise BadInputError(f"{format!r} is no format", where="format", hint=", ".join(FORMATS))
    blocks = sparse_blocks(model)
    family, reason = FAMILIES.get(model.config.model_type), None
    if family is not None and format == "own":
        raise UnsupportedError("is written in its own family's format", where=model.config.model_type)
    if family is None or format == "mixtral":
        reason = _why_not(model, blocks)
    if format == "mixtral" and reason is not None:
        raise UnsupportedError(reason, where="Mixtral's format", hint="the format 'own' takes it")
    with fresh_folder(Path(folder)) as fresh:
        if family is not None:
            saved = Saved(model.config.model_type)
            _write_family(model, blocks, family, fresh)
        elif reason is None and format != "own":
            saved = Saved("mixtral")
            _write_as_mixtral(model, blocks, fresh)
        else:
            saved = Saved(OWN, reason)
            _write_own(model, blocks, fresh)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(fresh)
        for name in TOKENIZER_FILES if tokenizer is not None else ():
            if (there := Path(tokenizer or ".") / name).is_file():
                shutil.copyfile(there, fresh / name)
    return saved


def _why_not(model: Any, blocks: Mapping[int, SparseBlock]) -> str | None:
    config = model.config
    if config.model_type == "mixtral":
        return None
    if config.model_type not in _LIKE_MIXTRAL:
        return f"the family {config.model_type} is not like Mixtral"
    if getattr(config, "attention_bias", False):
        return "the attention has biases, and Mixtral's has none"
    if _architecture(model) is None:
        return f"Mixtral has no {type(model).__name__.removeprefix(_LIKE_MIXTRAL[config.model_type])}"
    return why_not_mixtral({index: block.layer for index, block in blocks.items()}, config.num_hidden_layers)


def _architecture(model: Any) -> str | None:
    import transformers

    head = type(model).__name__.removeprefix(_LIKE_MIXTRAL[model.config.model_type])
    return f"Mixtral{head}" if hasattr(transformers, f"Mixtral{head}") else None


def _rest(model: Any) -> dict[str, Tensor]:
    """All tensors but the sparse blocks' layers and those that are tied to another."""
    inside = tuple(f"{name}.layer." for name, module in model.named_modules() if isinstance(module, SparseBlock))
    tied = model.all_tied_weights_keys
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(inside) and name not in tied}


def _write_as_mixtral(model: Any, blocks: Mapping[int, SparseBlock], folder: Path) -> None:
    from transformers import MixtralConfig

    known = MixtralConfig().to_dict()
    config = {name: value for name, value in model.config.to_dict().items() if name in known}
    layers = {index: block.layer for index, block in blocks.items()}
    write_mixtral(folder, config, layers, _rest(model), str(_architecture(model)))


def _write_family(model: Any, blocks: Mapping[int, SparseBlock], family: SparseFamily, folder: Path) -> None:
    tensors = _rest(model)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    for index, block in blocks.items():
        at, layer = f"{prefix}layers.{index}.{family.folder}", block.layer
        tensors[f"{at}.gate.weight"] = layer.router
        tensors |= {f"{at}.{name}": tensor for name, tensor in split_experts(layer.experts, family).items()}
        if layer.shared is not None:
            tensors |= {
                f"{at}.shared_expert{'_gate' if name.startswith('gate') else ''}.{name.partition('.')[2]}": tensor
                for name, tensor in layer.shared.state_dict().items()
            }
    document = _config(model, blocks)
    _write_json(folder, document)
    write_tensors(folder / "model.safetensors", tensors)


def _write_own(model: Any, blocks: Mapping[int, SparseBlock], folder: Path) -> None:
    tensors = _rest(model)
    for name, module in model.named_modules():
        if isinstance(module, SparseBlock):
            tensors[f"{name}.router.weight"] = module.layer.router
            tensors |= {f"{name}.{each}": tensor for each, tensor in own_names(module.layer.experts).items()}
    dense = _config(model, {})
    experts = next(iter(blocks.values())).layer.experts.count
    document = _config(model, blocks)[FIELD] | {"experts": experts}
    _write_json(folder, {"model_type": OWN, "architectures": dense["architectures"], "base": dense, FIELD: document})
    write_tensors(folder / "model.safetensors", tensors)


def _config(model: Any, blocks: Mapping[int, SparseBlock]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    config |= {"architectures": [type(model).__name__], "dtype": str(model.dtype).removeprefix("torch.")}
    if blocks:
        config[FIELD] = gates_document({index: block.layer.gate for index, block in blocks.items()})
    return config


def _write_json(folder: Path, document: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
