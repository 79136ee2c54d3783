"""The benchmark of the curriculum: which orders it holds against none, and by how many seeds."""

from __future__ import annotations

import math
import statistics

import pytest

import moe_curriculum
from moe_curriculum import ARMS, EPOCHS, OFF, ON, SEEDS, STUDENT
from work.moe_ranks import Course


def test_each_order_is_trained_frozen_and_in_shuffled_groups_beside_none() -> None:
    for order in ("mean", "cosine"):
        alone = [settings for settings in ARMS.values() if settings == {"order": order}]
        frozen = [settings for settings in ARMS.values() if settings == {"order": order, "frozen": True}]
        assert len(alone) == len(frozen) == 1
    assert ARMS[OFF] == {"order": "random"}
    assert not ARMS[ON].get("frozen", False)


def test_there_are_three_seeds_at_least_and_epochs_in_which_an_order_is_known() -> None:
    assert SEEDS >= 3
    assert EPOCHS >= 2  # the first one is random


def course(losses: list[float], excess: float = 0.1) -> Course:
    seconds = [float(10 * (at + 1)) for at in range(len(losses))]
    return Course(excess=[excess], lengths=[1.0], path_s=seconds, loss=losses)


def test_a_row_says_when_the_loss_was_reached_and_how_far_it_stayed_off_with_an_interval() -> None:
    off = [course([0.9, 0.5 + seed / 10]) for seed in range(3)]
    better = [course([0.5 + seed / 10, 0.4 + seed / 10]) for seed in range(3)]
    row = moe_curriculum._row(2, "mean", better, off)
    assert row["reached it"] == "3 of 3"
    assert row["time to off's least loss, of off's"] == "0.5000 ± 0.0000"
    assert row["least loss - off's"] == "-0.1000 ± 0.0000"


def test_an_order_that_hurts_is_seen_in_its_loss_though_it_waits_less() -> None:
    off = [course([0.9, 0.5]) for _ in range(3)]
    worse = [course([0.9, 0.7 + seed / 10], excess=0.01) for seed in range(3)]
    row = moe_curriculum._row(2, "cosine, frozen", worse, off)
    assert (row["reached it"], row["time to off's least loss, of off's"]) == ("0 of 3", "-")
    assert str(row["least loss - off's"]).startswith("0.3000 ± 0.2484")


def test_intervals_are_student_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert set(STUDENT) >= {2, SEEDS}
    for samples, quantile in STUDENT.items():
        assert quantile == pytest.approx(stats.t.ppf(0.975, samples - 1), abs=5e-4)
    half = STUDENT[3] * statistics.stdev([1.0, 2.0, 4.0]) / math.sqrt(3)
    assert moe_curriculum._told([1.0, 2.0, 4.0]) == f"2.3333 ± {half:.4f}"
