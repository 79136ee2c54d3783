"""The 15-day trace, 50,390 jobs on 172 training and 202 inference servers: first come first served, shortest first, and
shortest first with loans and elastic scaling.

Everybody knows running times, nobody checkpoints, a T4 is a third of a V100; elastic are the 5 % with most GPU time
and may have twice the workers they asked for, over both GPU types at once. Queue, completion, shortfall and the time
that simulating takes are one arm's. The rules' parameters were chosen on other jobs of the same log. Everything is
deterministic but the processor time: one value each, no interval.

Beside the claims stand a grid of everything that can be switched by itself (table ``grid``: order, loans, scaling,
speed, checkpoints; without loans nobody is preempted, and without scaling on one GPU type curves change nothing, so
those arms stand once), and the same arm with other labels or beliefs (table ``assumptions``): scaling that is less
kind (mixing types costs 30 %, or is not possible), large and long jobs elastic, a random 5 %, running times that are
learned instead of known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from work.philly import Philly, Run

SETUP = "15-day trace, 172 + 202 servers"
QUEUE, JCT = "cluster.queue_vs_fifo", "cluster.jct_vs_fifo"
QUEUE_SJF, JCT_SJF = "cluster.queue_vs_sjf", "cluster.jct_vs_sjf"
LINEAR_QUEUE, LINEAR_JCT = "cluster.linear_queue_vs_fifo", "cluster.linear_jct_vs_fifo"
SHORTFALL = "cluster.shortfall"
LYRA_S, FIFO_S, SJF_S = (
    "cluster.simulation_seconds",
    "cluster.simulation_fifo_seconds",
    "cluster.simulation_sjf_seconds",
)


def _gain(name: str, what: str, against: str, speeds: str, reach: float) -> Claim:
    return Claim(name=name, room="cluster", title=f"{SETUP}, {speeds}: mean {what} vs {against}",
                 reach=at_least(reach), ratio="baseline/ours", unit="s", parity=False)  # fmt: skip


def _time(name: str, policy: str, reach: float) -> Claim:
    return Claim(name=name, room="cluster", title=f"{SETUP}: processor seconds to simulate {policy}",
                 reach=at_most(reach), ratio="ours/baseline", unit="s", parity=False)  # fmt: skip


CLAIMS = (
    _gain(QUEUE, "queue", "FIFO", "measured speed curves", 1.53),
    _gain(JCT, "completion", "FIFO", "measured speed curves", 1.50),
    _gain(QUEUE_SJF, "queue", "SJF alone", "measured speed curves", 4.0),
    _gain(JCT_SJF, "completion", "SJF alone", "measured speed curves", 1.3),
    _gain(LINEAR_QUEUE, "queue", "FIFO", "linear speed", 40.0),
    _gain(LINEAR_JCT, "completion", "FIFO", "linear speed", 1.9),
    Claim(name=SHORTFALL, room="cluster",
          title=f"{SETUP}: 1 + unmet share of inference's server-minutes that loans cause",
          reach=at_most(1.001), ratio="ours/baseline", unit="x", parity=False),
    _time(LYRA_S, "loans and elastic scaling", 60.0),
    _time(FIFO_S, "FIFO", 10.0),
    _time(SJF_S, "SJF", 10.0),
)  # fmt: skip


def run(context: Context) -> Mapping[str, Outcome]:
    """All arms one after another; other assumptions last."""
    from work.philly import Philly

    if context.data is None or not (context.data / "cluster" / "jobs").is_dir():
        raise NotFoundError("needs the trace", where="cluster/jobs", hint="set QUILTWORK_DATA to the data's folder")
    count = 1500 if context.quick else None
    measured, linear = (Philly(context.data, curves, count=count) for curves in (True, False))
    rows: list[dict[str, object]] = []

    def arm(switches: Switches) -> Run:
        context.progress(f"grid: {switches}")
        done = switches.run(measured if switches.speed == "measured" else linear)
        rows.append({"table": "grid"} | switches.row() | done.row())
        return done

    fifo, sjf, ours, straight, grown = map(arm, CLAIMED)
    if not context.quick:
        for switches in grid():
            if switches not in CLAIMED:
                arm(switches)
        for note, world in _assuming(measured).items():
            context.progress(f"assumptions: {note}")
            rows.append({"table": "assumptions", "changed": note} | world.run("lyra").row())
    details: dict[str, object] = {"jobs": ours.metrics.jobs, "train": 172, "infer": 202, "demand": "m-small"}

    def settled(baseline: float, found: float) -> Outcome:
        return Outcome(ours=[found], baseline=[baseline], answers_equal=None, details=details, rows=rows)

    unmet = max(0.0, ours.metrics.shortfall - fifo.metrics.shortfall)
    least = 1e-3  # a queue of nothing has no ratio
    return {
        QUEUE: settled(fifo.metrics.queue_mean_s, max(ours.metrics.queue_mean_s, least)),
        JCT: settled(fifo.metrics.jct_mean_s, ours.metrics.jct_mean_s),
        QUEUE_SJF: settled(max(sjf.metrics.queue_mean_s, least), max(ours.metrics.queue_mean_s, least)),
        JCT_SJF: settled(sjf.metrics.jct_mean_s, ours.metrics.jct_mean_s),
        LINEAR_QUEUE: settled(straight.metrics.queue_mean_s, max(grown.metrics.queue_mean_s, least)),
        LINEAR_JCT: settled(straight.metrics.jct_mean_s, grown.metrics.jct_mean_s),
        SHORTFALL: settled(1.0, 1.0 + unmet),
        LYRA_S: settled(1.0, ours.cpu_s),
        FIFO_S: settled(1.0, fifo.cpu_s),
        SJF_S: settled(1.0, sjf.cpu_s),
    }


@dataclass(frozen=True)
class Switches:
    """An arm of the grid. order : ``fifo`` (strictly) or ``sjf``."""

    order: str
    loans: bool = False
    scaling: bool = False
    speed: str = "measured"
    checkpoints: bool = False

    def run(self, world: Philly) -> Run:
        from quiltwork.cluster.policy.rules import Elastic

        if self.checkpoints:
            world = replace(world, rules=replace(world.rules, checkpointed=1.0))
        elastic = Elastic.MARGINAL if self.scaling else Elastic.NONE
        return world.run(self.order, loaning=self.loans, elastic=elastic)

    def row(self) -> dict[str, object]:
        return {"order": self.order, "loans": self.loans, "scaling": self.scaling, "speed": self.speed,
                "checkpoints": "every 10 min" if self.checkpoints else "none"}  # fmt: skip


FIFO, SJF = Switches("fifo"), Switches("sjf")
OURS = Switches("sjf", loans=True, scaling=True)
"""The policy ``lyra``: what it is beside these is what every policy has unless it says otherwise."""
CLAIMED = (FIFO, SJF, OURS, replace(FIFO, speed="linear"), replace(OURS, speed="linear"))


def grid() -> list[Switches]:
    """Every arm that differs from the others, but for checkpoints, which are looked at with measured speeds alone."""
    both = (False, True)
    arms = [Switches(*chosen) for chosen in product(("fifo", "sjf"), both, both, ("measured", "linear"), both)]
    return [
        arm
        for arm in arms
        if (arm.loans or not arm.checkpoints)
        and (arm.loans or arm.scaling or arm.speed == "measured")
        and (arm.speed == "measured" or not arm.checkpoints)
    ]


def _assuming(world: Philly) -> dict[str, Philly]:
    """The same with one thing of the set-up changed."""
    rules = world.rules
    return {
        "mixing types at 0.7": replace(world, mixing=0.7),
        "no mixing of types": replace(world, rules=replace(rules, hetero=0.0)),
        "elastic: 8 GPUs and an hour": replace(world, rules=replace(rules, elastic="large-and-long")),
        "elastic: a random 5 %": replace(world, rules=replace(rules, elastic="drawn")),
        "running times learned": world.estimated(),
    }
