"""How a model is made up: its parts, who else has the same ones, where it is cut, and what only it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from quiltwork.core.errors import NotFoundError
from quiltwork.core.names import ModelRef, visible_to
from quiltwork.core.servable import Json
from quiltwork.zoo.families import chain, has_chain
from quiltwork.zoo.manifest import named_blocks
from quiltwork.zoo.near import Near, near_duplicates
from quiltwork.zoo.segments import segment_id, segments
from quiltwork.zoo.types import Block, Model, Part, Substitution

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo

Cuts = Mapping[ModelRef, Sequence[Sequence[str]]]
"""Per model, the block ids of each of its segments."""


@dataclass(frozen=True)
class Others:
    """Other models that have something too: those that may be named, and how many may not."""

    named: tuple[ModelRef, ...] = ()
    hidden: int = 0

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {"models": [str(ref) for ref in self.named], "hidden": self.hidden}


@dataclass(frozen=True)
class ExplainedBlock:
    """A block or an attachment, and who else has the very same."""

    id: str
    kind: str
    nbytes: int
    others: Others

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {"block": self.id, "kind": self.kind, "bytes": self.nbytes, "shared_with": self.others.to_json()}


@dataclass(frozen=True)
class ExplainedPart:
    """A place of the model, what fills it and what hangs on that."""

    name: str
    block: ExplainedBlock
    attachments: tuple[ExplainedBlock, ...]

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {"part": self.name, **self.block.to_json(), "attachments": [a.to_json() for a in self.attachments]}


@dataclass(frozen=True)
class ExplainedSegment:
    """A run of blocks that is executed as one batch, and who else runs through it."""

    id: str
    first: str
    last: str
    """The names of its first and last part."""
    blocks: int
    nbytes: int
    others: Others

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "segment": self.id,
            "first": self.first,
            "last": self.last,
            "blocks": self.blocks,
            "bytes": self.nbytes,
            "shared_with": self.others.to_json(),
        }


@dataclass(frozen=True)
class Explanation:
    """A model, taken apart."""

    ref: ModelRef
    version: str
    family: str
    base: ModelRef | None
    """The model it was made from; None also where that may not be named."""
    parts: tuple[ExplainedPart, ...]
    segments: tuple[ExplainedSegment, ...]
    """Empty for a model that cannot be served."""
    nbytes: int
    """Bytes of its blocks and attachments, each once, in the model's dtype."""
    own_bytes: int
    """Of those: bytes that no other model has."""
    unservable: tuple[str, ...] = ()
    substitutions: tuple[Mapping[str, Json], ...] = ()
    """Parts that another model's block serves: the part, that model (None where it may not be named), what it costs."""
    stored_own_bytes: int | None = None
    """Bytes stored that no other model uses: what removing it would free. None where no zoo was measured."""
    near: tuple[Near, ...] | None = None
    """Blocks of its own that nearly equal another model's. None where that was not looked for."""

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        told: dict[str, Json] = {
            "model": str(self.ref),
            "version": self.version,
            "family": self.family,
            "base": str(self.base) if self.base is not None else None,
            "bytes": self.nbytes,
            "own_bytes": self.own_bytes,
            "parts": [part.to_json() for part in self.parts],
            "segments": [segment.to_json() for segment in self.segments],
            "unservable": list(self.unservable),
            "substitutions": [dict(substitution) for substitution in self.substitutions],
        }
        if self.stored_own_bytes is not None:
            told["stored_own_bytes"] = self.stored_own_bytes
        if self.near is not None:
            told["near"] = [{**asdict(near), "model": str(near.model)} for near in self.near]
        return told


