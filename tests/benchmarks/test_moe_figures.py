"""Figures of finished runs: which way round a quality is read, and what stands in a row."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import QuiltworkError
from work.moe_arms import ADAPTIVE, DENSE, LM, MULTI30K, SST2, TOP1, TOP2, Task
from work.moe_curves import Curve, StepCost
from work.moe_figures import Studied, quality_loss, quality_outcome, time_outcomes, time_rows
from work.moe_found import Found


def found(test: float, losses: tuple[float, ...] = (3.0, 2.0, 1.0), experts: float = 2.0) -> Found:
    steps = tuple(10 * n for n in range(len(losses)))
    each, tests = (experts,) * steps[-1], {"equal_steps": test, "all_steps": test}
    return Found(Curve(steps, losses), each, tuple((k,) for k in each), 0.6, tests, tuple(map(float, steps)), 1.0, 1e-3)


def studied(task: Task, tests: dict[str, float], seeds: int = 5) -> Studied:
    runs = {arm: {seed: found(test + seed) for seed in range(seeds)} for arm, test in tests.items()}
    return Studied(task, runs, dict.fromkeys(tests, StepCost(0.3, 0.5)))


@pytest.mark.parametrize("task", [SST2, MULTI30K])
def test_of_accuracy_and_bleu_fewer_points_are_worse(task: Task) -> None:
    one = studied(task, {TOP2: 80.0, ADAPTIVE: 79.6})
    assert quality_loss(one).value == pytest.approx(0.4)
    assert quality_outcome(one).ours == pytest.approx([1.004])


def test_of_bits_per_byte_more_are_worse_and_counted_in_per_cent() -> None:
    runs = {arm: {seed: found(test) for seed in range(5)} for arm, test in ((TOP2, 2.0), (ADAPTIVE, 2.02))}
    one = Studied(LM, runs, {})
    assert quality_loss(one).value == pytest.approx(1.0)
    assert quality_outcome(one).ours == pytest.approx([1.01])


def test_a_quality_takes_five_seeds() -> None:
    with pytest.raises(QuiltworkError, match="4 seeds are too few"):
        quality_loss(studied(SST2, {TOP2: 80.0, ADAPTIVE: 80.0}, seeds=4))


def test_time_is_claimed_in_cpu_seconds_to_the_loss_and_not_in_flops_of_a_step() -> None:
    slow, quick = (3.0, 2.5, 2.0, 1.5, 1.0), (3.0, 1.0)
    costs = {TOP2: StepCost(0.3, 0.5), ADAPTIVE: StepCost(0.3, 0.5), TOP1: StepCost(0.3, 0.5)}
    arms = {TOP2: found(0.0), ADAPTIVE: found(0.0, slow, experts=1.0), TOP1: found(0.0, quick, experts=1.0)}
    best, mean, top1 = time_outcomes({"lm": Studied(LM, {arm: {0: one} for arm, one in arms.items()}, costs)})
    assert (best.ours[0], best.baseline[0]) == pytest.approx((40 * 0.3, 20 * 0.5))  # cheaper steps, and more time
    assert mean.ours == pytest.approx([1.2])
    assert top1.baseline == pytest.approx([10 * 0.3 / 10])


def test_a_row_has_time_to_the_loss_and_the_loss_in_equal_time_side_by_side() -> None:
    arms = (TOP2, ADAPTIVE, TOP1, DENSE)
    runs = {arm: {0: found(0.0, (3.0, 2.0, 1.0, 0.5), experts=2 - (arm == TOP1))} for arm in arms}
    runs[TOP2] = {0: found(0.0)}
    rows = time_rows(Studied(LM, runs, dict.fromkeys(arms, StepCost(0.3, 0.5))))
    told = {row["gate"]: (row["time, of top-2's"], row["in top-2's time"]) for row in rows}
    # Steps of top-1 cost .6 of top-2's: 30 of them are less than 20.
    assert told == {TOP2: (1.0, 1.0), ADAPTIVE: (1.0, 1.0), TOP1: (0.6, 0.5), DENSE: (1.0, 1.0)}
