"""``quiltwork zoo equivalents`` and ``zoo adapt``: whose blocks might serve in a model; a model in which they do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from quiltwork.cli.output import emit, narration, table
from quiltwork.cli.zoo_train import DEFAULT, JsonOption, SeedOption, ZooOption, read_text
from quiltwork.core.errors import BadInputError
from quiltwork.core.names import parse_ref
from quiltwork.core.progress import ignore
from quiltwork.core.units import format_bytes
from quiltwork.zoo import Zoo

if TYPE_CHECKING:
    from quiltwork.serving.adapt import AdaptReport, Asked
    from quiltwork.zoo.equivalence import PartCandidates, Quality, Swap

ProbeOption = Annotated[
    Path | None, typer.Option("--text", help="What to measure on; its first half decides, the second is only reported.")
]
TenantOption = Annotated[
    str | None,
    typer.Option(help="For whom: only public models and this tenant's are drawn on. The owner's, if absent."),
]
TokensOption = Annotated[int, typer.Option(help="Of each half of the text, at most.")]
WindowOption = Annotated[int, typer.Option(help="Tokens per window.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda ...")]
DtypeOption = Annotated[str, typer.Option(help="Precision to measure in, as in `quiltwork up`.")]
PerPartOption = Annotated[int, typer.Option(help="Candidates per part, at most.", min=1)]


def equivalents(
    model: str,
    text: ProbeOption = None,
    between: Annotated[
        str | None,
        typer.Option(help="Compare with this model, of whatever size, by what each block would make it say."),
    ] = None,
    tenant: TenantOption = None,
    per_part: PerPartOption = 3,
    tokens: TokensOption = 8192,
    window: WindowOption = 128,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """List blocks of other models that might serve in MODEL's parts; with a text, what each costs alone."""
    from quiltwork.serving import adapt as adapting
    from quiltwork.serving.config import EngineConfig
    from quiltwork.zoo.equivalence import find_candidates

    asked = _asked(text, window, tokens)
    config = EngineConfig(device=device, dtype=dtype)
    if between is not None:
        _between(model, between, asked, config, zoo, json)
        return
    with Zoo(zoo, create=False) as opened, narration(f"candidates for {model}") as say:
        exact, owner = adapting.seen(opened, parse_ref(model), tenant)
        words = None if asked is None else adapting.probe_text(opened, exact, asked)
        found = find_candidates(opened, exact, tenant=owner, seed=seed, per_part=per_part, progress=ignore)
        swaps = [swap for part in found for swap in part.swaps]
        costs: list[Quality] | None = None
        if words is not None:
            costs = adapting.single_swaps(opened, exact, swaps, words, config, say)
    document = {
        "model": str(exact.ref),
        "version": exact.version,
        "parts": [_part(part, dict(zip(map(id, swaps), costs, strict=True)) if costs else {}) for part in found],
    }
    emit(document, json, _candidates(found, swaps, costs))


