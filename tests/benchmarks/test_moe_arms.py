"""Which runs the studies are made of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_studies import long_lines, write_data

from work.moe_arms import (
    ADAPTIVE,
    DENSE,
    FURTHER,
    RANDOM2,
    SEEDS,
    SST5,
    TASKS,
    TOP2,
    Task,
    choice_runs,
    of_arm,
    seed_runs,
    tuning_runs,
)

GATE = {"reading": "pair", "threshold": 0.1}
RATES = {task.name: dict.fromkeys(task.arms, 1e-3) for task in TASKS}


def test_every_arm_of_a_task_is_tried_with_the_same_rates_and_steps() -> None:
    for task in TASKS:
        tried: dict[str, list[tuple[float, int]]] = {}
        for run in tuning_runs(task, GATE):
            tried.setdefault(run.arm, []).append((run.rate, run.steps))
        assert set(tried) == set(task.arms)
        assert len({tuple(each) for each in tried.values()}) == 1


def test_the_gate_is_chosen_on_sst5_alone_and_nothing_reported_is_of_it() -> None:
    assert {run.task.name for run in choice_runs({TOP2: 1e-3, ADAPTIVE: 1e-3})} == {SST5.name}
    assert SST5 not in TASKS


def test_quality_has_five_seeds_of_every_main_arm_and_other_gates_are_on_the_language_model_alone() -> None:
    seeds = Counter((run.task.name, run.arm) for run in seed_runs(RATES, GATE))
    for task in TASKS:
        assert seeds[task.name, TOP2] == seeds[task.name, ADAPTIVE] == len(SEEDS) >= 5
    assert {name for name, arm in seeds if arm in FURTHER} == {"lm"}


def test_random_second_experts_are_matched_to_the_adaptive_run_that_is_reported() -> None:
    runs = list(seed_runs(RATES, GATE))
    adaptive = {(run.task.name, run.seed): run for run in runs if run.arm == ADAPTIVE}
    lots = [run for run in runs if run.arm == RANDOM2]
    assert len(lots) == len(SEEDS)
    assert all(run.matched == adaptive[run.task.name, run.seed] for run in lots)


def test_a_run_of_a_quick_look_at_rates_is_not_taken_for_a_reported_one() -> None:
    tuning = of_arm(TASKS[0], TOP2, 0, {TOP2: 1e-3}, GATE, tuning=True)
    assert tuning.told() != of_arm(TASKS[0], TOP2, 0, {TOP2: 1e-3}, GATE).told()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples as long as they may be, at which the experts have the least part in a step."""
    return write_data(tmp_path_factory.mktemp("data"), long_lines, running=60)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_experts_do_60_to_70_per_cent_of_the_flops_of_a_top2_step(data: Path, tmp_path: Path, task: Task) -> None:
    pytest.importorskip("torch")
    from work.moe_run import begun

    training = begun(of_arm(task, TOP2, 0, {TOP2: 1e-3}, GATE), data, tmp_path, validates=False)
    assert max(side.max() for side in training.objective.lengths("train")) == task.settings["length"]
    arrays = training.gradients(np.arange(4)).arrays
    experts, rest = arrays["means/flops"]
    assert arrays["means/load"].sum(1) / arrays["means/tokens"] == pytest.approx([2.0] * len(arrays["means/tokens"]))
    assert 0.6 <= experts / (experts + rest) <= 0.7
    assert training.expert_share() == pytest.approx(experts / (experts + rest), abs=0.02)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_dense_step_costs_as_much_as_a_top2_step_but_for_the_router(data: Path, tmp_path: Path, task: Task) -> None:
    pytest.importorskip("torch")
    from work.moe_run import begun

    runs = {arm: begun(of_arm(task, arm, 0, {arm: 1e-3}, GATE), data, tmp_path / arm) for arm in (TOP2, DENSE)}
    top2, dense = (runs[arm].gradients(np.arange(2)).arrays["means/flops"] for arm in (TOP2, DENSE))
    assert dense[0] == pytest.approx(top2[0])
    assert dense[1] <= top2[1]
