"""Adapted models: a model of the zoo in which blocks of others serve, as far as its tenant's budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import ModelRef, check_name, visible_to
from quiltwork.core.progress import Advance, Say
from quiltwork.core.servable import Json
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.probe import Probe, ProbeText, split_probe
from quiltwork.serving.stitching.parts import carried_files
from quiltwork.serving.stitching.text import codec_of
from quiltwork.zoo.derived import Derived, register, require_free
from quiltwork.zoo.equivalence import (
    Budget,
    Decision,
    Quality,
    Swap,
    Taken,
    decide,
    find_candidates,
    substituted,
)
from quiltwork.zoo.types import Model, Part, Substitution
from quiltwork.zoo.zoo import Zoo


@dataclass(frozen=True)
class Asked:
    """A text to measure on, and how."""

    text: str
    where: str = "text"
    """What to call it in an error."""
    window: int = 128
    """Tokens per window."""
    tokens: int = 8192
    """Of each half of the text, at most."""


@dataclass(frozen=True)
class Figures:
    """A model on one half of a text, and what its substitutions cost there."""

    tokens: int
    loss: float
    """Of the exact model, nats per token."""
    quality: Quality

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        q = self.quality
        measured = {"delta_loss": q.delta_loss, "kl": q.kl, "agreement": q.agreement}
        return {"tokens": self.tokens, "loss": self.loss, **measured}


@dataclass(frozen=True)
class AdaptReport:
    """What adapting a model gave."""

    exact: Model
    model: Model | None
    """What was registered; None where no substitution was accepted."""
    budget: Budget
    decision: Decision
    deciding: Figures | None
    """On the half that decided; None without a text."""
    judging: Figures | None
    """On the half that is only reported."""


def seen(zoo: Zoo, ref: ModelRef | str, tenant: str | None) -> tuple[Model, str]:
    """A model that can be served, and for whom: ``tenant``, or its owner where None.

    Raises NotFoundError for one that is not there or that the tenant may not see, BadInputError for no tenant's name.
    """
    model = zoo.model(ref)
    tenant = model.ref.tenant if tenant is None else check_name(tenant, where="tenant")
    if not visible_to(model.ref, tenant):
        raise NotFoundError("no such model", where=str(ref), hint="`quiltwork zoo ls` lists them")
    zoo.chain(model.ref)  # says why it cannot be served, if so
    return model, tenant


def single_swaps(
    zoo: Zoo, model: Model, swaps: Sequence[Swap], text: ProbeText, config: EngineConfig, say: Say
) -> list[Quality]:
    """What each swap costs alone on the deciding half of a text."""
    qualities = []
    with Probe(zoo.chain(model.ref), zoo.read, config) as probe:
        probe.require_room(text.deciding)
        probe.require_finite(text.deciding, text.prefix)
        for number, swap in enumerate(swaps, 1):
            say(f"measuring {swap.part} of {swap.source} ({number} of {len(swaps)})")
            qualities.append(probe.measure(text.deciding, text.prefix, (swap,)))
    return qualities


def probe_text(zoo: Zoo, model: Model, asked: Asked) -> ProbeText:
    """A text in the model's own tokens. Raises BadInputError where it is too short, or the model has no tokenizer."""
    return split_probe(asked.text, codec_of(zoo, model), window=asked.window, tokens=asked.tokens, where=asked.where)


