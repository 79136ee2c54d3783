"""Sparse transformers families: what their blocks hold, and what their experts are called on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quiltwork.core.errors import UnsupportedError


@dataclass(frozen=True)
class SparseFamily:
    """A family whose blocks have ``gate.weight`` (E, D), ``experts.gate_up_proj`` and ``experts.down_proj``."""

    block: str
    """Name of the block's class."""
    folder: str
    """Name of the block below its layer, in files."""
    gate: str
    up: str
    down: str
    """Names of an expert's three matrices below ``experts.N.``, in files."""
    normalises: bool | None
    """Whether weights of the chosen experts sum to 1; None where the configuration says it (``norm_topk_prob``)."""


_QWEN = {"folder": "mlp", "gate": "gate_proj.weight", "up": "up_proj.weight", "down": "down_proj.weight"}
MIXTRAL = SparseFamily("MixtralSparseMoeBlock", "block_sparse_moe", "w1.weight", "w3.weight", "w2.weight", True)
FAMILIES: Mapping[str, SparseFamily] = {
    "mixtral": MIXTRAL,
    "qwen2_moe": SparseFamily("Qwen2MoeSparseMoeBlock", **_QWEN, normalises=None),
    "qwen3_moe": SparseFamily("Qwen3MoeSparseMoeBlock", **_QWEN, normalises=None),
    "olmoe": SparseFamily("OlmoeSparseMoeBlock", **_QWEN, normalises=None),
}
"""By ``model_type``."""


def sparse_family(config: Any) -> SparseFamily:
    """The family of a transformers configuration. Raises UnsupportedError."""
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnsupportedError(f"{config.model_type!r} is no sparse family", where="model_type", hint=known)
    return FAMILIES[config.model_type]


def trained_weights(config: Any) -> str:
    """The kind of weights that a model was trained with: ``sum_to_one`` or ``raw``."""
    return weights_of(sparse_family(config), getattr(config, "norm_topk_prob", None))


def weights_of(family: SparseFamily, normalised: object) -> str:
    """The same by a configuration's ``norm_topk_prob``, None where it does not say so."""
    normalises = bool(normalised) if family.normalises is None else family.normalises
    return "sum_to_one" if normalises else "raw"
