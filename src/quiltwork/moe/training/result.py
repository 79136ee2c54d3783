"""The folder that a training left, read again: the model as it was, its tokens, its settings, its course."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError
from quiltwork.core.result_folder import REPORT
from quiltwork.core.servable import Json
from quiltwork.moe.control.steering import with_threshold
from quiltwork.moe.models.build import Model, build_model, moe_layers
from quiltwork.moe.models.saving import CONFIG, OWN, WEIGHTS
from quiltwork.moe.models.shape import ModelShape
from quiltwork.moe.training.gating import Gating
from quiltwork.moe.training.settings import TrainingSettings, read_settings
from quiltwork.moe.training.tokens import Codec, read_codec


@dataclass(frozen=True)
class TrainingResult:
    """What ``quiltwork moe train`` left."""

    folder: Path
    model: Model
    settings: TrainingSettings
    codec: Codec
    classes: tuple[str, ...]
    report: Mapping[str, Json]
    """As ``training.json`` has it: curve, test and more."""


def read_result(folder: Path, device: torch.device | None = None) -> TrainingResult:
    """Raises NotFoundError, BadInputError or CorruptionError naming the file."""
    if not folder.is_dir():
        raise NotFoundError("there is no such folder", where=str(folder), hint="the OUT of `quiltwork moe train`")
    report, config = _json(folder / REPORT), _json(folder / CONFIG)
    own, told = config.get(OWN), report.get("settings")
    if not isinstance(own, dict) or not isinstance(told, dict):
        hint = "name the OUT of `quiltwork moe train`"
        raise BadInputError("is not of a model that was trained here", where=str(folder / CONFIG), hint=hint)
    settings = read_settings(told)
    try:
        shape = ModelShape(**own["shape"])
        classes = tuple(str(one) for one in own["classes"])
        thresholds = own["gate"].get("thresholds")
        model = build_model(settings.task, shape, Gating(settings, 0).gates, 0, device)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BadInputError(f"does not describe the model: {error}", where=str(folder / CONFIG)) from error
    _load(model, folder / WEIGHTS)
    _set(model, thresholds, folder / CONFIG)
    return TrainingResult(folder, model.eval(), settings, read_codec(folder), classes, report)


def _json(path: Path) -> dict[str, Json]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError("is missing", where=str(path), hint="name the OUT of `quiltwork moe train`") from None
    except (OSError, ValueError) as error:
        raise BadInputError("is no JSON", where=str(path)) from error
    if not isinstance(found, dict):
        raise BadInputError("is no JSON object", where=str(path))
    return found


def _load(model: Model, path: Path) -> None:
    """Weights, whether under their own names or Mixtral's."""
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise NotFoundError("is missing", where=str(path)) from None
    except (SafetensorError, OSError) as error:
        raise CorruptionError(f"is no whole file of weights: {error}", where=str(path)) from error
    if "model.embed_tokens.weight" in found:
        found = _own_names(found, len(moe_layers(model)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = found.pop(name, None)
            if tensor is None or tensor.shape != parameter.shape:
                what = "is missing" if tensor is None else f"is {list(tensor.shape)}, not {list(parameter.shape)}"
                raise BadInputError(what, where=f"{path}: {name}")
            parameter.copy_(tensor)


def _own_names(found: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """What ``mixtral_state`` gave, as the decoder calls it."""
    own = {name.removeprefix("model."): tensor for name, tensor in found.items() if ".block_sparse_moe." not in name}
    for at in range(layers):
        start, ffn = f"model.layers.{at}.block_sparse_moe", f"layers.{at}.ffn"
        if (router := found.get(f"{start}.gate.weight")) is None:
            continue  # whoever loads it finds it missing
        own[f"{ffn}.router"] = router
        parts = [
            [one for e in range(len(router)) if (one := found.get(f"{start}.experts.{e}.{name}.weight")) is not None]
            for name in ("w1", "w3", "w2")
        ]  # fmt: skip
        if all(len(part) == len(router) for part in parts):
            gate, up, down = (torch.stack(part) for part in parts)
            own[f"{ffn}.experts.up"], own[f"{ffn}.experts.down"] = torch.cat([gate, up], 1), down
    return own


def _set(model: Model, thresholds: Sequence[float] | None, where: Path) -> None:
    """Those that a controller had come to."""
    if thresholds is None:
        return
    layers = moe_layers(model)
    if not isinstance(thresholds, list) or len(thresholds) != len(layers):
        raise BadInputError(f"does not have {len(layers)} thresholds", where=str(where))
    for layer, threshold in zip(layers, thresholds, strict=True):
        layer.gate = with_threshold(layer.gate, float(threshold))
