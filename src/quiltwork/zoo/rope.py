"""Rotary position embedding: one spelling for the ways that checkpoints write it down."""

from __future__ import annotations

from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields

_PARAMETERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
    "yarn": (("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")),
}
"""Per type: the parameters it must have and those it may have, all numbers, under transformers' names."""

_NEEDS_ORIGINAL = ("llama3", "yarn")
_KNOWN_KEYS = {
    "type",
    "rope_type",
    "rope_theta",
    "original_max_position_embeddings",
    "truncate",
    "partial_rotary_factor",
}


def normalise(config: Fields) -> tuple[dict[str, Json], list[str]]:
    """``rope`` of docs/blocks.md from ``rope_parameters``, or from ``rope_scaling`` beside ``rope_theta``, and why it
    cannot be served (one line per field; empty where it can).

    As in transformers, ``rope_scaling`` is preferred where both are given, a theta inside the object to one beside it.
    Raises BadInputError naming the field where a value is malformed.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    written = config.get(name) or {}
    if not isinstance(written, dict):
        raise config.error(name, "must be an object")
    outside = {key: config.get(key) for key in ("rope_theta", "partial_rotary_factor")}
    inner = Fields(written, outside, f"{config.where}: {name}")
    kind = written.get("rope_type", written.get("type", "default"))
    rope: dict[str, Json] = {"type": kind, "max_position_embeddings": config.size("max_position_embeddings")}
    if any(isinstance(value, dict) for value in written.values()):
        return rope, [f"{config.where}: {name}: a rotary embedding per layer type is not implemented"]
    rope["theta"] = inner.number("rope_theta")
    if rope["theta"] <= 0:
        raise inner.error("rope_theta", "must be positive")
    if kind not in _PARAMETERS:
        return rope, [f"{config.where}: {name}: rope type {kind!r} is not implemented"]
    required, optional = _PARAMETERS[kind]
    for key in required:
        rope[key] = inner.number(key)
    for key in optional:
        if inner.get(key) is not None:
            rope[key] = inner.number(key)
    if kind == "yarn" and inner.get("truncate") is not None:
        rope["truncate"] = inner.flag("truncate")
    if kind in _NEEDS_ORIGINAL:
        holder = config if config.get("original_max_position_embeddings") is not None else inner
        given = holder.get("original_max_position_embeddings") is not None
        rope["original_max_position_embeddings"] = (
            holder.size("original_max_position_embeddings") if given else rope["max_position_embeddings"]
        )
    problems = []
    if inner.get("partial_rotary_factor") not in (None, 1, 1.0):
        problems.append(f"{config.where}: {name}: partial_rotary_factor is not implemented")
    if "factor" in rope and rope["factor"] <= 0:
        raise inner.error("factor", "must be positive")
    unknown = set(written) - _KNOWN_KEYS - set(required) - set(optional)
    problems += [f"{config.where}: {name}: {key} is not implemented for {kind!r}" for key in sorted(unknown)]
    return rope, problems
