"""From a configuration and a row of the family table to the parts of a checkpoint: names, shapes and ``arch``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import MOST_LAYERS, Fields
from quiltwork.zoo.families import FAMILIES, Family
from quiltwork.zoo.formats.weights import Slice
from quiltwork.zoo.rope import normalise
from quiltwork.zoo.sparse import EXPERTS_FIELDS, GateRule, gate_rule

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


_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")


@dataclass(frozen=True)
class Wanted:
    """A tensor that a part needs: its name in the checkpoint and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PartPlan:
    """One part as the configuration describes it; ``tensors`` by role (``q_proj.weight``)."""

    name: str
    """Of one inside another: that one's name and its own behind a dot (``layers.3.ffn.experts.0``)."""
    kind: str
    arch: Mapping[str, Json]
    tensors: Mapping[str, Wanted]
    children: tuple[PartPlan, ...] = ()

    def walk(self) -> Iterator[PartPlan]:
        """It and all inside it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Plan:
    """A whole model as its configuration describes it."""

    family: Family
    parts: tuple[PartPlan, ...]
    modules: Mapping[str, tuple[str, str]]
    """Full module path -> (part, role), as adapters name their targets."""
    unservable: tuple[str, ...]

    def walk(self) -> Iterator[PartPlan]:
        """All parts, and all inside them."""
        for part in self.parts:
            yield from part.walk()


def family_of(config: Mapping[str, Json]) -> tuple[Family | None, str]:
    """The row that a configuration belongs to. None where it has none, and why nobody can serve it; nothing where it is
    of a family that the table does not know: whether that is served is for the Servables to say."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        return None, f"config.json: model_type {str(kind)[:60]!r} is not the name of a family"
    family = FAMILIES.get(kind)
    if family is None:
        return None, ""
    named = config.get("architectures")
    if isinstance(named, list) and named and family.architecture not in named:
        return None, f"config.json: architectures {str(named[0])[:60]!r} is not served, only {family.architecture}"
    if config.get("quantization_config"):
        return None, "config.json: quantization_config is not implemented"
    return family, ""


