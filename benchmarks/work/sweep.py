"""Finding a baseline's best settings: run each candidate, keep the cheapest, show them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Protocol, TypeVar

from quiltwork.core.bench import Context
from quiltwork.core.errors import QuiltworkError


class Labelled(Protocol):
    """Settings with a name for the table."""

    def label(self) -> str:
        """One cell of the sweep's table."""
        ...


Candidate = TypeVar("Candidate", bound=Labelled)
Row = dict[str, object]


def sweep(
    context: Context,
    what: str,
    candidates: Sequence[Candidate],
    configure: Callable[[Candidate], object],
    work: Callable[[], object],
    *,
    clock: str,
    repeats: int = 2,
) -> tuple[Candidate, list[Row]]:
    """Measure ``work`` under each candidate, one call for warm-up; configure the best. Returns it and a row for each.

    A candidate that fails (no compiler for a compiled one, say) is shown as failed and not chosen. Raises
    QuiltworkError where all fail.

    clock : ``cpu_s`` or ``wall_s``.
    """
    rows: list[Row] = []
    costs: dict[int, float] = {}
    for i, candidate in enumerate(candidates):
        label = candidate.label()
        context.progress(f"{what}: {label}")
        try:
            configure(candidate)
            samples = context.interleave({label: work}, repeats=repeats, warmup=1)[label]
        except QuiltworkError as error:
            rows.append({"sweep": what, "settings": label, clock: f"failed: {str(error).strip().splitlines()[-1]}"})
            continue
        costs[i] = median(getattr(sample, clock) for sample in samples)
        rows.append({"sweep": what, "settings": label, clock: round(costs[i], 4)})
    if not costs:
        raise QuiltworkError("no settings of the baseline work", where=what)
    best = min(costs, key=lambda i: costs[i])
    configure(candidates[best])
    rows[best]["chosen"] = True
    return candidates[best], rows
