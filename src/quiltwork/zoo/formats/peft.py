"""PEFT adapters: ``adapter_config.json`` and the tensors beside it, read as the attachment blocks of docs/blocks.md.

What PEFT does with a configuration is followed exactly: which modules it targets, whose rank and alpha a pattern
gives, which saved tensors it ignores. What changes the maths and is not implemented here makes the adapter one that
can be stored but not served, with the field's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields
from quiltwork.zoo.formats.peft_targets import is_saved, is_target, matches, pattern_value, texts
from quiltwork.zoo.formats.weights import Slice

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Where an attachment's tensor comes from: a saved tensor in a shape of its own, or one layer's cut of a prefix."""

    name: str
    shape: Shape
    prefix_cut: int | None = None
    """For a prefix: which of the ``2 * layers`` (key, value) pairs' halves it is."""


@dataclass(frozen=True)
class Attachment:
    """One attachment block to be."""

    part: str
    kind: str
    arch: Mapping[str, Json]
    tensors: Mapping[str, Source]


@dataclass(frozen=True)
class Adapter:
    """An adapter understood against a base."""

    attachments: tuple[Attachment, ...]
    replaced: Mapping[tuple[str, str], Source]
    """Tensors of the base that the adapter brings anew, by (part, role)."""
    unservable: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """What an adapter needs to know of its base."""

    modules: Mapping[str, tuple[str, str]]
    """Module path -> (part, role)."""
    shapes: Mapping[tuple[str, str], Shape]
    """(part, role with ``.weight`` or ``.bias``) -> shape."""
    conv1d: bool
    """Whether projections are stored (in, out)."""
    num_layers: int
    num_kv_heads: int
    head_dim: int
    mixtures: tuple[str, ...] = ()
    """Parts that are mixtures of experts: no adapter hangs on their routers, nor on what is inside them."""

    def weight(self, part: str, role: str) -> tuple[int, int]:
        """(out, in) of a module; a norm's or table's as stored."""
        shape = self.shapes[part, f"{role}.weight"]
        if len(shape) == 1:
            return shape[0], shape[0]
        return (shape[1], shape[0]) if self.conv1d and role.endswith("_proj") else (shape[0], shape[1])


_LORA_UNSET = (
    "arrow_config", "kasa_config", "use_qalora", "trainable_token_indices", "alora_invocation_tokens",
    "layer_replication", "target_parameters", "use_bdlora", "velora_config", "monteclora_config", "megatron_config",
    "loftq_config", "lora_ga_config", "eva_config", "corda_config",
)  # fmt: skip
_ONLY_INITIAL = {"loftq_config", "lora_ga_config", "eva_config", "corda_config", "megatron_config"}
"""Fields that decide how training starts and leave the saved adapter an ordinary one."""


def understand(config: Mapping[str, Json], tensors: Mapping[str, Slice], base: Base, *, where: str) -> Adapter:
    """The attachments of an adapter. ``tensors`` are the saved ones by name, ``where`` its folder for messages.

    Raises BadInputError naming the tensor or field that does not fit the base.
    """
    fields = Fields(config, _DEFAULTS, f"{where}/adapter_config.json")
    kind = fields.get("peft_type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        return Adapter((), {}, (f"adapter_config.json: peft_type {str(kind)[:40]!r} is not implemented",), ())
    reading = _Reading(fields, base, f"{where}/adapter_model")
    unset = [key for key in _LORA_UNSET if config.get(key) and key not in _ONLY_INITIAL] if kind == "LORA" else []
    if unset:
        return Adapter((), {}, tuple(f"adapter_config.json: {key} is not implemented" for key in unset), ())
    reader(reading, tensors)
    return reading.finish()


_DEFAULTS: dict[str, Json] = {"r": 8, "lora_alpha": 8, "bias": "none"}
_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<what>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector(?:\.weight)?|ia3_l|ln_tuning_layers\.weight|ln_tuning_layers\.bias|"
    r"(?:base_layer\.|modules_to_save\.)?(?:weight|bias))"
)


