"""Taking models into a zoo: directories of models and adapters, GGUF files, and names on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError
from quiltwork.core.names import PUBLIC, ModelRef, visible_to
from quiltwork.core.registry import MODELS, names
from quiltwork.core.registry import find as packaged
from quiltwork.core.servable import Json
from quiltwork.zoo import recipe as recipes
from quiltwork.zoo import similar
from quiltwork.zoo.adapters import adapter_parts, resolve_base
from quiltwork.zoo.checkpoint import TOKENIZER_FILES, Understood, build_parts, has_tokenizer, understand
from quiltwork.zoo.config import read_json
from quiltwork.zoo.fused_experts import unfused
from quiltwork.zoo.intake import Intake, Report
from quiltwork.zoo.source import Source, scan
from quiltwork.zoo.sparse import with_calibration
from quiltwork.zoo.types import Model, Part

if TYPE_CHECKING:
    from quiltwork.zoo.session import Session
    from quiltwork.zoo.zoo import Zoo

LOSSY_CODES = ("int8", "int4")


@dataclass(frozen=True)
class Added:
    """What an addition did."""

    model: Model
    already: bool
    """Whether this very model was there under this very name."""
    new_bytes: int
    """Bytes of new object files."""
    source_bytes: int
    """Bytes of the source's files."""
    notes: tuple[str, ...] = ()
    """What had to be decided or is worth a warning."""


@dataclass(frozen=True)
class Request:
    """What the caller asked for, checked."""

    ref: ModelRef
    base: ModelRef | None
    lossy: str | None
    replace: bool
    aliases: tuple[ModelRef, ...]
    report: Report


@dataclass
class Draft:
    """A model about to be committed."""

    family: str
    parts: Sequence[Part]
    config: Mapping[str, Json]
    files: Mapping[str, str]
    recipe: bytes
    base: ModelRef | None = None
    unservable: Sequence[str] = ()
    lossy: Mapping[str, Json] = field(default_factory=dict)
    notes: Sequence[str] = ()


def add(
    zoo: Zoo,
    source: str | PathLike[str],
    *,
    name: str | None = None,
    tenant: str = PUBLIC,
    base: ModelRef | str | None = None,
    lossy: str | None = None,
    replace: bool = False,
    aliases: Iterable[str] = (),
    progress: Report | None = None,
) -> Added:
    """Take in a model: a Hugging Face directory, a PEFT adapter's directory, a GGUF file, the name of a model that an
    installed package brings, or a hub name.

    name : what to call it; the folder's, file's or hub's name where not given.
    base : the model that it was made from, if the one that is found by itself is not wanted.
    lossy : ``int8`` or ``int4`` to keep the changed matrices of a full fine-tune as rounded differences.
    replace : let it take the place of a different model of that name.
    progress : told, now and then, how many bytes have been taken in since it was last told.

    Raises BadInputError naming the file, field or tensor that is malformed; NotFoundError for a source or base that is
    not there; ConflictError where the name is taken; CapacityError where the disk is full. Nothing stays after one.
    """
    if lossy is not None and lossy not in LOSSY_CODES:
        raise BadInputError(f"{lossy!r} is not one of {', '.join(LOSSY_CODES)}", where="lossy")
    path, called = _locate(source)
    ref = ModelRef(name if name is not None else called, tenant)
    wanted = _visible(zoo, base, tenant) if base is not None else None
    request = Request(
        ref=ref,
        base=wanted,
        lossy=lossy,
        replace=replace,
        aliases=tuple(ModelRef(alias, tenant) for alias in aliases),
        report=progress or (lambda nbytes: None),
    )
    try:
        return _add(zoo, path, request)
    except OSError as error:
        what = error.strerror or str(error)
        raise BadInputError(f"cannot be read: {what}", where=str(error.filename or source)) from error