def adapt(
    zoo: Zoo,
    ref: ModelRef | str,
    *,
    budget: Budget,
    asked: Asked | None,
    config: EngineConfig,
    say: Say,
    progress: Advance,
    name: str | None = None,
    tenant: str | None = None,
    seed: int = 0,
    per_part: int = 3,
    replace_model: bool = False,
) -> AdaptReport:
    """Substitute what the budget allows, and register the result as a new model beside the exact one.

    Parameters
    ----------
    asked : the tenant's own text; needed where the budget is above 0.
    tenant : who adapts, whose the new model is, and whose models, beside public ones, may serve in it; the model's
        owner where None.

    Raises BadInputError for a budget without a text, a text that is too short and a model that is adapted already,
    NotFoundError for a model that is not there, ConflictError where the name is taken.
    """
    if budget.delta_loss > 0 and asked is None:
        raise BadInputError("is needed where the budget is above 0", where="--text")
    model, tenant = seen(zoo, ref, tenant)
    if model.substitutions:
        raise BadInputError(f"is adapted already: adapt {model.base}", where=str(model.ref))
    called = f"{model.ref.name}-adapted" if name is None else name
    target = ModelRef(called, tenant)
    if target == model.ref:
        raise BadInputError("is the exact model's own name, and that stays", where=f"--name {called}")
    require_free(zoo, target, replace=replace_model)
    text = None if asked is None else probe_text(zoo, model, asked)
    found = find_candidates(zoo, model, tenant=tenant, seed=seed, per_part=per_part, progress=progress)
    swaps = [swap for part in found for swap in part.swaps]
    if text is None:
        decision, deciding, judging = decide(swaps, budget, _unmeasured), None, None
    else:
        decision, deciding, judging = _measured(zoo, model, swaps, budget, text, config, say)
    digest = "" if text is None else text.digest
    report = AdaptReport(model, None, budget, decision, deciding, judging)
    if not decision.taken:
        return report
    parts = substituted(model.parts, [taken.swap for taken in decision.taken])
    with zoo.adding() as session:
        stored = register(
            session,
            Derived(
                ref=target,
                family=model.family,
                parts=parts,
                config=_config(model, parts),
                files=carried_files(model),
                base=model.ref,
                measured=_told(report, digest),
                notes=(_note(report),),
                substitutions=[_substitution(taken, budget, digest) for taken in decision.taken],
            ),
            replace=replace_model,
        )
    return AdaptReport(model, stored, budget, decision, deciding, judging)


def _measured(
    zoo: Zoo, model: Model, swaps: Sequence[Swap], budget: Budget, text: ProbeText, config: EngineConfig, say: Say
) -> tuple[Decision, Figures, Figures]:
    with Probe(zoo.chain(model.ref), zoo.read, config) as probe:
        probe.require_room(text.deciding)
        probe.require_finite(text.deciding, text.prefix)
        count = 0

        def measure(chosen: Sequence[Swap]) -> Quality:
            nonlocal count
            count += 1
            say(f"measurement {count}: {', '.join(swap.part for swap in chosen)}")
            return probe.measure(text.deciding, text.prefix, chosen)

        decision = decide(swaps, budget, measure)
        taken = [one.swap for one in decision.taken]
        figures = [
            Figures(text.predicted(half), probe.loss(half, text.prefix), probe.measure(half, text.prefix, taken))
            for half in (text.deciding, text.judging)
        ]
    return decision, figures[0], figures[1]


def _unmeasured(swaps: Sequence[Swap]) -> Quality:
    raise AssertionError("a budget of 0 measures nothing")


def _substitution(taken: Taken, budget: Budget, digest: str) -> Substitution:
    return Substitution(
        part=taken.swap.part,
        original=_ids(taken.swap.original),
        serving=_ids(taken.swap.replacement),
        source=taken.swap.source,
        delta_loss=taken.alone.delta_loss,
        kl=taken.alone.kl,
        agreement=taken.alone.agreement,
        total_delta_loss=taken.total.delta_loss,
        total_agreement=taken.total.agreement,
        budget=budget.delta_loss,
        text="" if taken.swap.exact else digest,
    )


def _ids(part: Part) -> tuple[str, ...]:
    return (part.block.id, *(block.id for block in part.attachments))


def _config(model: Model, parts: Sequence[Part]) -> dict[str, Json]:
    """The model's configuration; head and embedding are untied where they have become two matrices."""
    config = dict(model.config)
    ends = [
        {(t.content, t.shape) for t in part.block.tensors if t.name == role}
        for name, role in (("embed", "tokens.weight"), ("head", "lm_head.weight"))
        for part in parts
        if part.name == name
    ]
    if len(ends) == 2 and ends[0] != ends[1]:
        config["tie_word_embeddings"] = False
    return config


def _told(report: AdaptReport, digest: str) -> dict[str, Json]:
    """What stands in the manifest beside the substitutions themselves."""
    told: dict[str, Json] = {
        "how": "adapt",
        "budget": report.budget.delta_loss,
        "least_agreement": report.budget.agreement,
        "saved_bytes": report.decision.saved_bytes,
        "parent_versions": {str(report.exact.ref): report.exact.version},
    }
    if report.deciding is not None and report.judging is not None:
        told |= {
            "text_sha256": digest,
            "deciding": report.deciding.to_json(),
            "judging": report.judging.to_json(),
        }
    return told


def _note(report: AdaptReport) -> str:
    count = len(report.decision.taken)
    what = (
        f"adapted from {report.exact.ref}: {count} part{'s' if count > 1 else ''} of it served by other models' blocks"
    )
    if report.judging is None:
        return f"{what}, which compute the same function"
    return f"{what}; {report.judging.quality.delta_loss:+.4f} nats per token on text that did not decide"
