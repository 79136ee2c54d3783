"""From a configuration and a row of the family table to the parts of a checkpoint: names, shapes and ``arch``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import MOST_LAYERS, Fields
from quiltwork.zoo.families import FAMILIES, Family
from quiltwork.zoo.formats.weights import Slice
from quiltwork.zoo.rope import normalise

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
}
_MUST_BE_UNSET = (
    "quantization_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_softcapping",
    "attn_logit_scale",
    "logit_scale",
    "logits_scaling",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "query_pre_attn_scalar",
    "attention_chunk_size",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "is_encoder_decoder",
    "gguf_rope_freqs",
)
"""Fields that change the maths of some model or other and are never implemented here."""


@dataclass(frozen=True)
class Wanted:
    """A tensor that a part needs: its name in the checkpoint and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PartPlan:
    """One part as the configuration describes it; ``tensors`` by role (``q_proj.weight``)."""

    name: str
    kind: str
    arch: Mapping[str, Json]
    tensors: Mapping[str, Wanted]


@dataclass(frozen=True)
class Plan:
    """A whole model as its configuration describes it."""

    family: Family
    parts: tuple[PartPlan, ...]
    modules: Mapping[str, tuple[str, str]]
    """Full module path -> (part, role), as adapters name their targets."""
    unservable: tuple[str, ...]


def family_of(config: Mapping[str, Json]) -> tuple[Family | None, str]:
    """The row that a configuration belongs to, or None and the reason why it has none."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        return None, f"config.json: model_type {str(kind)[:60]!r} is not a family that can be served"
    named = config.get("architectures")
    if isinstance(named, list) and named and family.architecture not in named:
        return None, f"config.json: architectures {str(named[0])[:60]!r} is not served, only {family.architecture}"
    if config.get("quantization_config"):
        return None, "config.json: quantization_config is not implemented"
    return family, ""


def make_plan(family: Family, values: Mapping[str, Json], *, where: str = "config.json") -> Plan:
    """What the checkpoint of a configuration holds. Nothing of the sizes given is allocated.

    Raises BadInputError naming the field where a value is missing its meaning (negative, absurd, of the wrong type).
    """
    config = Fields(values, family.defaults, where)
    unservable = [f"{where}: {key} is not implemented" for key in _MUST_BE_UNSET if values.get(key)]
    for key, value in family.must_be.items():
        if config.get(key) not in (value, None):
            unservable.append(f"{where}: {key} = {config.get(key)} is not implemented")

    def field(word: str) -> str:
        return family.renamed.get(word, word)

    d, vocab = config.size(field("hidden_size")), config.size(field("vocab_size"))
    layers = config.size(field("num_hidden_layers"), MOST_LAYERS)
    heads = config.size(field("num_attention_heads"))
    kv_heads = config.optional_size("num_key_value_heads") or heads
    head_dim = config.optional_size("head_dim") or d // heads
    inner = config.optional_size(field("intermediate_size")) or 4 * d
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"{heads} heads cannot share {kv_heads} key-value heads")
    if head_dim < 1 or (family.layout == "conv1d" and d % heads):
        raise config.error(field("num_attention_heads"), f"{heads} heads do not divide a width of {d}")
    eps = config.number(field("norm_eps") if "norm_eps" in family.renamed else "rms_norm_eps")
    rope: dict[str, Json] | None = None
    if family.rope:
        rope, problems = normalise(config)
        unservable += problems
        if head_dim % 2:
            raise config.error("head_dim", f"{head_dim} is odd: rotary embedding needs pairs")
    written = config.text(field("hidden_act"))
    activation = _ACTIVATIONS.get(written, written)
    if written not in _ACTIVATIONS:
        unservable.append(f"{where}: {field('hidden_act')} = {written[:40]!r} is not implemented")
    biases = family.biases(config)
    paths = {target: path for path, target in family.modules.items()}
    positions = 0 if family.rope else config.size(field("max_position_embeddings"))

    def tensors(part: str, matrices: Mapping[str, tuple[int, int]], norms: Mapping[str, int]) -> dict[str, Wanted]:
        """Roles of a part from (out, in) of its matrices and the widths of its norms."""
        layer = part.split(".")[1] if part.startswith("layers.") else ""
        general = part.replace(layer, "{i}", 1) if layer else part
        found: dict[str, Wanted] = {}
        for role, width in norms.items():
            path = paths[f"{general}/{role}"].replace("{i}", layer)
            found[f"{role}.weight"] = Wanted(f"{path}.weight", (width,))
            if family.norm == "layer":
                found[f"{role}.bias"] = Wanted(f"{path}.bias", (width,))
        for role, (out, into) in matrices.items():
            path = paths[f"{general}/{role}"].replace("{i}", layer)
            flipped = family.layout == "conv1d" and role.endswith("_proj")
            found[f"{role}.weight"] = Wanted(f"{path}.weight", (into, out) if flipped else (out, into))
            if role in biases:
                found[f"{role}.bias"] = Wanted(f"{path}.bias", (out,))
        return found

    common = {"hidden_size": d, "norm": family.norm, "norm_eps": eps}
    q, kv = heads * head_dim, kv_heads * head_dim
    fused = any(target.endswith("/qkv_proj") for target in family.modules.values())
    projections = {"qkv_proj": (q + 2 * kv, d)} if fused else {"q_proj": (q, d), "k_proj": (kv, d), "v_proj": (kv, d)}
    qk_norms = {"q_norm": head_dim, "k_norm": head_dim} if family.qk_norm else {}
    ffn = {"up_proj": (inner, d), "down_proj": (d, inner)} | ({"gate_proj": (inner, d)} if family.gated else {})
    attention_bias = any(role in biases for role in (*projections, "o_proj"))
    tables = {"tokens": (vocab, d)} | ({"positions": (positions, d)} if positions else {})
    parts = [
        PartPlan(
            "embed",
            "embed",
            {"hidden_size": d, "vocab_size": vocab, "max_positions": positions},
            tensors("embed", tables, {}),
        )
    ]
    for i in range(layers):
        attention = common | {
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim,
            "rope": rope,
            "qk_norm": family.qk_norm,
            "sliding_window": family.window(config, i),
            "layout": family.layout,
            "bias": attention_bias,
        }
        forward = common | {
            "intermediate_size": inner,
            "activation": activation,
            "gated": family.gated,
            "layout": family.layout,
            "bias": any(role in biases for role in ffn),
        }
        name = f"layers.{i}"
        matrices = {**projections, "o_proj": (d, q)}
        parts.append(
            PartPlan(f"{name}.attn", "attn", attention, tensors(f"{name}.attn", matrices, {"norm": d, **qk_norms}))
        )
        parts.append(PartPlan(f"{name}.ffn", "ffn", forward, tensors(f"{name}.ffn", ffn, {"norm": d})))
    types = config.get("layer_types")
    implied = ["full_attention" if family.window(config, i) is None else "sliding_attention" for i in range(layers)]
    if types is not None and types != implied:
        unservable.append(f"{where}: layer_types is not implemented for {family.name}")
    head = tensors("head", {"lm_head": (vocab, d)}, {"norm": d})
    parts.append(PartPlan("head", "head", common | {"vocab_size": vocab}, head))
    return Plan(family, tuple(parts), _modules(family, layers), tuple(unservable))


def _modules(family: Family, layers: int) -> dict[str, tuple[str, str]]:
    found = {}
    for path, target in family.modules.items():
        for i in map(str, range(layers)) if "{i}" in path else ("",):
            part, role = target.replace("{i}", i).split("/")
            found[path.replace("{i}", i)] = (part, role)
    return found


@dataclass(frozen=True)
class Fitted:
    """A plan matched to a checkpoint: the checkpoint's own name of every tensor, by part and role."""

    names: Mapping[tuple[str, str], str]
    buffers: tuple[str, ...]
    """Tensors that no maths reads."""
    notes: tuple[str, ...]


