"""The fewest jobs whose stopping empties enough servers, proven: what any plan is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ortools.sat.python import cp_model

from quiltwork.cluster.policy.reclaim import Held


@dataclass(frozen=True)
class Fewest:
    """``found`` jobs are enough, and fewer than ``bound`` are not. ``proven`` : both are the same."""

    found: int
    bound: int
    seconds: float

    @property
    def proven(self) -> bool:
        return self.found == self.bound


def fewest(lent: Mapping[int, Held], wanted: int, *, limit_s: float) -> Fewest:
    """Minimum k-union by CP-SAT, from nothing: no plan of ours is its hint."""
    model = cp_model.CpModel()
    jobs = sorted({job for held in lent.values() for job in held.base})
    stops = {job: model.new_bool_var(f"job {job}") for job in jobs}
    gone = {server: model.new_bool_var(f"server {server}") for server in sorted(lent)}
    for server, emptied in gone.items():
        for job in sorted(lent[server].base):
            model.add_implication(emptied, stops[job])
    model.add(sum(gone.values()) >= wanted)
    model.minimize(sum(stops.values()))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE), "stopping everybody is always enough"
    return Fewest(round(solver.objective_value), round(solver.best_objective_bound), solver.wall_time)
