"""How many tokens to draft: more where they are accepted more often, none where that does not pay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.draft_length import MAX_DRAFT, draft_length, expected_tokens, speedup

SHARES = st.integers(0, 64).map(lambda n: n / 64)
COSTS = st.lists(st.integers(0, 1000), min_size=1, max_size=200)
DRAFTS = st.integers(1, 1000).map(lambda n: n / 1000)


def rising(steps):
    """Seconds by rows that never fall: 1 for the first row, then what each step adds (thousandths)."""

    def seconds(rows):
        return 1.0 + sum(steps[i % len(steps)] for i in range(rows - 1)) / 1000

    return seconds


@given(SHARES, SHARES, COSTS, DRAFTS, st.integers(1, 8), st.integers(0, 8))
def test_never_fewer_where_more_is_accepted(a, b, steps, draft, speculating, others):
    low, high = sorted((a, b))
    verify, cost = rising(steps), lambda rows: draft
    at = {"speculating": speculating, "rows": speculating + others}
    assert draft_length(low, cost, verify, **at).tokens <= draft_length(high, cost, verify, **at).tokens


@given(SHARES, COSTS, DRAFTS, st.integers(1, 8), st.integers(0, 8), st.integers(0, 20))
def test_from_none_to_eight_and_never_more_than_is_asked_for(a, steps, draft, speculating, others, most):
    chosen = draft_length(
        a, lambda rows: draft, rising(steps), speculating=speculating, rows=speculating + others, most=most
    )
    assert 0 <= chosen.tokens <= min(most, MAX_DRAFT)
    assert chosen.speedup == 1.0 if chosen.tokens == 0 else chosen.speedup >= 1.05


@given(COSTS, DRAFTS)
def test_none_where_nothing_is_accepted(steps, draft):
    assert draft_length(0.0, lambda rows: draft, rising(steps)).tokens == 0


@given(SHARES, DRAFTS, st.integers(1, 8))
def test_the_choice_is_the_best_of_all(a, draft, speculating):
    verify, cost = rising([100]), lambda rows: draft
    chosen = draft_length(a, cost, verify, speculating=speculating, rows=speculating)
    gains = [speedup(a, k, cost, verify, speculating=speculating, rows=speculating) for k in range(9)]
    assert chosen.speedup == pytest.approx(max(gains) if max(gains) >= 1.05 else 1.0)


def test_a_step_bound_by_its_weights_drafts_and_one_bound_by_its_rows_does_not():
    """Verifying is free while a step waits for memory; with many sequences each row costs what it brings."""
    free = lambda rows: max(10.0, 1.0 * rows)  # noqa: E731
    draft = lambda rows: 0.5  # noqa: E731
    assert draft_length(0.8, draft, free, speculating=1, rows=1).tokens >= 4
    assert draft_length(0.8, draft, free, speculating=32, rows=32).tokens == 0


def test_expected_tokens_is_the_geometric_sum():
    assert expected_tokens(0.5, 2) == 1.75
    assert expected_tokens(1.0, 8) == 9
    assert expected_tokens(0.0, 8) == 1


def test_speedup_of_a_free_perfect_draft_is_the_tokens_it_brings():
    assert speedup(1.0, 3, lambda rows: 0.0, lambda rows: 1.0) == 4.0
