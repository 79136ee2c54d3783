"""Adaptive assembly: an adapted model answers for the exact one, where its tenant allows it and it pays.

Which models may stand in is the server's to say, what an answer may lose its tenant's. Without both, every model is
served as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef, visible_to
from quiltwork.core.servable import Caller, Json
from quiltwork.serving.policy.assembly import HYSTERESIS, Candidate, Outlook, assemble
from quiltwork.zoo.equivalence import UNCHANGED, Budget, Quality
from quiltwork.zoo.types import Model


@dataclass(frozen=True)
class StandIns:
    """The adapted models that may answer for exact ones on a server."""

    named: frozenset[ModelRef] = frozenset()
    every: bool = False
    """Whether all that are loaded may."""

    def __bool__(self) -> bool:
        return self.every or bool(self.named)

    def check(self, model: Model) -> None:
        """Raise BadInputError where a model is named that is not an adapted one."""
        if model.ref in self.named and not model.substitutions:
            raise BadInputError(f"{model.ref} is not an adapted model", where="assemble", hint="quiltwork zoo adapt")

    def exact_of(self, model: Model) -> ModelRef | None:
        """Whom a model may stand in for; None where it may not."""
        if not model.substitutions or not (self.every or model.ref in self.named):
            return None
        return model.base


def judged(model: Model) -> Quality | None:
    """What an adapted model loses against the exact one on text that had no part in choosing it; None where unknown."""
    if all(not substitution.text for substitution in model.substitutions):
        return UNCHANGED  # equal functions, which need no text
    told = model.measured.get("judging")
    if not isinstance(told, Mapping):
        return None
    figures = [told.get(name) for name in ("delta_loss", "kl", "agreement")]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in figures):
        return None
    return Quality(*map(float, figures))  # type: ignore[arg-type]  # checked


def allowance(caller: Caller, asked: float | None) -> Budget:
    """What an answer may lose: what the tenant allows, or less where the request asks for less."""
    nats = caller.quality_budget if asked is None else min(caller.quality_budget, asked)
    return Budget(nats, caller.least_agreement)


def permitted(exact: Model, stand_in: Model, tenant: str, allowed: Budget) -> bool:
    """Whether an adapted model may answer what ``tenant`` asks of the exact one.

    It must have been made from the very version that is served, for everybody (a public one) or for this tenant, and
    judged to be within what is allowed. Where nothing may be lost nothing stands in, not even an equal function.
    """
    made_from = stand_in.measured.get("parent_versions")
    version = made_from.get(str(exact.ref)) if isinstance(made_from, Mapping) else None
    if allowed.delta_loss <= 0 or stand_in.base != exact.ref or version != exact.version:
        return False
    quality = judged(stand_in)
    return visible_to(stand_in.ref, tenant) and quality is not None and allowed.allows(quality)


@dataclass(frozen=True)
class Assembled:
    """What was chosen for a request, and from what."""

    exact: Candidate
    stand_ins: tuple[Candidate, ...]
    chosen: Candidate
    ref: ModelRef
    """The chosen model."""
    allowed: Budget
    quality: Quality
    """Of what was chosen, as judged."""

    @property
    def adaptively(self) -> bool:
        """Whether another chain than the exact one answers."""
        return self.chosen is not self.exact

    def served(self) -> dict[str, Json]:
        """What every reply says of it."""
        q = self.quality
        return {
            "asked": self.exact.name,
            "budget": self.allowed.delta_loss,
            "delta_loss": q.delta_loss,
            "kl": q.kl,
            "agreement": q.agreement,
        }

    def explained(self) -> dict[str, Json]:
        """What a reply that is explained says of it besides: what each chain would have cost."""
        return {
            "asked": self.exact.name,
            "served": self.chosen.name,
            "budget": self.allowed.delta_loss,
            "hysteresis": HYSTERESIS,
            "candidates": [_candidate(candidate) for candidate in (self.exact, *self.stand_ins)],
        }


def choose(
    exact: Model,
    stand_ins: Sequence[Model],
    allowed: Budget,
    outlooks: Mapping[ModelRef, Outlook],
    load_s: Mapping[ModelRef, float],
) -> Assembled:
    """Choose between the exact model and those that may stand in for it.

    Parameters
    ----------
    outlooks : what the request would take on each; a stand-in without one is passed over.
    load_s : seconds to load those that are not in memory.
    """
    candidates = [
        Candidate(
            str(model.ref),
            replace(outlooks[model.ref], load_s=outlooks[model.ref].load_s + load_s.get(model.ref, 0.0)),
            quality.delta_loss,
        )
        for model in stand_ins
        if model.ref in outlooks and (quality := judged(model)) is not None
    ]
    of_exact = outlooks.get(exact.ref, Outlook())
    here = Candidate(str(exact.ref), replace(of_exact, load_s=of_exact.load_s + load_s.get(exact.ref, 0.0)))
    chosen = assemble(here, candidates)
    by_name = {str(model.ref): model for model in (exact, *stand_ins)}
    serving = by_name[chosen.name]
    quality = UNCHANGED if serving is exact else judged(serving)
    assert quality is not None
    return Assembled(here, tuple(candidates), chosen, serving.ref, allowed, quality)


def _candidate(candidate: Candidate) -> dict[str, Json]:
    look = candidate.outlook
    return {
        "model": candidate.name,
        "delta_loss": candidate.delta_loss,
        "seconds": _finite(look.cost_s),
        "load": _finite(look.load_s),
        "prompt": _finite(look.prompt_s),
        "queue_per_token": _finite(look.queue_s),
        "batch_per_token": _finite(look.step_s),
        "tokens": look.steps,
        "found": look.found,
    }


def _finite(seconds: float) -> float | None:
    """JSON has no infinity: None."""
    return seconds if math.isfinite(seconds) else None
