from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.policy.placement import (
    Demand,
    Place,
    Resident,
    Standing,
    evictions,
    gone,
    place,
    replicas,
)

A, B, C, D = ("a",), ("b",), ("c",), ("d",)


def test_neighbours_of_hot_chains_stand_together() -> None:
    demands = [Demand(i, 10, 0.1) for i in (A, B, C, D)]
    traffic = {(A, B): 100.0, (C, D): 100.0, (B, C): 1.0}
    found = place(demands, traffic, [Place("x", 20), Place("y", 20)])
    assert found[A] == found[B] != found[C] == found[D]


def test_memory_is_never_exceeded_and_what_fits_nowhere_is_left_out() -> None:
    found = place([Demand(A, 30), Demand(B, 10)], {}, [Place("x", 20)])
    assert found == {B: "x"}


def test_overload_outweighs_locality() -> None:
    demands = [Demand(A, 1, 0.9), Demand(B, 1, 0.9)]
    found = place(demands, {(A, B): 1.0}, [Place("x", 10), Place("y", 10)])
    assert found[A] != found[B]


def test_a_placement_is_kept_for_a_trifle() -> None:
    demands = [Demand(A, 1, 0.2), Demand(B, 1, 0.2)]
    traffic = {(A, B): 1.0}
    places = [Place("x", 10), Place("y", 10)]
    together = place(demands, traffic, places)
    other = {instance: "y" if agent == "x" else "x" for instance, agent in together.items()}
    assert place(demands, traffic, places, present=other) == other
    assert place(demands, traffic, places, present={A: "x", B: "y"}) == together


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=1, max_size=8),
    st.lists(st.integers(10, 60), min_size=1, max_size=4),
    st.dictionaries(st.tuples(st.integers(0, 7), st.integers(0, 7)), st.floats(0.1, 10), max_size=12),
)
def test_every_placement_fits(
    sizes: list[tuple[int, float]], memories: list[int], edges: dict[tuple[int, int], float]
) -> None:
    demands = [Demand((str(i),), nbytes, load) for i, (nbytes, load) in enumerate(sizes)]
    traffic = {((str(a),), (str(b),)): t for (a, b), t in edges.items() if a != b}
    places = [Place(f"p{i}", memory) for i, memory in enumerate(memories)]
    found = place(demands, traffic, places)
    for p in places:
        assert sum(d.nbytes for d in demands if found.get(d.instance) == p.agent) <= p.memory_bytes
    for d in demands:
        if d.instance not in found:
            used = {p.agent: sum(o.nbytes for o in demands if found.get(o.instance) == p.agent) for p in places}
            assert all(used[p.agent] + d.nbytes > p.memory_bytes for p in places)
    assert found == place(list(reversed(demands)), traffic, list(reversed(places)))


def test_a_busy_segment_gets_one_replica_where_there_is_room() -> None:
    busy, idle = Standing(A, 10, ("x",), 0.95), Standing(B, 10, ("x", "y"), 0.1)
    added, removed = replicas([idle, busy], {"x": 50.0, "y": 5.0, "z": 15.0})
    assert (added.instance, added.agent, added.add) == (A, "z", True)
    assert (removed.instance, removed.add) == (B, False)


def test_a_slow_queue_calls_for_a_replica_too_and_the_last_one_stays() -> None:
    slow = Standing(A, 10, ("x",), 0.2, wait_p95_s=3.0)
    assert replicas([slow], {"y": 50.0}, wait_limit_s=1.0)[0].add
    assert replicas([Standing(A, 10, ("x",), 0.0)], {"y": 50.0}) == ()


def test_a_replica_is_not_retired_if_that_would_call_for_it_again() -> None:
    assert replicas([Standing(A, 10, ("x", "y"), 0.29)], {}, high=0.5) == ()


def test_the_least_valuable_bytes_go_first_and_pinned_ones_never() -> None:
    residents = [
        Resident(A, 100, rate=1.0, reload_s=1.0),
        Resident(B, 100, rate=0.1, reload_s=1.0),
        Resident(C, 100, rate=0.0, reload_s=1.0, pinned=True),
    ]
    assert evictions(residents, 50) == (B,)
    assert evictions(residents, 150) == (B, A)
    assert evictions(residents, 250) is None
    assert evictions(residents, 50, busy={B}) == (A,)


def test_large_and_rarely_used_goes_before_small_and_often_used() -> None:
    residents = [Resident(A, 10, 5.0, 1.0), Resident(B, 1000, 0.5, 2.0)]
    assert evictions(residents, 5) == (B,)


def test_what_two_models_need_goes_after_what_only_one_of_them_needs() -> None:
    """The shared block is the cheapest by the byte, as a large block under small adapters is."""
    both = frozenset({"one", "two"})
    residents = [
        Resident(A, 1000, rate=2.0, reload_s=1.0, needed_by=both),
        Resident(B, 10, rate=1.0, reload_s=1.0, needed_by=frozenset({"one"})),
        Resident(C, 10, rate=3.0, reload_s=1.0, needed_by=frozenset({"two"})),
    ]
    assert evictions(residents, 5) == (B,)
    assert evictions(residents, 10) == (B,)
    assert evictions(residents, 11) == (A,), "with B gone one model is left that needs it, and it spares B"
    assert evictions(residents, 1005) == (B, A)
    assert evictions(residents[:1], 1) == (A,)


def test_one_model_goes_before_a_second_one_loses_anything() -> None:
    """The large weights of both are the cheapest by the byte; dropping these would leave none of the two."""
    residents = [
        Resident((f"{model} {part}",), nbytes, rate, reload_s, needed_by=frozenset({model}))
        for model, rate in (("cold", 1.0), ("warm", 1.1))
        for part, nbytes, reload_s in (("large", 100, 1.0), ("small", 20, 1.0))
    ]
    assert evictions(residents, 110) == (("cold large",), ("cold small",))
    assert evictions(residents, 130) == (("cold large",), ("warm large",))
    idle = Resident(("left over",), 20, 0.1, 1.0)
    assert evictions([*residents, idle], 20) == (("left over",),)


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.floats(0, 5), st.booleans(), st.frozensets(st.sampled_from("abc"))), max_size=8
    ),
    st.integers(0, 200),
)
def test_what_is_dropped_suffices_and_none_of_it_is_superfluous(
    sizes: list[tuple[int, float, bool, frozenset[str]]], need: int
) -> None:
    residents = [Resident((str(i),), n, rate, 1.0, pin, by) for i, (n, rate, pin, by) in enumerate(sizes)]
    dropped = evictions(residents, need)
    nbytes = {r.instance: r.nbytes for r in residents}
    if dropped is None:
        assert sum(r.nbytes for r in residents if not r.pinned) < need
        return
    freed = sum(nbytes[i] for i in dropped)
    assert freed >= need
    assert all(freed - nbytes[i] < need for i in dropped)


def test_who_misses_three_heartbeats_is_gone() -> None:
    assert gone({"a": 0.0, "b": 1.0}, now=1.6, period_s=0.5) == {"a"}
