"""In which order runs are done, and what is chosen by which of them."""

from __future__ import annotations

import json
from pathlib import Path

from work.moe_arms import ADAPTIVE, GATES, SST5, TASKS, TOP2, Run
from work.moe_choices import read_choices
from work.moe_curves import Curve
from work.moe_found import Found
from work.moe_sweep import CHOSEN, all_runs, chosen, gate_of

BEST, OTHER = GATES[-1], GATES[0]
NAMES = {task.name for task in TASKS}


class Performed:
    """Runs that are only told of: on SST-5 the gate ``BEST`` takes the fewest experts to the same loss; elsewhere
    another one would. Of the rates the middle one is the best."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def __call__(self, run: Run) -> Found:
        self.runs.append(run)
        gate = run.gate.get("reading"), run.gate.get("threshold")
        fewer = gate == BEST if run.task.name == SST5.name else gate == OTHER
        experts = 1.2 if fewer else 1.5
        loss = 1.0 + 0.1 * (run.rate != run.task.rates[1])
        steps = (0, run.steps)
        tests = {} if run.tuning else {"equal_steps": 50.0, "all_steps": 50.0}
        each = (experts,) * run.steps
        return Found(Curve(steps, (3.0, loss)), each, tuple((k,) for k in each), 0.6, tests, (0.0, 1.0), 1.0, run.rate)


def test_the_gate_is_chosen_by_sst5_before_any_run_of_a_task_that_is_reported(tmp_path: Path) -> None:
    perform = Performed()
    told = chosen(perform, tmp_path)
    assert gate_of(told) == dict(zip(("reading", "threshold"), BEST, strict=True))
    names = [run.task.name for run in perform.runs]
    first = next(at for at, name in enumerate(names) if name != SST5.name)
    assert SST5.name not in names[first:]
    tried = {(run.gate["reading"], run.gate["threshold"]) for run in perform.runs[:first] if run.arm == ADAPTIVE}
    assert tried == set(GATES)
    # All of it by validation: a run that something is chosen by has no test.
    assert all(run.tuning for run in perform.runs)


def test_every_later_run_of_the_adaptive_arm_has_the_gate_that_was_chosen(tmp_path: Path) -> None:
    perform = Performed()
    told = chosen(perform, tmp_path)
    before = len(perform.runs)
    all_runs(told, perform)
    reported = perform.runs[before:]
    assert {run.task.name for run in reported} == NAMES
    assert {tuple(run.gate.values()) for run in reported if run.arm == ADAPTIVE} == {BEST}
    assert {(run.task.name, run.rate) for run in reported} == {(task.name, task.rates[1]) for task in TASKS}


def test_what_was_chosen_is_not_chosen_again_and_can_be_kept_with_the_benchmark(tmp_path: Path) -> None:
    told = chosen(Performed(), tmp_path)
    again = Performed()
    assert chosen(again, tmp_path)["rates"] == told["rates"]
    assert again.runs == []
    assert read_choices(tmp_path / CHOSEN)["gate"] == told["gate"]


def test_rates_are_still_looked_for_with_the_gate_that_was_chosen_before(tmp_path: Path) -> None:
    told = chosen(Performed(), tmp_path)
    path = tmp_path / CHOSEN
    path.write_text(json.dumps({name: told[name] for name in told if name != "rates"}), encoding="utf-8")
    perform = Performed()
    assert chosen(perform, tmp_path)["rates"] == told["rates"]
    assert {run.task.name for run in perform.runs} == NAMES
    assert {tuple(run.gate.values()) for run in perform.runs if run.arm == ADAPTIVE} == {BEST}
    assert read_choices(path)["rates"] == told["rates"]
    assert any(run.arm == TOP2 for run in perform.runs)
