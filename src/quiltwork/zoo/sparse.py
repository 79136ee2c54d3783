"""Feed-forward layers that are mixtures of experts: which they are, what they are made of, and how their gate decides.

The gate of a layer is ``arch`` of its block: ``most`` experts at most, and a ``threshold`` for all but the first, on
the gap to the first one's probability (``quiltwork_moe`` in config.json, which a model of a fixed number lacks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields, read_json

MOST_EXPERTS = 4096
CALIBRATION = "moe_calibration.json"
"""The file beside config.json that may hold gates too, as ``quiltwork moe calibrate`` writes it; they are preferred."""
EXPERTS_FIELDS = ("num_experts", "num_local_experts")
"""How many experts a layer has: transformers takes one for the other, and writes either."""
SETTINGS = "quiltwork_moe"
"""``{"gates": {"0": {"gate": "Adaptive", "threshold": 0.1, "most": 2}}}``, by the index of the layer."""
READINGS = ("softmax", "pair")
WEIGHTS = ("sum_to_one", "raw")


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
    own = _of_layer(sparse, config, layer)
    if own is None:
        return trained, ""
    gate = Fields(own, _DEFAULTS, f"{config.where}: {SETTINGS}: gates: {layer}")
    kind = gate.text("gate")
    if kind not in _SERVED:
        return trained, f"{config.where}: {SETTINGS}: the gate {kind[:40]!r} is not served"
    if unknown := sorted(own.keys() - _SERVED[kind]):
        raise gate.error(unknown[0][:40], f"{kind} has no such setting")
    weights = _one_of(gate, "weights", WEIGHTS, trained.weights)
    if kind == "TopK":
        k = gate.size("k", MOST_EXPERTS)
        if k > experts:
            raise gate.error("k", f"{k} of {experts} experts cannot be taken")
        return GateRule(k, 1.0, False, READINGS[0], weights), ""
    reading = _one_of(gate, "reading", READINGS, READINGS[0])
    most, threshold = min(gate.size("most", MOST_EXPERTS), experts), gate.number("threshold")
    return GateRule(most, min(max(threshold, -1.0), 1.0), True, reading, weights), ""


_SERVED = {"Adaptive": {"gate", "threshold", "most", "reading", "weights"}, "TopK": {"gate", "k", "weights"}}
"""Gates that are served, and what is said of them."""
_DEFAULTS: Mapping[str, Json] = {"threshold": 0.1, "most": 2, "k": 2}


def _of_layer(sparse: Sparse, config: Fields, layer: int) -> dict[str, Json] | None:
    """The settings of one layer's gate. None where nothing is said of the layer."""
    written = config.get(SETTINGS)
    if written is None:
        return None
    gates = written.get("gates") if isinstance(written, dict) else None
    if not isinstance(gates, dict):
        raise config.error(SETTINGS, "there are no gates")
    if unknown := sorted(gates.keys() - {str(one) for one in sparse.layers(config)}):
        raise config.error(f"{SETTINGS}: gates", f"{unknown[0][:40]!r} is no layer of experts")
    own = gates.get(str(layer))
    if own is not None and not isinstance(own, dict):
        raise config.error(f"{SETTINGS}: gates: {layer}", "is no gate")
    return own


def _one_of(gate: Fields, name: str, known: tuple[str, ...], default: str) -> str:
    if name not in gate.values:
        return default
    if (value := gate.values[name]) not in known:
        raise gate.error(name, f"{str(value)[:40]!r} is not one of {', '.join(known)}")
    return str(value)


def with_calibration(config: Mapping[str, Json], folder: Path) -> dict[str, Json]:
    """A configuration with the gates that a calibration beside it found, where there is one.

    Raises BadInputError where its file has none.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return dict(config)
    found, own = read_json(path).get(SETTINGS), config.get(SETTINGS)
    if not isinstance(found, dict) or not isinstance(found.get("gates"), dict):
        raise BadInputError("there are no gates", where=f"{path}: {SETTINGS}", hint="quiltwork moe calibrate writes it")
    return {**config, SETTINGS: {**(own if isinstance(own, dict) else {}), "gates": found["gates"]}}


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
