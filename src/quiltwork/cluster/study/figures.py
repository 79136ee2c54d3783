"""The figures that are shown of a run: what each is called, of what it is a share, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from quiltwork.cluster.simulate.metrics import Metrics
from quiltwork.cluster.study.comparison import Comparison, Outcome, ratios
from quiltwork.core.units import format_duration


class Figure(NamedTuple):
    """``better`` : -1 where less is better, 1 where more is, 0 where it is neither."""

    group: str
    name: str
    of: str
    """Of what it is a share, or what it counts."""
    value: Callable[[Metrics], float]
    shown: Callable[[float], str]
    better: int = -1


def duration(seconds: float) -> str:
    """A length of time in words; what is less than a twentieth of a second is none."""
    return "0 s" if seconds < 0.05 else format_duration(seconds)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _small_percent(share: float) -> str:
    return f"{share:.3%}" if share else "0"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _times(number: float) -> str:
    return f"{number:,.1f}x"


def _few(number: float) -> str:
    return f"{number:,.1f}" if 0 < number < 100 else _count(number)


def _hours(worker_s: float) -> float:
    return worker_s / 3600


FIGURES = (
    Figure("Queue", "mean", "from submission to the first start", lambda m: m.queue_mean_s, duration),
    Figure("Queue", "median", "", lambda m: m.queue_p50_s, duration),
    Figure("Queue", "p95", "", lambda m: m.queue_p95_s, duration),
    Figure("Queue", "p99", "", lambda m: m.queue_p99_s, duration),
    Figure("Queue", "mean wait", "waits after preemptions included", lambda m: m.wait_mean_s, duration),
    Figure("JCT", "mean", "from submission to the end", lambda m: m.jct_mean_s, duration),
    Figure("JCT", "median", "", lambda m: m.jct_p50_s, duration),
    Figure("JCT", "p95", "", lambda m: m.jct_p95_s, duration),
    Figure("JCT", "p99", "", lambda m: m.jct_p99_s, duration),
    Figure("JCT", "max slowdown", "of running alone as asked for", lambda m: m.slowdown_max, _times),
    Figure("Usage", "training's GPUs", "allocated, of training's own", lambda m: m.usage_train, _percent, 1),
    Figure("Usage", "with lent GPUs", "allocated, of its own and lent", lambda m: m.usage_whitelist, _percent, 0),
    Figure("Usage", "all GPUs", "allocated or needed, of both clusters'", lambda m: m.usage_all, _percent, 1),
    Figure(
        "Usage", "goodput", "useful work, of what its own GPUs could do to the end", lambda m: m.goodput, _percent, 1
    ),
    Figure("Preemption", "preemptions", "times that a job was stopped", lambda m: m.preemptions, _count),
    Figure("Preemption", "jobs", "stopped at least once", lambda m: m.preempted_jobs, _count),
    Figure("Preemption", "lost GPU-hours", "of one training GPU", lambda m: _hours(m.lost_worker_s), _few),
    Figure("Loans", "loans", "servers lent, each time", lambda m: m.loans, _count, 0),
    Figure("Loans", "reclaims", "times that servers were asked back", lambda m: m.reclaims, _count, 0),
    Figure("Loans", "collateral", "servers emptied beyond need", lambda m: m.collateral_servers, _count),
    Figure("Loans", "shortfall", "unmet, of inference's needed server time", lambda m: m.shortfall, _small_percent),
    Figure("Scaling", "out", "times that a job got workers", lambda m: m.scale_outs, _count, 0),
    Figure("Scaling", "in", "times that a job gave workers up", lambda m: m.scale_ins, _count, 0),
)


class Line(NamedTuple):
    """One figure over all arms."""

    group: str
    name: str
    of: str
    values: tuple[str, ...]
    best: tuple[int, ...]
    """Arms that stand best; none where all stand alike, or more is neither better nor worse."""


def lines_of(found: Comparison) -> list[Line]:
    """The figures of a comparison, those against the first arm, and seconds of the clock."""
    lines = []
    for figure in FIGURES:
        values = [figure.value(outcome.metrics) for outcome in found.outcomes]
        top = max(figure.better * value for value in values)
        best = [at for at, value in enumerate(values) if figure.better and figure.better * value == top]
        if len(best) == len(values):
            best = []
        lines.append(Line(figure.group, figure.name, figure.of, tuple(map(figure.shown, values)), tuple(best)))
    return [*lines, *_against(found), _wall(found.outcomes)]


def _against(found: Comparison) -> list[Line]:
    if len(found.outcomes) < 2:
        return []
    first = found.outcomes[0]
    told = [ratios(first.metrics, outcome.metrics) for outcome in found.outcomes]
    shown = (
        ("queue_mean", "mean queue", f"{first.arm.name}'s divided by it"),
        ("jct_mean", "mean JCT", f"{first.arm.name}'s divided by it"),
        ("usage_all", "usage of all GPUs", f"divided by {first.arm.name}'s"),
        ("goodput", "goodput", f"divided by {first.arm.name}'s"),
    )
    return [
        Line(f"Against {first.arm.name}", name, of, tuple("-" if (v := r[key]) is None else f"{v:,.2f}x" for r in told),
             ())
        for key, name, of in shown
    ]  # fmt: skip


def _wall(outcomes: tuple[Outcome, ...]) -> Line:
    return Line("Simulation", "took", "seconds of the clock", tuple(f"{o.wall_s:,.1f} s" for o in outcomes), ())
