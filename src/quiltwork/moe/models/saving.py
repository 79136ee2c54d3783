"""A trained model as a folder: a decoder as Mixtral's checkpoints are, whatever else under its own names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from quiltwork.core.servable import Json
from quiltwork.moe.gate import Gate
from quiltwork.moe.gate_settings import FIELD, gates_document
from quiltwork.moe.models.build import Model, moe_layers
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.mixtral import mixtral_state

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OWN = "quiltwork_moe"
"""``model_type`` of what is no Mixtral."""


def save_model(
    folder: Path, model: Model, task: str, gates: Sequence[Gate | None], *, classes: Sequence[str] = (),
    settings: Mapping[str, Json] | None = None,
) -> None:  # fmt: skip
    """Write ``model.safetensors`` and ``config.json``.

    gates : as its layers have them at the end, None for a dense one. settings : what was asked of them at first.
    """
    own: dict[str, Json] = gates_document({at: gate for at, gate in enumerate(gates) if gate is not None})
    own |= {"task": task, "shape": asdict(model.shape), "classes": list(classes), "settings": dict(settings or {})}
    if isinstance(model, Decoder) and _as_mixtral(model):
        state, config = mixtral_state(model)
    else:
        state, config = dict(model.state_dict()), {"model_type": OWN}
    tensors: dict[str, Tensor] = {name: one.detach().cpu().contiguous().clone() for name, one in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({**config, FIELD: own}, indent=2) + "\n", encoding="utf-8")


def _as_mixtral(model: Decoder) -> bool:
    """Whether every layer has experts, and its router knows these alone."""
    layers = moe_layers(model)
    return len(layers) == model.shape.layers and all(len(one.router) == one.experts.count for one in layers)
