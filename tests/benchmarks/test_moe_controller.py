"""The benchmarks of the controller: what they hold against what."""

from __future__ import annotations

from pathlib import Path

import pytest

import moe_controller
import moe_controller_quality
from quiltwork.core.bench import Context
from work.moe_steered import Run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, dict]]:
    """Trainings that come to their target but for a hundredth, and to 1.4 without one."""
    asked: list[tuple[int, int, dict]] = []

    def steered(context: Context, seed: int, steps: int, changes: dict) -> Run:
        asked.append((seed, steps, dict(changes)))
        target = changes.get("target_experts")
        experts = (2.0,) + (1.4 if target is None else 1.01 * target,) * (steps - 1)
        return Run(experts, 2.0 if target is None else 1.99, 1.0)

    monkeypatch.setattr(moe_controller, "steered", steered)
    monkeypatch.setattr(moe_controller_quality, "steered", steered)
    return asked


def context(tmp_path: Path) -> Context:
    return Context(quick=False, seed=7, scratch=tmp_path)


def test_reach_is_the_worst_target_of_a_seed_after_the_first_steps(asked: list, tmp_path: Path) -> None:
    outcome = moe_controller.run(context(tmp_path))[moe_controller.NAME]
    assert outcome.ours == pytest.approx([1.01] * 3)
    assert {seed for seed, _, _ in asked} == {7, 8, 9}
    assert moe_controller.factor(1.0, 1.25) == moe_controller.factor(1.25, 1.0) == 1.25


def test_quality_is_compared_at_the_experts_that_the_fixed_threshold_took(asked: list, tmp_path: Path) -> None:
    outcome = moe_controller_quality.run(context(tmp_path))[moe_controller_quality.NAME]
    assert (list(outcome.ours), list(outcome.baseline)) == ([1.99] * 5, [2.0] * 5)
    steps = moe_controller_quality.STEPS
    targets = [changes["target_experts"] for _, _, changes in asked if "target_experts" in changes]
    assert targets == pytest.approx([(2.0 + 1.4 * (steps - 1)) / steps] * 5, abs=1e-4)
    assert [seed for seed, _, _ in asked] == [seed for seed in range(7, 12) for _ in range(2)]
