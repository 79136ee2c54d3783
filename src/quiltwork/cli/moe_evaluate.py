"""``quiltwork moe evaluate``: what a trained model does with other numbers of experts, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.output import emit, narration, table

DEFAULT = ("trained", "top1", "top2")


def evaluate(
    model: Annotated[Path, typer.Argument(help="The OUT of `quiltwork moe train`.", show_default=False)],
    experts: Annotated[
        list[str] | None,
        typer.Option(help="trained, adaptive, top1, top2, T=0.2 (a threshold), k=1.3 (per token); repeatable."),
    ] = None,
    part: Annotated[str, typer.Option(help="On which part: valid or test.")] = "test",
    device: Annotated[str, typer.Option(help="Where it is computed.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure one trained model with each way to take experts: the task's scores, experts per token and FLOPs.
    What k=1.3 needs for a threshold is found on the validation part."""
    from quiltwork.core.errors import BadInputError
    from quiltwork.moe.evaluation import Evaluated, evaluate_result, mode_of

    if part not in ("valid", "test"):
        raise BadInputError(f"{part[:20]!r} is neither valid nor test", where="--part")
    modes = [mode_of(told) for told in experts or DEFAULT]
    with narration("evaluating") as say:
        found: list[Evaluated] = evaluate_result(model, modes, part=part, device=device, say=say)
    names = list(found[0].scores)
    columns = ("experts", "per token", *names, "FLOPs/token", "of experts", "thresholds")
    shown = table(*columns, numbers=columns[1:-1])
    for one in found:
        scores = [f"{one.scores[name]:.4f}" for name in names]
        told = sorted({f"{t:.4g}" for t in one.thresholds if t is not None})
        at = told[0] if len(told) == 1 else f"{told[0]} to {told[-1]}" if told else ""
        shown.add_row(one.mode, f"{one.mean:.3f}", *scores, f"{one.flops:.4g}", f"{one.expert_flops:.4g}", at)
    document = {
        "model": str(model),
        "part": part,
        "modes": [
            {
                "mode": one.mode,
                "experts_per_token": one.mean,
                "by_layer": list(one.experts),
                "thresholds": list(one.thresholds),
                "scores": dict(one.scores),
                "flops_per_token": one.flops,
                "expert_flops_per_token": one.expert_flops,
            }
            for one in found
        ],
    }
    emit(document, json, shown)
