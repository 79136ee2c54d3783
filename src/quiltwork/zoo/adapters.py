"""Adapters and their bases: which model of the zoo an adapter was made for, and what it becomes on top of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.core.servable import Json
from quiltwork.zoo import hub
from quiltwork.zoo.config import read_json
from quiltwork.zoo.derived import STITCHED
from quiltwork.zoo.dtypes import itemsize, narrowed
from quiltwork.zoo.families import FAMILIES
from quiltwork.zoo.formats import peft
from quiltwork.zoo.fused_experts import unfused
from quiltwork.zoo.intake import BESIDE, Intake
from quiltwork.zoo.manifest import make_block
from quiltwork.zoo.objects import content_id
from quiltwork.zoo.plan import make_plan
from quiltwork.zoo.similar import places
from quiltwork.zoo.source import Source, scan
from quiltwork.zoo.types import Model, Part, RawTensor, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo


@dataclass(frozen=True)
class Resolved:
    """An adapter and the model it was made for."""

    base: Model
    adapter: peft.Adapter
    notes: tuple[str, ...]


def resolve_base(
    zoo: Zoo, source: Source, config: Mapping[str, Json], ref: ModelRef, asked: ModelRef | None
) -> Resolved:
    """Find an adapter's base among the models that its tenant sees, and read the adapter against it.

    In this order: the base asked for; the model made from the folder that ``base_model_name_or_path`` leads to, from
    the adapter's folder first; the model of that name; the only model that the adapter fits by its shapes.
    Raises NotFoundError where none is there, BadInputError naming the tensor where the one named does not fit.
    """
    if asked is not None:
        return _fit(zoo.model(asked), source, config)
    named = config.get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise BadInputError("must be text", where=f"{source.root}/adapter_config.json: base_model_name_or_path")
    bases = [model for model in _models(zoo, ref) if model.base is None]
    if named:
        for folder, cached in _folders(source.root, named):
            found = _made_from(bases, folder)
            if found is not None:
                return _fit(found, source, config)
            if not cached:
                raise NotFoundError(
                    f"its base {named!r} is not in the zoo", where=str(source.root), hint=f"add {folder} first"
                )
        called = [model for model in bases if model.ref.name in (named, named.rstrip("/").rsplit("/", 1)[-1])]
        if called:
            # The tenant's own model of a name goes before a public one, the full name before its last word.
            called.sort(key=lambda model: (model.ref.name != named, model.ref.tenant == PUBLIC))
            return _fit(called[0], source, config)
    fitting = list(_fitting(bases, source, config))
    shown = named or "(not named)"
    if not fitting:
        raise NotFoundError(
            f"its base {shown!r} is not in the zoo, and no model there fits its shapes",
            where=str(source.root),
            hint="add the base first",
        )
    if len(fitting) > 1:
        names = ", ".join(str(found.base.ref) for found in fitting[:5])
        raise BadInputError(
            f"its base {shown!r} is not in the zoo, and several models fit its shapes: {names}",
            where=str(source.root),
            hint="say which with --base",
        )
    only = fitting[0]
    note = f"warning: made for {shown!r}; attached to {only.base.ref}, the only model whose shapes fit"
    return Resolved(only.base, only.adapter, (note,))


def _models(zoo: Zoo, ref: ModelRef) -> Iterator[Model]:
    for other in zoo.models(ref.tenant):
        if other != ref:
            yield zoo.model(other)


def _fitting(bases: list[Model], source: Source, config: Mapping[str, Json]) -> Iterator[Resolved]:
    for model in bases:
        try:
            found = _fit(model, source, config)
        except BadInputError:
            continue
        if found.adapter.attachments or found.adapter.replaced:
            yield found


def _folders(root: Path, named: str) -> Iterator[tuple[Path, bool]]:
    """The folder with a model that an adapter's base leads to, and whether it is the hub's cache that has it."""
    for path in () if "\0" in named else (root / named, Path(named)):
        try:
            if (path / "config.json").is_file():
                yield path.resolve(), False
                return
        except OSError:
            continue
    found = hub.cached(named, None) if named.count("/") == 1 else None
    if found is not None:
        yield found, True


def _made_from(bases: list[Model], folder: Path) -> Model | None:
    """The model whose every tensor is the folder's."""
    source = unfused(scan(folder), read_json(folder / "config.json"))
    remaining = [(model, {t.content for t in _all_tensors(model)}) for model in bases]
    for name in source.tensors:
        if not remaining:
            return None
        raw = source.read(name)
        content = content_id(narrowed(raw.data, raw.dtype)[1])
        remaining = [(model, contents) for model, contents in remaining if content in contents]
    return remaining[0][0] if remaining else None


def _all_tensors(model: Model) -> Iterator[TensorRef]:
    for part in model.parts:
        yield from part.block.walk()


def _fit(base: Model, source: Source, config: Mapping[str, Json]) -> Resolved:
    if any(part.attachments for part in base.parts):
        raise UnsupportedError("an adapter on top of an adapter is not implemented", where=str(base.ref))
    if base.family == STITCHED:
        raise UnsupportedError("an adapter on a stitched chain is not implemented", where=str(base.ref))
    family = FAMILIES.get(base.family)
    if family is None:
        reason = f"its base {base.ref} is of the family {base.family!r}, of which no adapter can be served"
        return Resolved(base, peft.Adapter((), {}, (reason,), ()), ())
    plan = make_plan(family, base.config, where=f"config.json of {base.ref}")
    attention = next(part.block.arch for part in base.parts if part.block.kind == "attn")
    known = peft.Base(
        modules=plan.modules,
        shapes={place: tensor.shape for place, tensor in places(base).items()},
        conv1d=family.layout == "conv1d",
        num_layers=sum(part.block.kind == "attn" for part in base.parts),
        num_kv_heads=attention["num_kv_heads"],
        head_dim=attention["head_dim"],
        mixtures=tuple(part.name for part in base.parts if part.block.children),
    )
    return Resolved(base, peft.understand(config, source.slices(), known, where=str(source.root)), ())


def adapter_parts(base: Model, adapter: peft.Adapter, intake: Intake) -> list[Part]:
    """The base's parts with the adapter's attachments, and new blocks where it brings whole tensors."""
    parts = []
    for part in base.parts:
        if part.name == BESIDE:
            continue
        block = part.block
        mine = {role: found for (name, role), found in adapter.replaced.items() if name == part.name}
        if mine:
            kept = [tensor for tensor in block.tensors if tensor.name not in mine]
            fresh = [intake.tensor(found.name, role, found.shape) for role, found in mine.items()]
            block = make_block(block.kind, block.arch, [*kept, *fresh], block.children)
        attachments = tuple(
            make_block(
                found.kind,
                found.arch,
                [_attached(intake, name, where) for name, where in found.tensors.items()],
            )
            for found in adapter.attachments
            if found.part == part.name
        )
        parts.append(Part(part.name, block, attachments))
    return parts


def _attached(intake: Intake, name: str, where: peft.Source) -> TensorRef:
    if where.prefix_cut is None:
        return intake.tensor(where.name, name, where.shape)
    raw = intake.source.read(where.name)
    tokens, row = where.shape[0], int(np.prod(where.shape[1:])) * itemsize(raw.dtype)
    cut = raw.data.reshape(tokens, -1)[:, where.prefix_cut * row : (where.prefix_cut + 1) * row]
    return intake.derived(RawTensor(raw.dtype, where.shape, np.ascontiguousarray(cut).reshape(-1)), name)
