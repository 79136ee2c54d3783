"""Feed-forward layers that are mixtures of experts: which they are, what they are made of, and how their gate decides.

The gate of a layer is ``arch`` of its block: ``most`` experts at most, and a ``threshold`` for all but the first, on
the gap to the first one's probability (``quiltwork_moe`` in config.json, which a model of a fixed number lacks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields

MOST_EXPERTS = 4096
CALIBRATION = "moe_calibration.json"
"""The file beside config.json that may hold what ``quiltwork_moe`` says, and is preferred to it."""
EXPERTS_FIELDS = ("num_experts", "num_local_experts")
"""How many experts a layer has: transformers takes one for the other, and writes either."""
SETTINGS = "quiltwork_moe"
READINGS = ("softmax", "pair")
WEIGHTS = ("sum_to_one", "raw")
FIXED = ("top_k", "top1", "top2", "random2")
"""Gates that take a fixed number of experts; random2 does so where nothing is trained."""


@dataclass(frozen=True)
class Sparse:
    """The mixtures of a family. Fields ending in ``_field`` are names of configuration fields."""

    inner_field: str
    """The width inside an expert."""
    block: str
    """Where the layer's router and experts stand in a checkpoint, ``{i}`` for the layer."""
    roles: Mapping[str, str]
    """Our role of an expert's matrix -> its name in a checkpoint."""
    normalised: bool | None
    """Whether the weights of a token's experts sum to one; None where ``norm_topk_prob`` says."""
    shared_field: str | None = None
    """The width inside the expert that all tokens take, where the family has one."""

    def is_sparse(self, config: Fields, layer: int) -> bool:
        """Whether a layer is a mixture. Raises BadInputError naming the field."""
        if config.get("decoder_sparse_step") is not None and (layer + 1) % config.size("decoder_sparse_step"):
            return False
        dense = config.get("mlp_only_layers")
        if dense is not None and (not isinstance(dense, list) or not all(type(one) is int for one in dense)):
            raise config.error("mlp_only_layers", "must be a list of layers")
        return layer not in (dense or ())

    def experts(self, config: Fields) -> int:
        """Experts of a layer, the shared one not counted."""
        written = [name for name in EXPERTS_FIELDS if config.values.get(name) is not None]
        known = [name for name in EXPERTS_FIELDS if config.get(name) is not None]
        return config.size((written or known or EXPERTS_FIELDS)[0], MOST_EXPERTS)

    def layers(self, config: Fields) -> list[int]:
        """The layers that are mixtures."""
        return [layer for layer in range(config.size("num_hidden_layers")) if self.is_sparse(config, layer)]


@dataclass(frozen=True)
class GateRule:
    """How many experts a token of one layer takes, and with which weights."""

    most: int
    threshold: float
    """1 takes ``most`` always."""
    adaptive: bool
    reading: str
    weights: str

    def arch(self) -> dict[str, Json]:
        """As it stands in the ``arch`` of a block."""
        return {
            "gate": "adaptive" if self.adaptive else "top_k",
            "most": self.most,
            "threshold": self.threshold,
            "reading": self.reading,
            "weights": self.weights,
        }


