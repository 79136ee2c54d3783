"""The same fleet of fine-tunes, three ways: whole models apart, adapters sharing their base, blocks shared by all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.profiles.accelerator import Span
from quiltwork.serving.simulate.world import App, Piece
from quiltwork.zoo.segments import segments
from quiltwork.zoo.types import Part


class Arm(StrEnum):
    """How models are cut."""

    MODELS = "models"
    """Per-model provisioning: every app is a whole model of its own, adapters merged in."""
    ADAPTERS = "adapters"
    """Parameter sharing: adapters hang on one copy of their base; every other fine-tune is whole."""
    BLOCKS = "blocks"
    """Whatever is equal is one segment, cut where owners change."""


class Tuning(StrEnum):
    """What sets an app apart from its base."""

    BASE = "base"
    LORA = "lora"
    TOP = "top"
    """The upper layers and the head are its own."""
    FULL = "full"


@dataclass(frozen=True)
class Family:
    """Fine-tunes of one base, and what a run of its blocks costs on the cluster's devices."""

    name: str
    layers: int
    profile: Callable[[Span], SegmentProfile]
    members: Sequence[tuple[str, Tuning, int]]
    """App, what sets it apart, and how many upper layers are its own (0 unless TOP)."""

    def __post_init__(self) -> None:
        for name, tuning, own in self.members:
            if (tuning is Tuning.TOP) != (0 < own < self.layers):
                raise BadInputError(f"{own} of {self.layers} layers are its own", where=name)


def apps_of(families: Sequence[Family], arm: Arm) -> tuple[App, ...]:
    """All apps as an arm serves them.

    Cuts of the third arm are those that ``zoo.segments`` derives: between two blocks whose owners differ.
    """
    return tuple(app for family in families for app in _apps(family, arm))


def _apps(family: Family, arm: Arm) -> list[App]:
    top = family.layers
    whole = Span(top, embed=True, head=True)
    base = "base:" + family.name
    cuts = sorted({top - own for _, tuning, own in family.members if tuning is Tuning.TOP})
    if arm is not Arm.BLOCKS:
        cuts = []
    bounds = [0, *cuts, top]
    shared = [_piece(family, base, a, b) for a, b in pairwise(bounds)]  # the base's own way through its segments
    made = []
    for name, tuning, own in family.members:
        if arm is Arm.MODELS or tuning is Tuning.FULL or (arm is Arm.ADAPTERS and tuning is Tuning.TOP):
            made.append(App(name, (Piece((name,), 0, family.profile(whole)),)))
        elif tuning is Tuning.TOP:
            below = [p for p, end in zip(shared, bounds[1:], strict=True) if end <= top - own]
            made.append(App(name, (*below, _piece(family, name, top - own, top))))
        else:
            made.append(App(name, tuple(shared), attached=tuning is Tuning.LORA))
    return made


def _piece(family: Family, owner: str, start: int, end: int) -> Piece:
    span = Span(end - start, embed=start == 0, head=end == family.layers)
    return Piece((owner, f"{start}-{end}"), start, family.profile(span))


def apps_of_chains(
    chains: Mapping[str, Sequence[Part]], profile: Callable[[Sequence[Part]], SegmentProfile], arm: Arm
) -> tuple[App, ...]:
    """Real models of a zoo as an arm serves them.

    profile : what a run of links costs. For adapters apart from blocks: models whose bare blocks are all equal share
    one copy; for blocks ``zoo.segments`` cuts.
    """
    cuts = segments(chains)
    made = []
    for name, links in sorted(chains.items()):
        runs = cuts[name] if arm is Arm.BLOCKS else (range(len(links)),)
        route = []
        for run in runs:
            parts = links[run.start : run.stop]
            instance = (name,) if arm is Arm.MODELS else tuple(part.block.id for part in parts)
            route.append(Piece(instance, run.start, profile(parts)))
        hung = arm is not Arm.MODELS and any(part.attachments for part in links)
        made.append(App(name, tuple(route), attached=hung))
    return tuple(made)
