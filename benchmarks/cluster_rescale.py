"""How long training stands still when a job gets one more worker, or gives one up: ours on both backends, Ray Train.

The same network (10 million parameters), optimiser and batch on 2 workers, then 3, then 2 again, one thread each. The
pause is the longest time between two optimiser steps from the moment at which the change was asked for: whatever the
change costs while training goes on, loading libraries among it, counts only where it makes steps slower. Detection is
in no side's pause, since all compute until they have noticed; the rows have it beside the pause.

Ours are live clusters: another job ends, or comes and goes first, and the controller has ours grow and shrink. Ray
Train is elastic as its guides have it, and is asked in the gentlest way: its own coordinator of resources reserves more
or fewer for it, so that no node and no process is lost (a node that is killed costs it more). Its checkpoints are in
main memory, and steps that it takes a second time since the last one count as steps.

Every sample is a job of its own, in its stride; arms take turns, and one round before that is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.registry import missing_package

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

BACKENDS = ("local", "ray")
DIRECTIONS = {"out": ("2 -> 3 workers", 2.0), "in": ("3 -> 2 workers", 0.5)}
"""What changes, and how many seconds that may take."""
TIMES_SHORTER = 10.0
REPEATS = 5


def seconds(direction: str, backend: str) -> str:
    """The claim on a pause by itself."""
    return f"cluster.rescale_{direction}_{backend}_seconds"


def shorter(direction: str, backend: str) -> str:
    """The claim on a pause beside Ray Train's."""
    return f"cluster.rescale_{direction}_{backend}_vs_ray_train"


CLAIMS = tuple(
    claim
    for direction, (what, reach) in DIRECTIONS.items()
    for backend in BACKENDS
    for claim in (
        Claim(name=seconds(direction, backend), room="cluster",
              title=f"longest gap between optimiser steps, {what} of a live job, {backend} backend: seconds",
              reach=at_most(reach), ratio="ours/baseline", unit="s"),
        Claim(name=shorter(direction, backend), room="cluster",
              title=f"longest gap between optimiser steps, {what} of a live job, {backend} backend, vs Ray Train",
              reach=at_least(TIMES_SHORTER), ratio="baseline/ours", unit="s"),
    )
)  # fmt: skip


def run(context: Context) -> Mapping[str, Outcome]:
    """A round of all arms that is not counted, and then the others."""
    try:
        import ray
        import torch
    except ModuleNotFoundError as error:
        raise missing_package(error, where="live rescaling") from error

    from work.growing import BATCH, SMALL, WIDTH
    from work.rescaling import EVERY, LEAST, LOCAL, MOST, RAY, STEADY, TRAIN
    from work.side import Side

    width = SMALL if context.quick else WIDTH
    rows: list[dict[str, Json]] = []
    pauses: dict[tuple[str, str], list[float]] = {}
    folder = context.scratch / "rescale"
    with Side("work.rescaling:Machine", threads=1, folder=folder, width=width, seed=context.seed) as machine:
        for turn in range(-1, 1 if context.quick else REPEATS):
            for arm in (LOCAL, RAY, TRAIN):
                context.progress(f"{arm}, round {turn + 1}" if turn >= 0 else f"{arm}, warm-up")
                found = machine.call("change", arm, turn)
                if turn < 0:
                    continue
                for direction, change in found.items():
                    pauses.setdefault((direction, arm), []).append(change["pause_s"])
                    rows.append({"change": direction, "arm": arm, "round": turn + 1}
                                | {name: round(value, 3) for name, value in change.items()})  # fmt: skip
    details: dict[str, Json] = {
        "parameters": _parameters(width), "batch": BATCH, "optimiser": "Adam, fused", "threads": 1,
        "workers": [LEAST, MOST], "steps before and after": STEADY, "ray": ray.__version__, "torch": torch.__version__,
        "Ray Train": {"steps between checkpoints": EVERY, "checkpoints": "in main memory",
                      "asked by": "another requester at its coordinator of resources"},
    }  # fmt: skip
    outcomes = {}
    for direction in DIRECTIONS:
        for backend, arm in zip(BACKENDS, (LOCAL, RAY), strict=True):
            ours, theirs = pauses[direction, arm], pauses[direction, TRAIN]
            outcomes[seconds(direction, backend)] = Outcome(ours, [1.0], details=details, rows=rows)
            outcomes[shorter(direction, backend)] = Outcome(ours, theirs, details=details, rows=rows)
    return outcomes


def _parameters(width: int) -> int:
    from work.growing import network

    return sum(p.numel() for p in network(width, 0).parameters())
