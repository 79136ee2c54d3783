"""The flood is what its description says, and its benchmark runs through."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import flood
from quiltwork.core.bench import Context, judge
from work.asked import Asked, price
from work.replay import Request


def trace(count: int) -> list[Request]:
    rng = random.Random(4)
    return [Request(str(i), "base", 0.0, [3] * rng.randint(1, 90), rng.randint(1, 30)) for i in range(count)]


def offered(asked: Sequence[Asked]) -> float:
    """What arrives per second, by price."""
    later = [a.request for a in asked if a.request.arrival > 0]
    return sum(map(price, later)) / later[-1].arrival


RATE = 1000.0
OTHERS, QUIET, FLOOD = flood.crowd(trace(4000), 300, RATE, seed=0)


def test_all_together_ask_for_more_than_the_engine_can_do_even_without_the_flood() -> None:
    assert offered(OTHERS) == pytest.approx((flood.LOAD - flood.SHARE) * RATE, rel=0.01)
    assert offered(OTHERS) + offered(QUIET) > RATE


def test_everybody_starts_with_the_same_queue() -> None:
    waiting = Counter(a.tenant for a in (*OTHERS, *FLOOD) if a.request.arrival == 0.0)
    assert max(waiting.values()) - min(waiting.values()) <= 1  # the first of an even stream comes at once
    assert sum(waiting.values()) == flood.QUEUE + 1


def test_the_fourth_asks_for_exactly_its_share_or_ten_times_as_much() -> None:
    assert offered(QUIET) == pytest.approx(RATE / flood.TENANTS, rel=0.02)
    assert offered(FLOOD) == pytest.approx(10 * RATE / flood.TENANTS, rel=0.02)
    assert [a.request.prompt for a in FLOOD[: len(QUIET)]] == [a.request.prompt for a in QUIET]
    assert len({a.tenant for a in (*QUIET, *FLOOD)} | {a.tenant for a in OTHERS}) == flood.TENANTS


def test_everybody_keeps_coming_while_something_is_measured() -> None:
    last = max(a.request.arrival for a in OTHERS)
    for asked in (QUIET, FLOOD):
        assert last - asked[-1].request.arrival < last / 20


@pytest.mark.realdata
@pytest.mark.slow
def test_it_runs_through_and_no_answer_depends_on_the_flood(tmp_path: Path, data_dir: Path) -> None:
    found = flood.run(Context(quick=True, seed=0, scratch=tmp_path, data=data_dir))
    (claim,) = flood.CLAIMS
    outcome = found[claim.name]
    judge(claim, outcome)
    assert outcome.answers_equal is True
    rows: list[Mapping[str, object]] = [row for row in outcome.rows if str(row["arm"]).endswith("shuffle 0")]
    assert [row["engine busy"] for row in rows] == [1.0] * 3
    assert all(row["answered"] == outcome.details["requests_of_others"] for row in rows[:2])