@dataclass(frozen=True)
class _Described:
    """A configuration read: everything its parts are made from."""

    family: Family
    config: Fields
    width: int
    vocab: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    positions: int
    """Rows of the learned position table; 0 for rotary embedding."""
    activation: str
    rope: Mapping[str, Json] | None
    biases: frozenset[str]
    common: Mapping[str, Json]
    """``arch`` keys of everything with a norm."""

    def tensors(
        self, part: str, matrices: Mapping[str, tuple[int, int]], norms: Mapping[str, int]
    ) -> dict[str, Wanted]:
        """Roles of a part from (out, in) of its matrices and the widths of its norms."""
        layer = part.split(".")[1] if part.startswith("layers.") else ""
        general = part.replace(layer, "{i}", 1) if layer else part
        paths = {target: path.replace("{i}", layer) for path, target in self.family.modules.items()}
        found: dict[str, Wanted] = {}
        for role, width in norms.items():
            path = paths[f"{general}/{role}"]
            found[f"{role}.weight"] = Wanted(f"{path}.weight", (width,))
            if self.family.norm == "layer":
                found[f"{role}.bias"] = Wanted(f"{path}.bias", (width,))
        for role, (out, into) in matrices.items():
            path = paths[f"{general}/{role}"]
            flipped = self.family.layout == "conv1d" and role.endswith("_proj")
            found[f"{role}.weight"] = Wanted(f"{path}.weight", (into, out) if flipped else (out, into))
            if role in self.biases:
                found[f"{role}.bias"] = Wanted(f"{path}.bias", (out,))
        return found

    def embed(self) -> PartPlan:
        """The embedding, with its learned positions where it has them."""
        tables = {"tokens": (self.vocab, self.width)}
        if self.positions:
            tables["positions"] = (self.positions, self.width)
        arch = {"hidden_size": self.width, "vocab_size": self.vocab, "max_positions": self.positions}
        return PartPlan("embed", "embed", arch, self.tensors("embed", tables, {}))

    def attention(self, layer: int) -> PartPlan:
        """A layer's attention and the norm before it."""
        d, q, kv = self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        fused = any(target.endswith("/qkv_proj") for target in self.family.modules.values())
        matrices = {"qkv_proj": (q + 2 * kv, d)} if fused else {"q_proj": (q, d), "k_proj": (kv, d), "v_proj": (kv, d)}
        matrices["o_proj"] = (d, q)
        normed = (q, kv) if self.family.qk_norm == "width" else (self.head_dim, self.head_dim)
        norms = {"norm": d} | (dict(zip(("q_norm", "k_norm"), normed, strict=True)) if self.family.qk_norm else {})
        arch = {
            **self.common,
            "num_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rope": self.rope,
            "qk_norm": self.family.qk_norm,
            "sliding_window": self.family.window(self.config, layer),
            "layout": self.family.layout,
            "bias": any(role in self.biases for role in matrices),
        }
        name = f"layers.{layer}.attn"
        return PartPlan(name, "attn", arch, self.tensors(name, matrices, norms))

    def feed_forward(self, layer: int) -> PartPlan:
        """A layer's feed-forward network and the norm before it."""
        d, inner, gated = self.width, self.inner, self.family.gated
        matrices = {"up_proj": (inner, d), "down_proj": (d, inner)} | ({"gate_proj": (inner, d)} if gated else {})
        arch = {
            **self.common,
            "intermediate_size": inner,
            "activation": self.activation,
            "gated": gated,
            "layout": self.family.layout,
            "bias": any(role in self.biases for role in matrices),
        }
        name = f"layers.{layer}.ffn"
        return PartPlan(name, "ffn", arch, self.tensors(name, matrices, {"norm": d}))

    def mixture(self, layer: int, rule: GateRule) -> PartPlan:
        """A layer's experts, each a part of its own, with their router and the norm before it."""
        sparse, d, part = self.family.sparse, self.width, f"layers.{layer}.ffn"
        assert sparse is not None
        count, inner = sparse.experts(self.config), self.config.size(sparse.inner_field)
        block = sparse.block.replace("{i}", str(layer))
        children = [
            self.expert(f"{part}.experts.{i}", f"{block}.experts.{i}", inner, sparse.roles) for i in range(count)
        ]
        tensors = self.tensors(part, {}, {"norm": d}) | {"router.weight": Wanted(f"{block}.gate.weight", (count, d))}
        if sparse.shared_field is not None:
            wide = self.config.size(sparse.shared_field)
            children.append(self.expert(f"{part}.shared", f"{block}.shared_expert", wide, sparse.roles))
            tensors["shared_gate.weight"] = Wanted(f"{block}.shared_expert_gate.weight", (1, d))
        arch = {**self.common, "num_experts": count, "shared": sparse.shared_field is not None, **rule.arch()}
        return PartPlan(part, "moe", arch, tensors, tuple(children))

    def expert(self, name: str, path: str, inner: int, roles: Mapping[str, str]) -> PartPlan:
        """One expert, which stands at ``path`` in the checkpoint."""
        shapes = {"gate_proj": (inner, self.width), "up_proj": (inner, self.width), "down_proj": (self.width, inner)}
        arch = {
            "hidden_size": self.width,
            "intermediate_size": inner,
            "activation": self.activation,
            "gated": True,
            "layout": "linear",
            "bias": False,
        }
        found = {f"{role}.weight": Wanted(f"{path}.{roles[role]}.weight", shape) for role, shape in shapes.items()}
        return PartPlan(name, "expert", arch, found)

    def head(self) -> PartPlan:
        """The last norm and the output matrix."""
        tensors = self.tensors("head", {"lm_head": (self.vocab, self.width)}, {"norm": self.width})
        return PartPlan("head", "head", {**self.common, "vocab_size": self.vocab}, tensors)


