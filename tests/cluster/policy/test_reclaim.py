import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.cluster.policy.reclaim import Held, reclaim
from quiltwork.cluster.policy.rules import Cost


def lent(jobs, flexible=()):
    """Servers from the servers that each job is on, and the servers that only flexible workers are on."""
    base: dict[int, dict[int, int]] = {server: {} for server in flexible}
    for job, servers in jobs.items():
        for server in servers:
            base.setdefault(server, {})[job] = 1
    return {s: Held(held, 1 if s in flexible else 0) for s, held in base.items()}


X, Y, Z, U, V, P, Q, OTHERS = 0, 1, 2, 3, 4, 5, 6, range(7, 13)
COUNT_IS_WRONG = lent({X: (1, 2, 3), Y: (1, 2, 3), Z: (4,), U: (5,), V: (6,)})
FRACTION_IS_BEATEN = lent(
    {P: (1, 7, 8), Q: (2, 3), **dict.fromkeys(OTHERS[:3], (7,)), **dict.fromkeys(OTHERS[3:], (8,))}
)


def test_counting_jobs_empties_the_wrong_servers():
    plan = reclaim(COUNT_IS_WRONG, 3, Cost.COUNT)
    assert (plan.servers, plan.preempted) == ((4, 5, 6), (Z, U, V))
    for cost in (Cost.SERVER_FRACTION, Cost.EMPTIED):
        plan = reclaim(COUNT_IS_WRONG, 3, cost)
        assert (plan.servers, plan.preempted) == ((1, 2, 3), (X, Y))


def test_jobs_per_newly_emptied_server_beats_the_server_fraction():
    assert reclaim(FRACTION_IS_BEATEN, 2, Cost.SERVER_FRACTION).preempted == (P, Q)
    plan = reclaim(FRACTION_IS_BEATEN, 2, Cost.EMPTIED)
    assert (plan.servers, plan.preempted) == ((2, 3), (Q,))


@pytest.mark.parametrize("cost", Cost)
def test_a_job_that_spans_the_servers_is_stopped_once_for_all_of_them(cost):
    plan = reclaim(lent({X: (1, 2, 3)}), 3, cost)
    assert (plan.servers, plan.preempted, plan.surplus) == ((1, 2, 3), (X,), ())


def test_servers_with_only_flexible_workers_go_before_any_job_stops():
    servers = lent({X: (3,)}, flexible=(1, 2))
    plan = reclaim(servers, 2)
    assert (plan.servers, plan.preempted, plan.scaled_in) == ((1, 2), (), (1, 2))


def test_free_servers_go_before_those_with_flexible_workers():
    servers = {1: Held({}, 4), 2: Held(), 3: Held({}, 1)}
    plan = reclaim(servers, 2)
    assert (plan.servers, plan.scaled_in) == ((2, 3), (3,))


def test_what_is_emptied_beyond_the_need_stays_lent():
    plan = reclaim(lent({X: (6, 7)}), 1)
    assert (plan.servers, plan.preempted, plan.surplus) == ((6,), (X,), (7,))


def test_more_than_is_lent_is_a_shortfall():
    plan = reclaim(lent({X: (1,)}), 3)
    assert (plan.servers, plan.shortfall) == ((1,), 2)


def test_what_is_really_lost_can_be_weighed():
    servers = lent({X: (1,), Y: (2,), Z: (2,)})
    assert reclaim(servers, 1).preempted == (X,)
    assert reclaim(servers, 1, weights={X: 1000.0, Y: 1.0, Z: 2.0}).preempted == (Y, Z)


def test_random_is_by_what_is_handed_in():
    picks = {reclaim(COUNT_IS_WRONG, 1, Cost.RANDOM, chance=random.Random(seed)).servers for seed in range(20)}
    assert len(picks) > 2
    again = [reclaim(COUNT_IS_WRONG, 2, Cost.RANDOM, chance=random.Random(3)) for _ in range(2)]
    assert again[0] == again[1]


instance = st.dictionaries(
    st.integers(0, 7), st.sets(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=8
)


def fewest(servers, wanted):
    jobs = sorted({j for held in servers.values() for j in held.base})
    for count in range(len(jobs) + 1):
        for stopped in combinations(jobs, count):
            if sum(1 for held in servers.values() if held.base.keys() <= set(stopped)) >= wanted:
                return count
    raise AssertionError


@settings(max_examples=200, deadline=None)
@given(instance, st.integers(1, 7), st.sampled_from(list(Cost)))
def test_every_plan_empties_what_it_gives_back_and_no_plan_is_better_than_the_best(jobs, wanted, cost):
    servers = lent(jobs)
    wanted = min(wanted, len(servers))
    plan = reclaim(servers, wanted, cost)
    assert len(plan.servers) == len(set(plan.servers)) == wanted
    for server in (*plan.servers, *plan.surplus):
        assert servers[server].base.keys() <= set(plan.preempted)
    assert len(plan.preempted) >= fewest(servers, wanted)


@pytest.mark.parametrize("seed", range(12))
def test_polish_finds_the_fewest(seed):
    pytest.importorskip("ortools")
    chance = random.Random(seed)
    servers = lent({j: chance.sample(range(7), chance.randrange(1, 4)) for j in range(8)})
    wanted = min(3, len(servers))
    plan = reclaim(servers, wanted, polish_s=10.0)
    assert len(plan.preempted) == fewest(servers, wanted)
    assert all(servers[s].base.keys() <= set(plan.preempted) for s in plan.servers)


def test_polish_is_never_dearer():
    pytest.importorskip("ortools")
    servers = lent({X: (1,), Y: (2,), Z: (2,)})
    assert reclaim(servers, 1, weights={X: 9.5, Y: 1.25, Z: 2.5}, polish_s=10.0).preempted == (Y, Z)