def describe(
    model: Model, links: Sequence[Part], models: Iterable[Model], cuts: Cuts, *, tenant: str | None
) -> Explanation:
    """Take a model apart. Reads nothing.

    Parameters
    ----------
    links : its chain; empty where it cannot be served.
    models : those it may share with; itself among them or not.
    cuts : where it and others are cut into segments.
    tenant : who is told; others' models are counted but not named. None for somebody who may know all.
    """
    holders: dict[str, set[ModelRef]] = {}
    for other in models:
        for block in named_blocks(other.parts):
            holders.setdefault(block.id, set()).add(other.ref)

    def explained(block: Block) -> ExplainedBlock:
        return ExplainedBlock(block.id, block.kind, block.nbytes, _others(holders.get(block.id, ()), model.ref, tenant))

    riders: dict[tuple[str, ...], set[ModelRef]] = {}
    for ref, runs in cuts.items():
        for run in runs:
            riders.setdefault(tuple(run), set()).add(ref)
    mine = named_blocks(model.parts)
    return Explanation(
        ref=model.ref,
        version=model.version,
        family=model.family,
        base=model.base if model.base is not None and (tenant is None or visible_to(model.base, tenant)) else None,
        parts=tuple(
            ExplainedPart(part.name, explained(part.block), tuple(map(explained, part.attachments)))
            for part in model.parts
        ),
        segments=tuple(_segments(model.ref, links, cuts.get(model.ref, ()), riders, tenant)),
        nbytes=sum(_without_children(block) for block in mine),
        own_bytes=sum(_without_children(block) for block in mine if not holders.get(block.id, set()) - {model.ref}),
        unservable=model.unservable,
        substitutions=tuple(_substituted(substitution, tenant) for substitution in model.substitutions),
    )


def explain(
    zoo: Zoo,
    ref: ModelRef | str,
    *,
    tenant: str | None = None,
    among: Collection[ModelRef | str] | None = None,
    near: bool = True,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Explanation:
    """Take a model of the zoo apart.

    Parameters
    ----------
    tenant : who asks; None for somebody who may know all.
    among : the models that would be served together with it, which decides where it is cut; all that ``tenant`` sees
        and that can be served, where None.
    near : also look for nearly equal blocks, for which weights are read.
    progress : told how many bytes have been read since it was last told.

    Raises NotFoundError for a model that does not exist or that ``tenant`` may not see, UnsupportedError for one of
    ``among`` that cannot be served.
    """
    model = _seen(zoo, ref, tenant)
    models = [zoo.model(other) for other in zoo.models()]
    visible = [other for other in models if tenant is None or visible_to(other.ref, tenant)]
    chosen = visible if among is None else [_seen(zoo, other, tenant) for other in among]
    chains = {other.ref: chain(other).links for other in chosen if among is not None or has_chain(other)}
    if has_chain(model):
        chains[model.ref] = chain(model).links
    cuts = {
        ref: [[part.block.id for part in chains[ref][run.start : run.stop]] for run in runs]
        for ref, runs in segments(chains).items()
    }
    links = chains.get(model.ref, ())
    told = describe(model, links, models, cuts, tenant=tenant)
    usage = next(usage for usage in zoo.du().models if usage.ref == model.ref)
    found = None
    if near:
        alone = {p.block.id for p in told.parts if p.block.others == Others()}
        found = near_duplicates(zoo, model, [other for other in visible if other.ref != model.ref], alone, progress)
    return replace(told, stored_own_bytes=usage.own_bytes, near=found)


def _substituted(substitution: Substitution, tenant: str | None) -> dict[str, Json]:
    source = substitution.source
    return substitution.to_json() | {"source": str(source) if tenant is None or visible_to(source, tenant) else None}


def _seen(zoo: Zoo, ref: ModelRef | str, tenant: str | None) -> Model:
    """A model that ``tenant`` may see; one that it may not is as absent as one that is not there."""
    model = zoo.model(ref)
    if tenant is not None and not visible_to(model.ref, tenant):
        raise NotFoundError("no such model", where=str(ref), hint="`quiltwork zoo ls` lists them")
    return model


def _without_children(block: Block) -> int:
    """Bytes of a block's own tensors: what is inside it counts as itself."""
    return sum(tensor.nbytes for tensor in block.tensors)


def _others(holders: Collection[ModelRef], model: ModelRef, tenant: str | None) -> Others:
    others = sorted(ref for ref in holders if ref != model)
    named = [ref for ref in others if tenant is None or visible_to(ref, tenant)]
    return Others(tuple(named), len(others) - len(named))


def _segments(
    model: ModelRef,
    links: Sequence[Part],
    cuts: Sequence[Sequence[str]],
    riders: Mapping[tuple[str, ...], Collection[ModelRef]],
    tenant: str | None,
) -> Iterator[ExplainedSegment]:
    start = 0
    for run in cuts:
        inside = links[start : start + len(run)]
        start += len(run)
        yield ExplainedSegment(
            id=segment_id(run),
            first=inside[0].name,
            last=inside[-1].name,
            blocks=len(run),
            nbytes=sum(part.block.nbytes for part in inside),
            others=_others(riders[tuple(run)], model, tenant),
        )