@dataclass
class _Reading:
    """What has been gathered so far; parts are filled tensor by tensor."""

    fields: Fields
    base: Base
    where: str
    targets: dict[tuple[str, str], dict[str, Json]] = field(default_factory=dict)
    tensors: dict[tuple[str, str], dict[str, Source]] = field(default_factory=dict)
    replaced: dict[tuple[str, str], Source] = field(default_factory=dict)
    virtual: int = 0
    unservable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def split(self, name: str) -> tuple[str, str, str, str]:
        """``(module path, part, role, what)`` of a saved tensor's name."""
        found = _KEY.fullmatch(name.removeprefix("base_model.model."))
        if found is None:
            raise BadInputError("is not a tensor of such an adapter", where=f"{self.where}: {name}")
        path = found["module"]
        if path not in self.base.modules:
            raise BadInputError("stands for a module that the base does not have", where=f"{self.where}: {name}")
        return (path, *self.base.modules[path], found["what"])

    def check(self, item: Slice, expected: Shape) -> None:
        """Raise unless the tensor has the shape that the base asks for."""
        if item.shape != expected:
            raise BadInputError(
                f"has shape {list(item.shape)}, this base and configuration ask for {list(expected)}",
                where=f"{self.where}: {item.name}",
                hint="is it an adapter for another base?",
            )

    def put(self, part: str, kind: str, role: str, target: Json, name: str, source: Source) -> None:
        """Add a tensor to the part's attachment of a kind."""
        self.targets.setdefault((part, kind), {})[role] = target
        self.tensors.setdefault((part, kind), {})[name] = source

    def absolute(self, part: str, role: str, what: str, item: Slice, kind: str | None) -> None:
        """A tensor that takes the place of the base's: in an attachment of ``kind``, or as part of a new block."""
        name = f"{role}.{what.rsplit('.', 1)[-1]}"
        shape = self.base.shapes.get((part, name))
        if shape is None:
            raise BadInputError("stands for a tensor that the base does not have", where=f"{self.where}: {item.name}")
        self.check(item, shape)
        if kind is None:
            self.replaced[part, name] = Source(item.name, shape)
        else:
            self.put(part, kind, name, {}, name, Source(item.name, shape))

    def finish(self) -> Adapter:
        """The adapter, attachments in the order of the base's parts."""
        made = []
        for (part, kind), tensors in self.tensors.items():
            arch: dict[str, Json] = (
                {"num_virtual_tokens": self.virtual}
                if kind in ("prefix", "prompt")
                else {"targets": self.targets[part, kind]}
            )
            made.append(Attachment(part, kind, arch, tensors))
        return Adapter(tuple(made), self.replaced, (*self.unservable, *self._refused()), tuple(self.notes))

    def _refused(self) -> list[str]:
        """What cannot be served of an adapter that touches experts or how they are chosen."""
        places = self.base.mixtures
        inside = tuple(f"{place}." for place in places)
        adapted = {
            part for part, kind in self.tensors if kind != "norm" and (part in places or part.startswith(inside))
        }
        changed = {part for part, _ in self.replaced if part.startswith(inside)}
        told = [
            f"{what} of {sorted(found)[0]}" for what, found in (("adapters", adapted), ("copies", changed)) if found
        ]
        return [f"adapter_config.json: target_modules: {one}: experts take none" for one in told]