def _add(zoo: Zoo, path: Path, request: Request) -> Added:
    if path.is_file():
        from quiltwork.zoo.formats.gguf import read_gguf

        model = read_gguf(path)
        return _add_model(zoo, model.source, model.config, request, model.tokenizer)
    scanned = scan(path)
    if (path / "adapter_config.json").is_file():
        return _add_adapter(zoo, scanned, request)
    config = with_calibration(read_json(path / "config.json"), path)
    return _add_model(zoo, scanned, config, request)


def _locate(source: str | PathLike[str]) -> tuple[Path, str]:
    """The folder or file, and what the model is called where nobody says."""
    path = Path(source)
    text = str(source)
    if "\0" in text or len(text) > 4096:
        raise BadInputError("is not a path", where="source")
    if path.is_dir():
        for part in ("config.json", "adapter_config.json"):
            if (path / part).is_file():
                return path, _called(path)
        raise BadInputError("holds neither config.json nor adapter_config.json", where=text)
    if path.is_file():
        if path.suffix == ".gguf":
            return path, _legal(path.stem)
        raise BadInputError("is neither a folder nor a GGUF file", where=text)
    if text in names(MODELS):
        return Path(packaged(MODELS, text)()), _legal(text)
    from quiltwork.zoo.hub import find

    return find(text)


def _called(path: Path) -> str:
    full = path.resolve()
    cached = re.fullmatch(r"models--(.+?)--(.+)", full.parent.parent.name) if full.parent.name == "snapshots" else None
    return f"{cached[1]}/{cached[2]}" if cached else _legal(full.name)


def _legal(text: str) -> str:
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._:@+-]", "-", text)) or "model"


def _visible(zoo: Zoo, base: ModelRef | str, tenant: str) -> ModelRef:
    """The model meant by a base that the caller names: the tenant's own first, then a public one."""
    wanted = [base] if isinstance(base, ModelRef) else [ModelRef(base, owner) for owner in (tenant, PUBLIC)]
    for ref in wanted:
        found = _existing(zoo, ref) if visible_to(ref, tenant) else None
        if found is not None:
            return found.ref
    raise NotFoundError("no such base", where=str(base), hint="`quiltwork zoo ls` lists the models")


def _add_model(
    zoo: Zoo,
    source: Source,
    config: Mapping[str, Json],
    request: Request,
    made_files: Mapping[str, bytes] = MappingProxyType({}),
) -> Added:
    source = unfused(source, config)
    understood = understand(source, config)
    existing = _existing(zoo, request.ref)
    if existing is not None and request.lossy is None:
        same = _unchanged(zoo, existing, source, understood, request)
        if same is not None:
            return same
    found = _find_base(zoo, source, understood, request)
    near = {}
    if found is not None:
        theirs, slices = similar.places(found.model), source.slices()
        for place, name in understood.names.items():
            if place in theirs and theirs[place].shape == slices[name].shape:
                near[name] = theirs[place].content
    with zoo.adding() as session:
        intake = Intake(session, source, near, request.lossy, request.report)
        draft = _draft(intake, understood, found, made_files)
        return finish(zoo, session, draft, request, source.nbytes)


def _unchanged(zoo: Zoo, existing: Model, source: Source, understood: Understood, request: Request) -> Added | None:
    """The model of that name, if it is this very source; None where it is to be replaced.

    Decided before a base is looked for, because by now the zoo may hold models made from this one.
    """
    with zoo.adding() as session:
        intake = Intake(session, source, {})
        draft = _draft(intake, understood, None)
    same = draft.recipe == zoo.recipe(existing.ref) and _ids(draft.parts) == _ids(existing.parts)
    if same:
        for alias in request.aliases:
            zoo.alias(alias, existing.ref)
        return Added(existing, True, 0, source.nbytes, existing.notes)
    if not request.replace:
        raise _taken(request.ref)
    return None


def _find_base(zoo: Zoo, source: Source, understood: Understood, request: Request) -> similar.Found | None:
    """The model that a full fine-tune was made from: the one asked for, else the most similar one."""
    if understood.plan is None:
        return None
    if request.base is not None:
        return similar.Found(zoo.model(request.base), 1.0)

    refs = [ref for ref in zoo.models(request.ref.tenant) if ref != request.ref]
    models = (zoo.model(ref) for ref in refs)
    candidates = (model for model in models if model.family == understood.family and model.base is None)
    return similar.find(zoo, candidates, understood.shapes(), lambda place: source.read(understood.names[place]))


