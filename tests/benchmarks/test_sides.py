"""A side in its own process: calls, errors, memory."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import QuiltworkError
from work.rounds import Rounds, per_step
from work.side import Side


def test_a_side_answers_calls_and_reports_errors_with_their_text() -> None:
    with Side("fractions:Fraction", threads=1, numerator=3, denominator=4) as side:
        assert side.call("limit_denominator", 2) == pytest.approx(1.0)
        assert side.floor_pss > 1 << 20
        with side.peak_pss() as peak, pytest.raises(QuiltworkError, match="no attribute 'fly'"):
            side.call("fly")
        assert peak.bytes > 1 << 20


def test_a_side_that_cannot_be_built_says_why() -> None:
    with pytest.raises(QuiltworkError, match="ZeroDivisionError"):
        Side("fractions:Fraction", threads=1, numerator=1, denominator=0)


def test_every_arm_is_asked_the_same_and_every_round_something_new() -> None:
    rounds = Rounds(["a", "b"], length=4, vocab=50, seed=0)
    heard: dict[str, list[list[list[int]]]] = {"x": [], "y": []}

    def ask(side: str):  # type: ignore[no-untyped-def]
        def answer(requests: list[tuple[str, list[int]]], new_tokens: int) -> list[list[int]]:
            heard[side].append([prompt for _, prompt in requests])
            return [[0] * new_tokens for _ in requests]

        return answer

    for side in ("x", "y"):
        for kind in ("long", "short"):
            arm = rounds.arm(side, ask(side), 2, kind)
            arm()
            arm()
    assert heard["x"] == heard["y"]
    prompts = [tuple(prompt) for turn in heard["x"] for prompt in turn]
    assert len(set(prompts)) == len(prompts)


def test_a_step_costs_the_difference_of_long_and_short_answers() -> None:
    assert per_step([10.0, 12.0], [2.0, 4.0], 8) == [1.0, 1.0]