def _read_lora(reading: _Reading, tensors: Mapping[str, Slice]) -> None:
    fields = reading.fields
    bias = fields.get("bias")
    if bias not in ("none", "all", "lora_only"):
        raise fields.error("bias", f"{str(bias)[:40]!r} is not none, all or lora_only")
    found: dict[str, dict[str, Slice]] = {}
    for name, item in tensors.items():
        path, part, role, what = reading.split(name)
        if not what.startswith("lora_"):
            _read_beside(reading, path, part, role, what, item, bias != "none")
            continue
        tied_ends = {"embed", "head"}
        if is_target(fields, path, linear=role.endswith("_proj"), output=part in tied_ends):
            found.setdefault(path, {})[what.removesuffix(".weight") if "magnitude" in what else what] = item
        else:
            reading.notes.append(f"{name} is not among target_modules: ignored, as PEFT does")
    for path, items in found.items():
        _read_lora_module(reading, path, items)


def _read_lora_module(reading: _Reading, path: str, items: Mapping[str, Slice]) -> None:
    fields = reading.fields
    part, role = reading.base.modules[path]
    rank = pattern_value(fields, "rank_pattern", path, fields.size("r"))
    alpha = pattern_value(fields, "alpha_pattern", path, fields.number("lora_alpha"))
    if not isinstance(rank, int) or rank < 1:
        raise fields.error("rank_pattern", f"the rank of {path} must be a positive whole number")
    scale = alpha / math.sqrt(rank) if fields.flag("use_rslora") else alpha / rank
    dora = fields.flag("use_dora")
    out, into = reading.base.weight(part, role)
    table = role in ("tokens", "positions")
    if table:
        # An embedding maps a row number to a row: its "in" is the vocabulary.
        expected: dict[str, Shape] = {"lora_embedding_A": (rank, out), "lora_embedding_B": (into, rank)}
        width = into
    else:
        expected = {"lora_A.weight": (rank, into), "lora_B.weight": (out, rank)}
        width = out
    if dora:
        expected["lora_magnitude_vector"] = (width,)
    if fields.flag("lora_bias") and not table:
        expected["lora_B.bias"] = (out,)
        if dora:
            reading.unservable.append("adapter_config.json: lora_bias together with use_dora is not implemented")
    if len(reading.base.shapes[part, f"{role}.weight"]) != 2 or role == "positions":
        reading.unservable.append(f"adapter_config.json: target_modules: LoRA on {path} is not implemented")
        return
    for what, shape in expected.items():
        if what not in items:
            raise BadInputError("this tensor is missing", where=f"{reading.where}: base_model.model.{path}.{what}")
        item = items[what]
        flat = what == "lora_magnitude_vector" and item.nbytes and math.prod(item.shape) == width
        reading.check(item, item.shape if flat else shape)
        target = {"r": rank, "scale": scale, "dora": dora}
        reading.put(part, "lora", role, target, f"{role}.{_LORA_NAMES[what]}", Source(item.name, shape))
    for what in items.keys() - expected.keys():
        raise BadInputError("does not go with this configuration", where=f"{reading.where}: {items[what].name}")


_LORA_NAMES = {
    "lora_A.weight": "lora_A",
    "lora_B.weight": "lora_B",
    "lora_embedding_A": "lora_A",
    "lora_embedding_B": "lora_B",
    "lora_B.bias": "lora_B_bias",
    "lora_magnitude_vector": "magnitude",
}


def _read_beside(reading: _Reading, path: str, part: str, role: str, what: str, item: Slice, with_bias: bool) -> None:
    """A tensor that is no low-rank factor: a module saved whole, a trained bias, an embedding kept with its adapter."""
    if is_saved(path, reading.fields):
        reading.absolute(part, role, what, item, None)
    elif what.endswith("bias") and with_bias:
        reading.absolute(part, role, what, item, "bias")
    elif role in ("tokens", "lm_head") and what.endswith("weight"):
        # PEFT's save_embedding_layers keeps the base's own table with the adapter.
        reading.absolute(part, role, what, item, None)
    else:
        reading.notes.append(f"{item.name} is not trained under this configuration: ignored, as PEFT does")


