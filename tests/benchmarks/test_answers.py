"""Answers count as equal token by token, but for ties within the margin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from work.answers import MARGIN, Comparison, Logits, compare, first_difference


def logits(**of: float) -> Logits:
    """Logits over ten tokens, all far below those given (``t3=1.0``)."""
    values = np.full(10, -5.0, dtype=np.float32)
    for name, value in of.items():
        values[int(name[1:])] = value
    return values


def never(request: str, tokens: Sequence[int]) -> Logits:
    raise AssertionError("equal answers ask no reference")


def test_equal_answers_ask_no_reference() -> None:
    result = compare({"a": [1, 2]}, {"a": [1, 2]}, never)
    assert result.equal
    assert result.summary()["answers_compared"] == 1


def test_a_difference_at_a_tie_is_excused_and_the_rest_is_not_compared() -> None:
    result = compare({"a": [1, 3, 7, 7]}, {"a": [1, 4, 8, 8]}, lambda request, tokens: logits(t3=1.0, t4=1.0005))
    assert result.equal
    assert result.divergences[0].position == 1


def test_a_difference_with_a_clear_winner_counts() -> None:
    result = compare({"a": [1, 3]}, {"a": [1, 4]}, lambda request, tokens: logits(t3=1.0, t4=1.0 + 2 * MARGIN))
    assert not result.equal
    assert result.summary()["answers_differing"] == 1


def test_a_tie_between_other_tokens_excuses_nothing() -> None:
    result = compare({"a": [5]}, {"a": [3]}, lambda request, tokens: logits(t3=1.0, t4=1.0, t5=0.5))
    assert not result.equal


def test_the_reference_is_asked_after_the_common_beginning() -> None:
    asked: list[list[int]] = []

    def reference(request: str, tokens: Sequence[int]) -> Logits:
        asked.append(list(tokens))
        return logits(t1=1.0)

    compare({"a": [7, 8, 1]}, {"a": [7, 8, 2]}, reference)
    assert asked == [[7, 8]]


def test_a_shorter_answer_differs() -> None:
    assert not compare({"a": [1]}, {"a": [1, 2]}, never).equal


def test_a_missing_answer_differs_even_from_an_empty_one() -> None:
    assert not compare({"a": [1], "b": []}, {"a": [1]}, never).equal


def test_nothing_compared_is_not_equal() -> None:
    assert not Comparison().equal


def test_one_difference_among_many_makes_the_sum_differ() -> None:
    total = Comparison()
    total.add(compare({"a": [1]}, {"a": [1]}, never))
    total.add(compare({"b": [1]}, {"b": [2]}, lambda request, tokens: logits(t1=1.0)))
    assert total.compared == 2
    assert not total.equal


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_first_difference_is_where_the_common_beginning_ends(a: list[int], b: list[int]) -> None:
    at = first_difference(a, b)
    if at is None:
        assert a == b
    else:
        assert a[:at] == b[:at]
        assert a[at : at + 1] != b[at : at + 1]
