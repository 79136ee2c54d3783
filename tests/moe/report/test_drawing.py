"""Scales and ticks."""

import pytest

from quiltwork.moe.report.drawing import Scale, number, text, thinned, ticks


def test_ticks_are_round_and_inside() -> None:
    assert ticks(1, 2, 2) == [1.0, 1.5, 2.0]
    assert ticks(0, 400, 4) == [0, 100, 200, 300, 400]
    assert ticks(2.03, 4.9, 4) == [3.0, 4.0]
    assert ticks(5, 5, 4) == [5]


def test_a_scale_without_a_span_stays_in_its_middle() -> None:
    assert Scale(1, 1, 0, 10)(1) == 5
    assert Scale(1, 2, 10, 0)(1.25) == 7.5


@pytest.mark.parametrize(
    ("value", "said"), [(1.2345, "1.234"), (3.1e6, "3.1M"), (1234, "1234"), (12345, "12.3k"), (4.9e12, "4.9T")]
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert number(value) == said


def test_thinned_keeps_both_ends() -> None:
    places = thinned(1000, 50)
    assert (places[0], places[-1]) == (0, 999)
    assert len(places) <= 50
    assert thinned(3, 50) == [0, 1, 2]


def test_words_are_escaped() -> None:
    assert "&lt;b&gt;" in text(0, 0, "<b>")
