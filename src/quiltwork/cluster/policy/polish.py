"""The cheapest jobs to stop, by constraint programming: starts from a plan, and stops at its time limit."""

from __future__ import annotations

from collections.abc import Mapping

from ortools.sat.python import cp_model

SCALE = 1000
"""CP-SAT counts in whole numbers: prices are rounded to a thousandth of the dearest, where they are not whole."""


def polished(
    jobs_on: Mapping[int, frozenset[int]],
    price: Mapping[int, float],
    needed: int,
    stopped: frozenset[int],
    *,
    seconds: float,
) -> frozenset[int]:
    """The cheapest jobs found whose stopping empties ``needed`` of the servers; never dearer than ``stopped``.

    One worker and a fixed seed: the same plan each time, unless the time limit ends the search.
    """
    model = cp_model.CpModel()
    stops = {j: model.new_bool_var(f"job {j}") for j in sorted(price)}
    gone = {s: model.new_bool_var(f"server {s}") for s in jobs_on}
    for s, jobs in jobs_on.items():
        for j in sorted(jobs):
            model.add_implication(gone[s], stops[j])
        model.add_hint(gone[s], int(jobs <= stopped))
    for j, var in stops.items():
        model.add_hint(var, int(j in stopped))
    model.add(sum(gone.values()) >= needed)
    dearest = max(price.values())
    whole = all(p == round(p) for p in price.values())
    model.minimize(
        sum((round(p) if whole else max(1, round(p / dearest * SCALE))) * stops[j] for j, p in sorted(price.items()))
    )
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return stopped
    found = frozenset(j for j, var in stops.items() if solver.boolean_value(var))
    return found if sum(price[j] for j in found) <= sum(price[j] for j in stopped) else stopped