def _draft(
    intake: Intake,
    understood: Understood,
    found: similar.Found | None,
    made_files: Mapping[str, bytes] = MappingProxyType({}),
) -> Draft:
    recipe = intake.put_all()
    parts = intake.beside(build_parts(understood, intake))
    files = dict(intake.files)
    notes = [*intake.source.notes, *understood.notes]
    if found is not None:
        base = found.model
        theirs = {tensor.content for part in base.parts for tensor in part.block.walk()}
        own = {name: intake.tensor(name, name).content for name in understood.names.values()}
        kept = sum(content in theirs for content in own.values())
        notes.append(
            f"the same weights as {base.ref}"
            if kept == len(own)
            else f"fine-tune of {base.ref}: {kept} of {len(own)} tensors are the same"
        )
        if not has_tokenizer(files) and has_tokenizer(base.files):
            taken = {name: base.files[name] for name in TOKENIZER_FILES if name in base.files and name not in files}
            files |= taken
            notes.append(f"{', '.join(taken)} taken from {base.ref}")
    if made_files and not has_tokenizer(files):
        files |= {name: intake.session.file(data) for name, data in made_files.items()}
        notes.append(f"{', '.join(made_files)} made from its metadata")
    return Draft(
        family=understood.family,
        parts=parts,
        config=understood.config,
        files=files,
        recipe=recipes.dump(recipe),
        unservable=understood.unservable,
        lossy=intake.losses,
        notes=notes,
    )


def _add_adapter(zoo: Zoo, source: Source, request: Request) -> Added:
    config = read_json(source.root / "adapter_config.json")
    resolved = resolve_base(zoo, source, config, request.ref, request.base)
    base = resolved.base
    with zoo.adding() as session:
        intake = Intake(session, source, {}, None, request.report)
        recipe = intake.put_all()
        parts = intake.beside(adapter_parts(base, resolved.adapter, intake))
        draft = Draft(
            family=base.family,
            parts=parts,
            config=base.config,
            files={**base.files, **intake.files},
            recipe=recipes.dump(recipe),
            base=base.ref,
            unservable=[*base.unservable, *resolved.adapter.unservable],
            lossy=base.lossy,
            notes=[*source.notes, *resolved.notes, *resolved.adapter.notes],
        )
        return finish(zoo, session, draft, request, source.nbytes)


def finish(zoo: Zoo, session: Session, draft: Draft, request: Request, source_bytes: int) -> Added:
    """Commit a draft. Raises ConflictError where its name is taken by another model that is not to be replaced."""
    existing = _existing(zoo, request.ref)
    if existing is not None and not request.replace:
        same = _ids(existing.parts) == _ids(draft.parts) and zoo.recipe(existing.ref) == draft.recipe
        if not same:
            raise _taken(request.ref)
    model = session.commit(
        request.ref,
        family=draft.family,
        parts=draft.parts,
        config=draft.config,
        files=draft.files,
        recipe=draft.recipe,
        base=draft.base,
        unservable=draft.unservable,
        lossy=draft.lossy,
        notes=draft.notes,
        aliases=request.aliases,
        replace=request.replace or existing is not None,  # None: another process may just have taken the name
    )
    return Added(model, session.already, session.new_bytes, source_bytes, model.notes)


def _ids(parts: Sequence[Part]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(part.name, part.block.id, tuple(block.id for block in part.attachments)) for part in parts]


def _taken(ref: ModelRef) -> ConflictError:
    return ConflictError("the name is taken by another model", where=str(ref), hint="choose another, or replace it")


def _existing(zoo: Zoo, ref: ModelRef) -> Model | None:
    try:
        return zoo.model(ref)
    except NotFoundError:
        return None