def fit(plan: Plan, tensors: Mapping[str, Slice], config: Mapping[str, Json], *, where: str) -> Fitted:
    """Find every tensor of the plan in the checkpoint.

    Raises BadInputError naming the tensor that is missing, has another shape, or has no place in this family.
    """
    family = plan.family
    bare = _is_bare(family, tensors)
    names: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    missing: list[tuple[PartPlan, str, str]] = []
    for part in plan.parts:
        for role, wanted in part.tensors.items():
            name = wanted.name.removeprefix(family.prefix) if bare else wanted.name
            if name in tensors:
                names[part.name, role] = name
            else:
                missing.append((part, role, name))
    tied = bool(config.get("tie_word_embeddings", family.defaults["tie_word_embeddings"]))
    ends = (("embed", "tokens.weight"), ("head", "lm_head.weight"))
    for part, role, name in missing:
        other = ends[1] if (part.name, role) == ends[0] else ends[0]
        if tied and (part.name, role) in ends and other in names:
            names[part.name, role] = names[other]
        else:
            raise BadInputError("this tensor is missing", where=f"{where}: {name}")
    if tied and names[ends[0]] != names[ends[1]]:
        notes.append("tie_word_embeddings is set, yet both tensors are in the checkpoint: each is used as it stands")
    for part in plan.parts:
        for role, wanted in part.tensors.items():
            item = tensors[names[part.name, role]]
            if item.shape != wanted.shape:
                raise BadInputError(
                    f"has shape {list(item.shape)}, the configuration asks for {list(wanted.shape)}",
                    where=f"{where}: {item.name}",
                )
            if item.dtype not in _FLOATS:
                raise BadInputError(
                    f"has dtype {item.dtype}, not a float of this family", where=f"{where}: {item.name}"
                )
    used = set(names.values())
    buffers = [name for name in tensors if name not in used and family.is_buffer(name)]
    extra = [name for name in tensors if name not in used and not family.is_buffer(name)]
    if extra:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise BadInputError(
            f"has no place in a {family.name} of this configuration{more}", where=f"{where}: {extra[0]}"
        )
    return Fitted(names, tuple(buffers), tuple(notes))


_FLOATS = ("F64", "F32", "F16", "BF16")


def _is_bare(family: Family, tensors: Iterable[str]) -> bool:
    return not any(name.startswith(family.prefix) for name in tensors)


def group_unknown(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of an unknown family's tensors by where they stand: one group per numbered layer, else per first word."""
    groups: dict[str, list[str]] = {}
    for name in tensors:
        layer = re.match(r"(.+?\.\d+)\.", name)
        groups.setdefault(layer[1] if layer else name.split(".")[0], []).append(name)
    return groups
