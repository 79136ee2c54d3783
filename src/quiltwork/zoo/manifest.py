"""Models and blocks as canonical JSON, and back with every field checked.

A block names its tensors by content and its children by block id; a manifest names its blocks by id. All ids are
hashes of this JSON, so equal ids mean equal content down to the bytes of the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NoReturn, TypeVar

from quiltwork.core.errors import BadInputError, CorruptionError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.zoo.dtypes import WIDER
from quiltwork.zoo.objects import content_id
from quiltwork.zoo.types import DTYPE_BITS, Block, Model, Part, Substitution, TensorRef

FORMAT = 1
_HASH = re.compile(r"[0-9a-f]{64}")
_MODEL_FIELDS = {
    "format", "family", "parts", "config", "files", "recipe", "base", "unservable", "lossy", "notes",
}  # fmt: skip
_LATER_FIELDS = {"measured", "substitutions"}
"""Left out of a manifest where they are empty, so that models without them keep their version."""
_BLOCK_FIELDS = {"kind", "arch", "tensors", "children"}
_FIGURES = ("delta_loss", "kl", "agreement", "total_delta_loss", "total_agreement", "budget")
_SUBSTITUTION_FIELDS = {"part", "original", "serving", "source", "text", *_FIGURES}
_DEPTH = 32
T = TypeVar("T")


def canonical(value: Json, *, where: str) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. Raises BadInputError for what is not JSON."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"cannot be written as JSON: {error}", where=where) from error


def make_block(
    kind: str, arch: Mapping[str, Json], tensors: Iterable[TensorRef], children: Iterable[Part] = ()
) -> Block:
    """A block with its id: the blake3 of kind, arch, tensors (in name order) and children."""
    ordered, inner = tuple(sorted(tensors, key=lambda tensor: tensor.name)), tuple(children)
    block = Block(id="", kind=kind, arch=arch, tensors=ordered, children=inner)
    return Block(id=content_id(block_json(block)), kind=kind, arch=arch, tensors=ordered, children=inner)


def block_json(block: Block) -> bytes:
    """What the id of a block is the hash of, and what is stored of it."""
    return canonical(
        {
            "kind": block.kind,
            "arch": dict(block.arch),
            "tensors": [[t.name, t.dtype, list(t.shape), t.content, t.stored_dtype] for t in block.tensors],
            "children": [_part_json(part) for part in block.children],
        },
        where=f"block of kind {block.kind!r}",
    )


def model_json(model: Model, recipe: str) -> bytes:
    """The manifest, without the model's name. ``recipe`` is a content id."""
    base = None if model.base is None else {"name": model.base.name, "tenant": model.base.tenant}
    later: dict[str, Json] = {
        "measured": dict(model.measured),
        "substitutions": [substitution.to_json() for substitution in model.substitutions],
    }
    return canonical(
        {name: value for name, value in later.items() if value}
        | {
            "format": FORMAT,
            "family": model.family,
            "parts": [_part_json(part) for part in model.parts],
            "config": dict(model.config),
            "files": dict(model.files),
            "recipe": recipe,
            "base": base,
            "unservable": list(model.unservable),
            "lossy": dict(model.lossy),
            "notes": list(model.notes),
        },
        where=f"model {model.ref}",
    )


def named_blocks(parts: Iterable[Part]) -> list[Block]:
    """All blocks of these parts once each: children, attachments and their children included."""
    found: dict[str, Block] = {}

    def visit(part: Part) -> None:
        for block in (part.block, *part.attachments):
            if block.id not in found:
                found[block.id] = block
                for child in block.children:
                    visit(child)

    for part in parts:
        visit(part)
    return list(found.values())


def contents_of(model: Model, recipe: str) -> set[str]:
    """All objects a model needs, by content id; what those are differences from is not included."""
    tensors = {tensor.content for block in named_blocks(model.parts) for tensor in block.tensors}
    return tensors | set(model.files.values()) | {recipe}


def _part_json(part: Part) -> list[Json]:
    return [part.name, part.block.id, [attachment.id for attachment in part.attachments]]


Bodies = Callable[[str], bytes]
"""From a block's id to its JSON; raises CorruptionError where there is no such block."""


def read_model(data: bytes, ref: ModelRef, bodies: Bodies) -> tuple[Model, str]:
    """``(model, recipe)`` from a manifest. Raises CorruptionError naming the field that is not what it must be."""
    reader = _Reader(f"manifest of {ref}", bodies)
    fields = reader.object(reader.parse(data), "", _MODEL_FIELDS, _LATER_FIELDS)
    if fields["format"] != FORMAT:
        reader.fail("format", f"must be {FORMAT}")
    base = None
    if fields["base"] is not None:
        named = reader.object(fields["base"], "base", {"name", "tenant"})
        base = reader.ref(named, "base")
    model = Model(
        ref=ref,
        version=reader.version(fields),
        family=reader.text(fields["family"], "family"),
        parts=reader.parts(fields["parts"], "parts", 0),
        config=reader.mapping(fields["config"], "config"),
        files={
            name: reader.hash(content, f"files.{name}")
            for name, content in reader.mapping(fields["files"], "files").items()
        },
        base=base,
        unservable=reader.texts(fields["unservable"], "unservable"),
        lossy=reader.mapping(fields["lossy"], "lossy"),
        notes=reader.texts(fields["notes"], "notes"),
        measured=reader.mapping(fields.get("measured", {}), "measured"),
        substitutions=tuple(
            reader.substitution(item, f"substitutions[{i}]")
            for i, item in enumerate(reader.list(fields.get("substitutions", []), "substitutions"))
        ),
    )
    return model, reader.hash(fields["recipe"], "recipe")


