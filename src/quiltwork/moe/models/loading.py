"""A folder that a training left, as a model again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError
from quiltwork.core.servable import Json
from quiltwork.moe.gate import Gate
from quiltwork.moe.gate_settings import FIELD, gates_of
from quiltwork.moe.models.build import Model, build_model
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.mixtral import own_state
from quiltwork.moe.models.saving import CONFIG, OWN, WEIGHTS
from quiltwork.moe.models.shape import ModelShape
from quiltwork.zoo.config import LARGEST_SIZE, MOST_LAYERS, Fields, read_json
from quiltwork.zoo.sparse import with_calibration

_HINT = "name the OUT of `quiltwork moe train`"
_NUMBERS, _MAY_BE_NONE = ("theta", "eps"), ("experts", "classes")
"""Of a ``ModelShape``."""


@dataclass(frozen=True)
class Trained:
    """What a training's folder holds, its tokenizer aside."""

    model: Model
    task: str
    gates: tuple[Gate | None, ...]
    """Of its layers: what a controller or a calibration came to is in them. None for a dense one."""
    classes: tuple[str, ...]


def load_trained(folder: Path, device: torch.device | None = None) -> Trained:
    """Read what ``save_model`` wrote.

    Raises NotFoundError where there is no such folder, BadInputError or CorruptionError naming the file.
    """
    if not folder.is_dir():
        raise NotFoundError("there is no such folder", where=str(folder), hint=_HINT)
    path, weights = folder / CONFIG, folder / WEIGHTS
    for one in (path, weights):
        if not one.is_file():
            raise NotFoundError("is missing", where=str(one), hint=_HINT)
    config, where = with_calibration(read_json(path), folder), f"{path}: {FIELD}"
    own: Any = config.get(FIELD)
    if not isinstance(own, dict) or {"task", "shape", "classes"} - set(own):
        raise BadInputError("is not of a model that was trained here", where=where, hint=_HINT)
    if not isinstance(own["task"], str) or not isinstance(own["classes"], list):
        raise BadInputError("has no task, or no classes", where=where)
    shape = _shape(own["shape"], f"{where}: shape")
    gates = _gates(own, shape, where)
    try:
        model = build_model(own["task"], shape, gates, 0, device)
    except (BadInputError, RuntimeError) as error:
        what = str(error).splitlines()[0][:120]
        raise BadInputError(f"does not describe a model: {what}", where=where) from error
    _fill(model, weights, config.get("model_type") != OWN)
    return Trained(model.eval(), own["task"], gates, tuple(map(str, own["classes"])))


def _shape(told: Json, where: str) -> ModelShape:
    names = [one.name for one in fields(ModelShape)]
    if not isinstance(told, dict) or set(told) != set(names):
        raise BadInputError(f"must have {', '.join(names)}", where=where)
    it, found = Fields(told, {}, where), dict[str, Any]()
    for name in names:
        if name in _NUMBERS:
            found[name] = it.number(name)
        else:
            none = name in _MAY_BE_NONE and told[name] == 0
            found[name] = 0 if none else it.size(name, MOST_LAYERS if name == "layers" else LARGEST_SIZE)
    return ModelShape(**found)


def _gates(own: Mapping[str, Json], shape: ModelShape, where: str) -> tuple[Gate | None, ...]:
    """One for each layer if there are experts, else none."""
    found = gates_of(own, where)
    wanted = set(range(shape.layers)) if shape.experts else set[int]()
    if odd := sorted(wanted ^ set(found)):
        what = "has no gate" if odd[0] in wanted else "is no layer of experts"
        raise BadInputError(f"layer {odd[0]} {what}", where=f"{where}: gates")
    return tuple(found.get(at) for at in range(shape.layers))


def _fill(model: Model, path: Path, as_mixtral: bool) -> None:
    """Weights, whether under their own names or Mixtral's."""
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        what = str(error).splitlines()[0][:120]
        raise CorruptionError(f"is no whole file of weights: {what}", where=str(path)) from error
    try:
        if isinstance(model, Decoder) and as_mixtral:
            found = own_state(found, model.shape)
    except KeyError as error:
        raise BadInputError("is missing", where=f"{path}: {error.args[0]}") from error
    except RuntimeError as error:
        raise BadInputError("has experts of different shapes", where=str(path)) from error
    wanted = model.state_dict()
    for name in sorted(found.keys() ^ wanted.keys()):
        raise BadInputError("is missing" if name in wanted else "is not of this model", where=f"{path}: {name}")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            what = f"is {list(found[name].shape)}, not {list(tensor.shape)}"
            raise BadInputError(what, where=f"{path}: {name}")
    model.load_state_dict(found)