def adapt(
    model: str,
    budget: Annotated[
        float, typer.Option(help="Nats per token that all substitutions together may cost; 0: only equal functions.")
    ] = 0.0,
    text: ProbeOption = None,
    agreement: Annotated[float, typer.Option(help="Least share of tokens with the same most likely next one.")] = 0.97,
    name: Annotated[str | None, typer.Option(help="What to call it; MODEL-adapted where not given.")] = None,
    tenant: TenantOption = None,
    per_part: PerPartOption = 3,
    tokens: TokensOption = 8192,
    window: WindowOption = 128,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of another model of that name.")] = False,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Make a model in which other models' blocks serve, within a budget. Exits with 1 where none qualifies."""
    from quiltwork.serving import adapt as adapting
    from quiltwork.serving.config import EngineConfig
    from quiltwork.zoo.equivalence import Budget

    allowed = Budget(budget, agreement)
    asked = _asked(text, window, tokens)
    with Zoo(zoo, create=False) as opened, narration(f"adapting {model}") as say:
        report = adapting.adapt(
            opened,
            parse_ref(model),
            budget=allowed,
            asked=asked,
            config=EngineConfig(device=device, dtype=dtype),
            say=say,
            progress=ignore,
            name=name,
            tenant=tenant,
            seed=seed,
            per_part=per_part,
            replace_model=replace,
        )
    emit(_adapted(report), json, *_told(report))
    if report.model is None:
        typer.echo("quiltwork: nothing qualifies within the budget: not registered", err=True)
        raise typer.Exit(1)


def _between(model: str, other: str, asked: Asked | None, config: Any, zoo: Path, json: bool) -> None:
    from quiltwork.serving.lens import compare_depths

    if asked is None:
        raise BadInputError("is needed to compare what blocks make a model say", where="--text")
    with Zoo(zoo, create=False) as opened, narration(f"comparing {model} and {other}") as say:
        a, b = opened.model(parse_ref(model)), opened.model(parse_ref(other))
        seen, tokens = compare_depths(opened, a, b, asked, config, say)
    shown = table(
        str(a.ref), str(b.ref), "cosine", "KL", "agreement", title=f"read by each model's head, {tokens} tokens"
    )
    for one in seen:
        shown.add_row(one.part, one.other, f"{one.cosine:.3f}", f"{one.kl:.3f}", f"{one.agreement:.1%}")
    document = {"model": str(a.ref), "other": str(b.ref), "tokens": tokens, "parts": [one.to_json() for one in seen]}
    emit(document, json, shown)


def _asked(path: Path | None, window: int, tokens: int) -> Asked | None:
    from quiltwork.serving.adapt import Asked

    return None if path is None else Asked(read_text(path), str(path), window, tokens)


def _candidates(found: tuple[PartCandidates, ...], swaps: list[Swap], costs: list[Quality] | None) -> Table:
    measured = ("delta loss", "KL", "agreement") if costs is not None else ()
    shown = table("part", "candidate of", "cosine", "saves", *measured)
    by_swap = dict(zip(map(id, swaps), costs or (), strict=False))
    for part in found:
        if part.shared_with:
            shown.add_row(part.part.name, f"has it too: {', '.join(map(str, part.shared_with))}")
        elif not part.swaps:
            shown.add_row(part.part.name, "none")
        for swap in part.swaps:
            cosine = "equal" if swap.exact else f"{swap.cosine:.4f}"
            cells = _cost(by_swap[id(swap)]) if costs is not None else ()
            shown.add_row(swap.part, str(swap.source), cosine, format_bytes(swap.saved_bytes), *cells)
    shown.caption = "a candidate is worth measuring and no more; `quiltwork zoo adapt` decides"
    return shown


def _cost(quality: Quality) -> tuple[str, str, str]:
    return f"{quality.delta_loss:+.4f}", f"{quality.kl:.4f}", f"{quality.agreement:.1%}"


def _part(part: PartCandidates, costs: dict[int, Quality]) -> dict[str, Any]:
    return {
        "part": part.part.name,
        "block": part.part.block.id,
        "shared_with": [str(ref) for ref in part.shared_with],
        "candidates": [_swap(swap) | ({"alone": _figures(costs[id(swap)])} if costs else {}) for swap in part.swaps],
    }


def _swap(swap: Swap) -> dict[str, Any]:
    return {
        "model": str(swap.source),
        "block": swap.replacement.block.id,
        "cosine": swap.cosine,
        "exact": swap.exact,
        "saved_bytes": swap.saved_bytes,
    }


def _figures(quality: Quality) -> dict[str, float]:
    return {"delta_loss": quality.delta_loss, "kl": quality.kl, "agreement": quality.agreement}


def _adapted(report: AdaptReport) -> dict[str, Any]:
    return {
        "model": None if report.model is None else str(report.model.ref),
        "version": None if report.model is None else report.model.version,
        "exact": str(report.exact.ref),
        "budget": report.budget.delta_loss,
        "least_agreement": report.budget.agreement,
        "saved_bytes": report.decision.saved_bytes,
        "substitutions": [
            {"part": one.swap.part, **_swap(one.swap), "alone": _figures(one.alone), "total": _figures(one.total)}
            for one in report.decision.taken
        ],
        "singles": [
            {"part": swap.part, "model": str(swap.source), **_figures(quality)}
            for swap, quality in report.decision.singles
        ],
        "deciding": None if report.deciding is None else report.deciding.to_json(),
        "judging": None if report.judging is None else report.judging.to_json(),
    }


def _told(report: AdaptReport) -> list[Table | str]:
    shown = table("part", "served by", "saves", "delta loss alone", "together", "KL", "agreement")
    for one in report.decision.taken:
        costs = f"{one.alone.delta_loss:+.4f}", *_cost(one.total)
        shown.add_row(one.swap.part, str(one.swap.source), format_bytes(one.swap.saved_bytes), *costs)
    lines: list[Table | str] = [shown] if report.decision.taken else []
    for what, half in (("the half that decided", report.deciding), ("the half that did not", report.judging)):
        if half is not None and report.decision.taken:
            delta, kl, same = _cost(half.quality)
            on = f"on {what}, {half.tokens} tokens"
            lines.append(f"{on}: {half.loss:.4f} {delta} nats per token, KL {kl}, agreement {same}")
    if report.judging is not None and report.decision.taken and not report.budget.allows(report.judging.quality):
        lines.append("warning: on the half that did not decide, that is outside the budget")
    if report.model is not None:
        lines.append(f"registered {report.model.ref}; {report.exact.ref} stays as it is")
    else:
        lines.append(f"{len(report.decision.singles)} single swaps measured; none is within the budget")
    return lines
