import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.preempting import Clearing, Victim, clear_for
from quiltwork.cluster.policy.quotas import Borrower, account_of, cheapest_first, check_quotas, covered, quotas_of
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.server import Pool, Server
from quiltwork.core.errors import BadInputError

TRAIN = ((0,),)


def test_quotas_are_read_as_people_write_them():
    assert quotas_of(["vision=16", " audio = 0 ", "a=b=3"]) == {"vision": 16, "audio": 0, "a=b": 3}
    assert quotas_of([]) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["vision"], r"--quota: 'vision' is not TEAM=GPUs \(vision=16\)"),
        (["=4"], "'=4' is not TEAM=GPUs"),
        (["vision="], "--quota vision: '' is not a number of GPUs"),
        (["vision=-1"], "--quota vision: '-1' is not a number of GPUs"),
        (["vision=1.5"], "'1.5' is not a number of GPUs"),
        (["vision=99999999999"], "is not a number of GPUs"),
        (["vision=4", "vision=5"], "--quota: team 'vision' is given twice"),
    ],
)
def test_what_is_no_quota_is_refused(texts, message):
    with pytest.raises(BadInputError, match=message):
        quotas_of(texts)


@pytest.mark.parametrize("gpus", [-1, 1.5, True, "8"])
def test_rules_refuse_what_is_no_number_of_gpus(gpus):
    with pytest.raises(BadInputError, match=r"quotas: vision: .* is not a number of GPUs"):
        Rules(quotas={"vision": gpus})


def test_no_more_can_be_guaranteed_than_there_is():
    check_quotas({"a": 8, "b": 8}, 16)
    check_quotas({}, 16)
    with pytest.raises(BadInputError, match=r"quotas: teams are guaranteed 17 GPUs in all, .*have 16 .*a=8, b=9"):
        check_quotas({"a": 8, "b": 9}, 16)


def test_teams_without_a_quota_share_the_default_one():
    assert account_of("a", {"a": 4, "default": 2}) == "a"
    assert account_of("b", {"a": 4, "default": 2}) == account_of("", {"a": 4}) == "default"


def test_a_quota_covers_those_that_have_run_for_longest_and_fit_into_it():
    assert covered({1: 4, 2: 4, 3: 4}, 8) == {1, 2}
    assert covered({1: 6, 2: 4, 3: 2}, 8) == {1, 3}
    assert covered({1: 12}, 8) == set()
    assert covered({1: 1}, 0) == set()


held = st.dictionaries(st.integers(0, 20), st.integers(1, 16), max_size=12)


@given(held, st.integers(0, 40), st.data())
def test_stopping_a_borrower_changes_nothing_for_the_others(jobs, guaranteed, data):
    mine = covered(jobs, guaranteed)
    assert sum(jobs[job] for job in mine) <= guaranteed
    borrowing = sorted(jobs.keys() - mine)
    if not borrowing:
        assert sum(jobs.values()) <= guaranteed
        return
    assert sum(jobs.values()) > guaranteed
    gone = data.draw(st.sampled_from(borrowing))
    assert covered({job: gpus for job, gpus in jobs.items() if job != gone}, guaranteed) == mine


def test_the_cheapest_stop_first():
    where = ((0, 2),)
    borrowers = [
        Borrower(1, where, 0, 100.0),
        Borrower(2, where, 0, 50.0),
        Borrower(3, ((0, 4),), 0, 60.0),
        Borrower(4, where, -1, 900.0),
        Borrower(5, where, 0, 50.0),
    ]
    assert [victim.job for victim in cheapest_first(borrowers)] == [4, 3, 5, 2, 1]


def full(*jobs):
    """Servers of 8 GPUs and the base workers on them, a placement each."""
    room = Room([Server(str(i), "V100", 8, Pool.TRAIN) for i in range(3)])
    for placement in jobs:
        for server, gpus in placement:
            room.take(server, gpus)
    return room, [Victim(job, placement) for job, placement in enumerate(jobs)]


def test_only_who_is_in_the_way_stops():
    room, running = full(((0, 4),), ((1, 8),), ((0, 4),), ((2, 8),))
    assert clear_for(Shape(1, 8), room, TRAIN, running) == Clearing((1,), ((1, 8),))
    assert clear_for(Shape(1, 8), room, TRAIN, [running[0], running[2]]) == Clearing((2, 0), ((0, 8),))
    assert clear_for(Shape(1, 8), room, TRAIN, running, allowed=0b100) == Clearing((3,), ((2, 8),))
    assert room.free == [0, 0, 0]


def test_nobody_stops_where_that_would_not_do():
    room, running = full(((0, 4),), ((1, 8),), ((0, 4),), ((2, 8),))
    assert clear_for(Shape(1, 16), room, TRAIN, running[:1]) is None
    assert clear_for(Shape(1, 1), room, TRAIN, []) is None


def test_flexible_workers_leave_before_anybody_more_is_stopped():
    room, running = full(((0, 2),), ((0, 2),))
    room.take(0, 4, flexible=True)
    room.take(1, 8)
    room.take(2, 8)
    assert clear_for(Shape(1, 6), room, TRAIN, running) is None
    assert clear_for(Shape(1, 6), room, TRAIN, running, revoking=True) == Clearing((0,), ((0, 6),))
