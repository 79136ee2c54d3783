"""A folder that a training left, as a model again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError
from quiltwork.core.servable import Json
from quiltwork.moe.models.build import Model, build_model
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.mixtral import own_state
from quiltwork.moe.models.saving import CONFIG, OWN, WEIGHTS
from quiltwork.moe.models.shape import ModelShape
from quiltwork.zoo.config import read_json


@dataclass(frozen=True)
class Trained:
    """What a training's folder holds, its tokenizer aside."""

    model: Model
    task: str
    gate: dict[str, Json]
    """The settings that its gates were made from."""
    classes: tuple[str, ...]


def load_trained(folder: Path) -> Trained:
    """Read what ``save_model`` wrote, with the gates that it was trained with.

    Raises NotFoundError where there is no such folder, BadInputError or CorruptionError naming the file.
    """
    from quiltwork.moe.training.gating import gates_of_saved

    if not folder.is_dir():
        raise NotFoundError("is no folder", where=str(folder))
    config, where = read_json(folder / CONFIG), f"{folder / CONFIG}: {OWN}"
    own: Any = config.get(OWN)
    if not isinstance(own, dict) or {"task", "shape", "gate", "classes"} - set(own):
        raise BadInputError("is not there: no training of this room left this folder", where=where)
    names = {one.name for one in fields(ModelShape)}
    if not isinstance(own["shape"], dict) or set(own["shape"]) != names:
        raise BadInputError(f"must have {', '.join(sorted(names))}", where=f"{where}: shape")
    shape = ModelShape(**own["shape"])
    model = build_model(own["task"], shape, gates_of_saved(own["gate"], shape.layers), 0)
    try:
        found: dict[str, Tensor] = load_file(folder / WEIGHTS)
        if isinstance(model, Decoder) and config.get("model_type") != OWN:
            found = own_state(found, shape)
        model.load_state_dict(found)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        what = str(error).splitlines()[0][:120]
        raise CorruptionError(f"does not fit its config: {what}", where=str(folder / WEIGHTS)) from error
    return Trained(model.eval(), own["task"], own["gate"], tuple(own["classes"]))