def make_plan(family: Family, values: Mapping[str, Json], *, where: str = "config.json") -> Plan:
    """What the checkpoint of a configuration holds. Nothing of the sizes given is allocated.

    Raises BadInputError naming the field where a value cannot be meant (negative, absurd, of the wrong type).
    """
    config = Fields(values, family.defaults, where)
    rope, unservable = normalise(config) if family.rope else (None, [])
    model = _describe(family, config, rope)
    parts = [model.embed()]
    sparse, mixtures = family.sparse, []
    for layer in range(model.layers):
        parts.append(model.attention(layer))
        if sparse is None or not sparse.is_sparse(config, layer):
            parts.append(model.feed_forward(layer))
            continue
        rule, problem = gate_rule(sparse, config, layer)
        parts.append(model.mixture(layer, rule))
        mixtures.append(layer)
        if problem and problem not in unservable:
            unservable.append(problem)
    parts.append(model.head())
    own = EXPERTS_FIELDS if sparse is not None else ()
    unservable += [f"{where}: {key} is not implemented" for key in _MUST_BE_UNSET if values.get(key) and key not in own]
    for key, value in family.must_be.items():
        if config.get(key) not in (value, None):
            unservable.append(f"{where}: {key} = {config.get(key)} is not implemented")
    if model.activation not in _ACTIVATIONS.values():
        field = family.renamed.get("hidden_act", "hidden_act")
        unservable.append(f"{where}: {field} = {model.activation[:40]!r} is not implemented")
    windows = [part.arch["sliding_window"] for part in parts if part.kind == "attn"]
    implied = ["full_attention" if window is None else "sliding_attention" for window in windows]
    if config.get("layer_types") not in (None, implied):
        unservable.append(f"{where}: layer_types is not implemented for {family.name}")
    return Plan(
        family, tuple(parts), _modules(family, model.layers, mixtures) | _inner_modules(parts), tuple(unservable)
    )


def _describe(family: Family, config: Fields, rope: Mapping[str, Json] | None) -> _Described:
    """Read and check the fields that sizes and maths come from."""

    def field(word: str) -> str:
        return family.renamed.get(word, word)

    d, heads = config.size(field("hidden_size")), config.size(field("num_attention_heads"))
    kv_heads = config.optional_size("num_key_value_heads") or heads
    head_dim = config.optional_size("head_dim") or d // heads
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"{heads} heads cannot share {kv_heads} key-value heads")
    if head_dim < 1 or (family.layout == "conv1d" and d % heads):
        raise config.error(field("num_attention_heads"), f"{heads} heads do not divide a width of {d}")
    if family.rope and head_dim % 2:
        raise config.error("head_dim", f"{head_dim} is odd: rotary embedding needs pairs")
    written = config.text(field("hidden_act"))
    return _Described(
        family=family,
        config=config,
        width=d,
        vocab=config.size(field("vocab_size")),
        layers=config.size(field("num_hidden_layers"), MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=config.optional_size(field("intermediate_size")) or 4 * d,
        positions=0 if family.rope else config.size(field("max_position_embeddings")),
        activation=_ACTIVATIONS.get(written, written),
        rope=rope,
        biases=family.biases(config),
        common={"hidden_size": d, "norm": family.norm, "norm_eps": config.number(field("rms_norm_eps"))},
    )


def _modules(family: Family, layers: int, mixtures: Iterable[int]) -> dict[str, tuple[str, str]]:
    found = {}
    without = {f"layers.{layer}.ffn" for layer in mixtures}
    for path, target in family.modules.items():
        for i in map(str, range(layers)) if "{i}" in path else ("",):
            part, role = target.replace("{i}", i).split("/")
            if part in without and role != "norm":
                continue
            found[path.replace("{i}", i)] = (part, role)
    return found


def _inner_modules(parts: Iterable[PartPlan]) -> dict[str, tuple[str, str]]:
    """Those of experts and their routers, which stand elsewhere than the family's table says."""
    return {
        wanted.name.removesuffix(".weight"): (inner.name, role.removesuffix(".weight"))
        for part in parts
        if part.kind == "moe"
        for inner in part.walk()
        for role, wanted in inner.tensors.items()
    }


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
    for part in plan.walk():
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
    for part in plan.walk():
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
