"""A model directory understood: which tensor is which part's, whatever the checkpoint calls it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quiltwork.core.servable import Json
from quiltwork.zoo.families import TENSORS, UNKNOWN
from quiltwork.zoo.intake import Intake
from quiltwork.zoo.manifest import make_block
from quiltwork.zoo.plan import Fitted, PartPlan, Plan, family_of, fit, group_unknown, make_plan
from quiltwork.zoo.similar import Place
from quiltwork.zoo.source import Source
from quiltwork.zoo.types import Part

_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES = (
    *_TOKENIZER, "tokenizer_config.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files that belong to a tokenizer, the chat template included."""


@dataclass(frozen=True)
class Understood:
    """A checkpoint's tensors in their places; ``plan`` is None for an unknown family."""

    family: str
    config: Mapping[str, Json]
    plan: Plan | None
    names: Mapping[Place, str]
    unservable: tuple[str, ...]
    notes: tuple[str, ...]

    def shapes(self) -> dict[Place, tuple[int, ...]]:
        """Shapes of the tensors of a known family."""
        parts = self.plan.walk() if self.plan is not None else ()
        return {(part.name, role): wanted.shape for part in parts for role, wanted in part.tensors.items()}


def understand(source: Source, config: Mapping[str, Json]) -> Understood:
    """Find the place of every tensor. An unknown family gets a place per layer or first word of the names.

    Raises BadInputError naming the field or tensor that does not fit a known family.
    """
    tensors = source.slices()
    clean = {key: _finite(value) for key, value in config.items()}
    family, reason = family_of(config)
    if family is None:
        groups = group_unknown(tensors)
        names = {(group, name): name for group, members in groups.items() for name in members}
        named = str(config.get("model_type") or UNKNOWN)
        why = (reason,) if reason else ()
        return Understood(UNKNOWN if reason else named, clean, None, names, why, ("stored tensor by tensor",))
    where = str(source.root)
    plan = make_plan(family, config, where=f"{where}/config.json")
    fitted: Fitted = fit(plan, tensors, config, where=where)
    unservable = tuple(line.replace(f"{where}/", "") for line in plan.unservable)
    return Understood(family.name, clean, plan, fitted.names, unservable, fitted.notes)


def build_parts(understood: Understood, intake: Intake) -> list[Part]:
    """The model's parts, their tensors put."""
    if understood.plan is not None:
        return [_built(part, part.name, understood, intake) for part in understood.plan.parts]
    groups: dict[str, list[str]] = {}
    for (group, _), name in understood.names.items():
        groups.setdefault(group, []).append(name)
    arch = {"model_type": understood.config.get("model_type")}
    return [
        Part(group, make_block(TENSORS, arch, [intake.tensor(name, name) for name in members]))
        for group, members in groups.items()
    ]


def _built(plan: PartPlan, name: str, understood: Understood, intake: Intake) -> Part:
    tensors = [intake.tensor(understood.names[plan.name, role], role) for role in plan.tensors]
    children = [_built(child, child.name.removeprefix(f"{plan.name}."), understood, intake) for child in plan.children]
    return Part(name, make_block(plan.kind, plan.arch, tensors, children))


def has_tokenizer(files: Mapping[str, str]) -> bool:
    """Whether a model's files hold a tokenizer."""
    return any(name in files for name in _TOKENIZER)


def _finite(value: Json) -> Json:
    """The value with infinities and NaN, which are not JSON though Python writes them, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value