def _read_ia3(reading: _Reading, tensors: Mapping[str, Slice]) -> None:
    fields = reading.fields
    forward = texts(fields, "feedforward_modules") or []
    as_regex = isinstance(fields.get("feedforward_modules"), str)
    for name, item in tensors.items():
        path, part, role, what = reading.split(name)
        if what != "ia3_l":
            _read_beside(reading, path, part, role, what, item, False)
            continue
        if not is_target(fields, path, linear=role.endswith("_proj"), output=part in ("embed", "head")):
            reading.notes.append(f"{name} is not among target_modules: ignored, as PEFT does")
            continue
        if as_regex:
            is_input = any(matches(p, path, fields, "feedforward_modules") for p in forward)
        else:
            is_input = any(path == m or path.endswith(f".{m}") for m in forward)
        if not role.endswith("_proj"):
            reading.unservable.append(f"adapter_config.json: target_modules: IA3 on {path} is not implemented")
            continue
        out, into = reading.base.weight(part, role)
        width = into if is_input else out
        reading.check(item, (1, width) if is_input else (width, 1))
        target = {"side": "input" if is_input else "output"}
        reading.put(part, "ia3", role, target, f"{role}.ia3", Source(name, (width,)))


def _read_norms(reading: _Reading, tensors: Mapping[str, Slice]) -> None:
    for name, item in tensors.items():
        path, part, role, what = reading.split(name)
        if not what.startswith("ln_tuning_layers."):
            _read_beside(reading, path, part, role, what, item, False)
        elif not is_target(reading.fields, path, linear=False, output=False):
            reading.notes.append(f"{name} is not among target_modules: ignored, as PEFT does")
        elif role.endswith("norm"):
            reading.absolute(part, role, what, item, "norm")
        else:
            reading.absolute(part, role, what, item, None)


def _prompt(reading: _Reading, tensors: Mapping[str, Slice], width: int) -> Slice:
    """The one saved tensor of a prompt method, (virtual tokens, width)."""
    reading.virtual = reading.fields.size("num_virtual_tokens")
    for name in tensors:
        if name != "prompt_embeddings":
            raise BadInputError("is not a tensor of such an adapter", where=f"{reading.where}: {name}")
    if "prompt_embeddings" not in tensors:
        raise BadInputError("this tensor is missing", where=f"{reading.where}: prompt_embeddings")
    item = tensors["prompt_embeddings"]
    reading.check(item, (reading.virtual, width))
    return item


def _read_prompt(reading: _Reading, tensors: Mapping[str, Slice]) -> None:
    width = reading.base.shapes["embed", "tokens.weight"][1]
    item = _prompt(reading, tensors, width)
    reading.put("embed", "prompt", "embeddings", {}, "embeddings", Source(item.name, item.shape))


def _read_prefix(reading: _Reading, tensors: Mapping[str, Slice]) -> None:
    base = reading.base
    heads = reading.fields.get("num_attention_heads")
    if heads not in (None, base.num_kv_heads):
        raise reading.fields.error("num_attention_heads", f"must be {base.num_kv_heads}, the base's key-value heads")
    if reading.fields.flag("prefix_projection"):
        reading.notes.append("prefix_projection: the saved embeddings are the projected ones")
    item = _prompt(reading, tensors, 2 * base.num_layers * base.num_kv_heads * base.head_dim)
    shape = (reading.virtual, base.num_kv_heads, base.head_dim)
    for layer in range(base.num_layers):
        for half, name in enumerate(("key", "value")):
            cut = Source(item.name, shape, prefix_cut=2 * layer + half)
            reading.put(f"layers.{layer}.attn", "prefix", name, {}, name, cut)


_READERS: Mapping[str, Callable[[_Reading, Mapping[str, Slice]], None]] = {
    "LORA": _read_lora,
    "IA3": _read_ia3,
    "LN_TUNING": _read_norms,
    "PROMPT_TUNING": _read_prompt,
    "P_TUNING": _read_prompt,
    "PREFIX_TUNING": _read_prefix,
}