def read_block(id: str, bodies: Bodies) -> Block:
    """One block and its children. Raises CorruptionError naming the field that is not what it must be."""
    return _Reader("index", bodies).block(id, 0)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


class _Reader:
    """Checks values as they are taken from parsed JSON; remembers blocks it has already read."""

    def __init__(self, where: str, bodies: Bodies) -> None:
        self._where = where
        self._bodies = bodies
        self._blocks: dict[str, Block] = {}

    def fail(self, field: str, what: str) -> NoReturn:
        raise CorruptionError(what, where=f"{self._where}: {field}" if field else self._where)

    def parse(self, data: bytes, field: str = "") -> Json:
        try:
            return json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            self.fail(field, f"not JSON: {error}")

    def version(self, fields: Mapping[str, Json]) -> str:
        # Notes tell how a model was taken in, which may differ between two times; the model is the same.
        return content_id(canonical({key: fields[key] for key in fields if key != "notes"}, where=self._where))

    def object(self, value: Json, field: str, keys: set[str], optional: Set[str] = frozenset()) -> dict[str, Json]:
        fields = self.mapping(value, field)
        for missing in sorted(keys - fields.keys()):
            self.fail(f"{field}.{missing}".lstrip("."), "is missing")
        for extra in sorted(fields.keys() - keys - optional):
            self.fail(f"{field}.{extra}".lstrip("."), "is not a field")
        return fields

    def mapping(self, value: Json, field: str) -> dict[str, Json]:
        if not isinstance(value, dict):
            self.fail(field, "must be an object")
        return value

    def list(self, value: Json, field: str, length: int | None = None) -> Sequence[Json]:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            self.fail(field, "must be a list" if length is None else f"must be a list of {length}")
        return value

    def text(self, value: Json, field: str) -> str:
        if not isinstance(value, str):
            self.fail(field, "must be a string")
        return value

    def texts(self, value: Json, field: str) -> tuple[str, ...]:
        return tuple(self.text(item, f"{field}[{i}]") for i, item in enumerate(self.list(value, field)))

    def hash(self, value: Json, field: str) -> str:
        if not isinstance(value, str) or not _HASH.fullmatch(value):
            self.fail(field, "must be 64 hexadecimal digits")
        return value

    def ref(self, value: Mapping[str, Any], field: str) -> ModelRef:
        try:
            return ModelRef(self.text(value["name"], f"{field}.name"), self.text(value["tenant"], f"{field}.tenant"))
        except BadInputError as error:
            self.fail(field, str(error))

    def parts(self, value: Json, field: str, depth: int) -> tuple[Part, ...]:
        return tuple(self.part(item, f"{field}[{i}]", depth) for i, item in enumerate(self.list(value, field)))

    def part(self, value: Json, field: str, depth: int) -> Part:
        name, block, attachments = self.list(value, field, 3)
        return Part(
            name=self.text(name, f"{field}.name"),
            block=self.block(self.hash(block, f"{field}.block"), depth),
            attachments=tuple(
                self.block(self.hash(id, f"{field}.attachments[{i}]"), depth)
                for i, id in enumerate(self.list(attachments, f"{field}.attachments"))
            ),
        )

    def block(self, id: str, depth: int) -> Block:
        if id in self._blocks:
            return self._blocks[id]
        if depth > _DEPTH:
            self.fail(f"block {id}", "is nested too deeply")
        body, field = self._bodies(id), f"block {id}"
        if content_id(body) != id:
            self.fail(field, "its content does not have its id")
        fields = self.object(self.parse(body, field), field, _BLOCK_FIELDS)
        tensors = self.list(fields["tensors"], f"{field}.tensors")
        block = Block(
            id=id,
            kind=self.text(fields["kind"], f"{field}.kind"),
            arch=self.mapping(fields["arch"], f"{field}.arch"),
            tensors=tuple(self.tensor(tensor, f"{field}.tensors[{i}]") for i, tensor in enumerate(tensors)),
            children=self.parts(fields["children"], f"{field}.children", depth + 1),
        )
        self._blocks[id] = block
        return block

    def substitution(self, value: Json, field: str) -> Substitution:
        fields = self.object(value, field, _SUBSTITUTION_FIELDS)
        source = self.object(fields["source"], f"{field}.source", {"name", "tenant"})
        return Substitution(
            part=self.text(fields["part"], f"{field}.part"),
            original=self.hashes(fields["original"], f"{field}.original"),
            serving=self.hashes(fields["serving"], f"{field}.serving"),
            source=self.ref(source, f"{field}.source"),
            text=self.text(fields["text"], f"{field}.text"),
            **{name: self.number(fields[name], f"{field}.{name}") for name in _FIGURES},
        )

    def hashes(self, value: Json, field: str) -> tuple[str, ...]:
        return tuple(self.hash(item, f"{field}[{i}]") for i, item in enumerate(self.list(value, field)))

    def number(self, value: Json, field: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.fail(field, "must be a number")
        return float(value)

    def tensor(self, value: Json, field: str) -> TensorRef:
        name, dtype, shape, content, stored_dtype = self.list(value, field, 5)
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            self.fail(f"{field}.dtype", "is not a dtype that is stored")
        if stored_dtype != dtype and stored_dtype not in WIDER.get(dtype, ()):
            self.fail(f"{field}.stored_dtype", f"is not a form of {dtype}")
        dimensions = self.list(shape, f"{field}.shape")
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in dimensions):
            self.fail(f"{field}.shape", "must be a list of sizes")
        return TensorRef(
            name=self.text(name, f"{field}.name"),
            dtype=dtype,
            shape=tuple(dimensions),
            content=self.hash(content, f"{field}.content"),
            stored_dtype=stored_dtype,
        )