def gate_rule(sparse: Sparse, config: Fields, layer: int) -> tuple[GateRule, str]:
    """The gate of a layer, and why it cannot be served (nothing where it can).

    Raises BadInputError naming the field that says what cannot be meant.
    """
    experts, fixed = sparse.experts(config), config.size("num_experts_per_tok", MOST_EXPERTS)
    if fixed > experts:
        raise config.error("num_experts_per_tok", f"{fixed} of {experts} experts cannot be taken")
    normalised = config.flag("norm_topk_prob") if sparse.normalised is None else sparse.normalised
    trained = GateRule(fixed, 1.0, False, "softmax", WEIGHTS[0] if normalised else WEIGHTS[1])
    written = config.get(SETTINGS)
    if written is None:
        return trained, ""
    if not isinstance(written, dict):
        raise config.error(SETTINGS, "must be an object")
    written = _of_layer(config, written, layer)
    if written is None:
        return trained, ""
    inner = Fields(written, {"gate": "adaptive", "threshold": 1.0, "reading": "softmax"}, f"{config.where}: {SETTINGS}")
    kind = _GATES.get(inner.text("gate"), inner.text("gate"))
    size = "k" if kind == "top_k" and inner.get("k") is not None else "most"
    most = min(2, experts) if inner.get(size) is None else inner.size(size, MOST_EXPERTS)
    if kind in FIXED:
        most = {"top1": 1, "top2": 2, "random2": 2}.get(kind, most)
    if most > experts:
        raise inner.error("most", f"{most} of {experts} experts cannot be taken")
    reading = _one_of(inner, "reading", READINGS, "softmax")
    weights = _one_of(inner, "weights", WEIGHTS, trained.weights)
    if kind in FIXED:
        return GateRule(most, 1.0, False, reading, weights), ""
    if kind != "adaptive":
        return trained, f"{config.where}: {SETTINGS}: the gate {kind[:40]!r} is not served"
    return GateRule(most, _threshold(sparse, config, inner, layer), True, reading, weights), ""


_GATES = {"Adaptive": "adaptive", "TopK": "top_k"}
"""What saved models call the gates that are served."""


def _of_layer(config: Fields, written: Mapping[str, Json], layer: int) -> dict[str, Json] | None:
    """The settings of one layer, from those of all (``gates`` by layer, or ``layers`` with a threshold each).

    None where nothing is said of the layer.
    """
    for name in ("gates", "layers"):
        if name not in written:
            continue
        each = written[name]
        if not isinstance(each, dict) or not each:
            raise config.error(f"{SETTINGS}: {name}", "must be an object with one entry for each layer of experts")
        own = each.get(str(layer))
        if own is None or name == "gates":
            if own is not None and not isinstance(own, dict):
                raise config.error(f"{SETTINGS}: {name}", f"what stands for layer {layer} is no object")
            return own
        shared = {key: written[key] for key in ("most", "reading", "weights") if key in written}
        return {"gate": "adaptive", "threshold": own, **shared}
    return dict(written)


def _one_of(inner: Fields, name: str, known: tuple[str, ...], default: str) -> str:
    value = inner.get(name)
    if value is not None and value not in known:
        raise inner.error(name, f"{str(value)[:40]!r} is not one of {', '.join(known)}")
    return default if value is None else str(value)


def _threshold(sparse: Sparse, config: Fields, inner: Fields, layer: int) -> float:
    """A number for all layers, or a list of one for each mixture, or for each layer."""
    value = inner.get("threshold")
    if isinstance(value, list):
        mixtures = sparse.layers(config)
        if len(value) == len(mixtures):
            value = value[mixtures.index(layer)]
        elif len(value) == config.size("num_hidden_layers"):
            value = value[layer]
        else:
            raise inner.error("threshold", f"has {len(value)} numbers for {len(mixtures)} layers of experts")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise inner.error("threshold", f"must be a number, not {str(value)[:40]}")
    return min(max(float(value), -1.0), 1.0)


def calibrated(config: Mapping[str, Json], calibration: Mapping[str, Json], *, where: str) -> dict[str, Json]:
    """A configuration with the gate that a calibration found: the object itself, or what it has as ``quiltwork_moe``.

    Raises BadInputError where it says nothing of a gate.
    """
    found = calibration.get(SETTINGS, calibration)
    if not isinstance(found, dict) or not found.keys() & {"gate", "gates", "layers", "threshold"}:
        raise BadInputError("has neither a gate nor thresholds", where=where)
    return {**config, SETTINGS: found}


_QWEN_ROLES = {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}
_MLP = "model.layers.{i}.mlp"
MIXTRAL = Sparse(
    inner_field="intermediate_size",
    block="model.layers.{i}.block_sparse_moe",
    roles={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    normalised=True,
)
QWEN = Sparse("intermediate_size", _MLP, _QWEN_ROLES, None)
QWEN_NARROW = replace(QWEN, inner_field="moe_intermediate_size")
QWEN_SHARED = replace(QWEN_NARROW, shared_field="shared_expert_intermediate_size")
