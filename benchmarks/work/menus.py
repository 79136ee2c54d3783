"""Elastic jobs, each with a menu of its own, and the best division of GPUs among them by CP-SAT."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from ortools.sat.python import cp_model

from quiltwork.cluster.policy.knapsack import Menu, menu_of

WORKERS = (1, 2, 4, 8, 16)
GPUS_PER_WORKER = {1: 0.7, 2: 0.1, 4: 0.1, 8: 0.1}
NOISE = 0.15
"""A worker more may be worth that much less than the curve says: then the curve has a dip."""
RESOLUTION = 10**9
"""CP-SAT counts in whole numbers: the best value is so many units."""


def menus_of(jobs: int, *, seed: str) -> tuple[list[Menu], list[int], list[float]]:
    """Menus in seconds per worker-second left, GPUs of a worker, and worker-seconds left of each job.

    A job of w workers can have up to twice as many; its speed grows as a power of them between 0.6 and 1, with dips.
    What is left is lognormal: half have less than ten hours of one worker, some have a hundred times as much.
    """
    rng = random.Random(f"menus/{seed}/{jobs}")
    menus, weights, left = [], [], []
    for _ in range(jobs):
        w, power = rng.choice(WORKERS), rng.uniform(0.6, 1.0)
        speeds = np.array([n**power for n in range(w, 2 * w + 1)])
        speeds[1:] *= [rng.uniform(1 - NOISE, 1.0) for _ in range(w)]
        menus.append(menu_of(1 / speeds[0] - 1 / speeds))
        weights.append(rng.choices(list(GPUS_PER_WORKER), list(GPUS_PER_WORKER.values()))[0])
        left.append(36_000 * rng.lognormvariate(0, 2))
    return menus, weights, left


def best_by_cp_sat(
    menus: Sequence[Menu], weights: Sequence[int], capacity: int, scale: Sequence[float], *, limit_s: float
) -> tuple[float, bool]:
    """The value found, and whether it was proven to be the best (to one part in a billion)."""
    model = cp_model.CpModel()
    lines = [[(k, float(v) * s) for k, v in enumerate(m.values) if k] for m, s in zip(menus, scale, strict=True)]
    unit = sum(max((value for _, value in line), default=0.0) for line in lines) / RESOLUTION
    taken, gpus, value = [], [], []
    for line, weight in zip(lines, weights, strict=True):
        chosen = [model.new_bool_var("") for _ in line]
        model.add_at_most_one(chosen)
        taken += chosen
        gpus += [k * weight for k, _ in line]
        value += [worth for _, worth in line]
    model.add(cp_model.LinearExpr.weighted_sum(taken, gpus) <= capacity)
    model.maximize(cp_model.LinearExpr.weighted_sum(taken, [round(worth / unit) for worth in value]))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE), "giving nobody anything is always possible"
    found = sum(worth for variable, worth in zip(taken, value, strict=True) if solver.boolean_value(variable))
    return found, status == cp_model.OPTIMAL
