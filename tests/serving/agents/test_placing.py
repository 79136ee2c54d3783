"""What is placed where, given all models at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.serving.agents.placing import Expected, Plan, Planned, arrange, held_bytes, plan, split
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.serving.policy.placement import Place
from quiltwork.serving.policy.settling import Lengths
from quiltwork.zoo.segments import segments

BASE, TOP, FULL = ModelRef("base"), ModelRef("top"), ModelRef("full")


@pytest.fixture
def chains(family):
    twins = {
        BASE: family.base(), TOP: family.changed("top", "layers.3.", seed=4), FULL: family.changed("full", ".", seed=7)
    }  # fmt: skip
    return {ref: twin.chain for ref, twin in twins.items()}


def places(memory=float("inf"), count=2):
    return [Place(f"a{i}", memory) for i in range(count)]


def test_a_model_alone_is_one_segment_on_one_agent(chains):
    (found,) = plan({BASE: chains[BASE]}, places(), {}).values()
    assert found.bounds == (0, len(chains[BASE].links))
    assert [len(names) for names in found.holders] == [1]


def test_a_segment_that_moves_leaves_its_old_place(chains):
    first = plan({BASE: chains[BASE]}, places(), {})
    present = dict(zip(first[BASE].keys, first[BASE].holders, strict=True))
    found = plan(chains, places(), present)
    assert all(len(names) == 1 for planned in found.values() for names in planned.holders)


def test_replicas_stay_where_they_were_added(chains):
    first = plan({BASE: chains[BASE]}, places(), {})[BASE]
    (key,), ((home,),) = first.keys, first.holders
    other = "a1" if home == "a0" else "a0"
    found = plan({BASE: chains[BASE]}, places(), {key: (home, other)})[BASE]
    assert found.holders == ((home, other),)


def test_what_is_shared_stands_in_one_place_for_all(chains):
    found = plan({BASE: chains[BASE], TOP: chains[TOP]}, places(), {})
    assert found[BASE].keys[0] == found[TOP].keys[0]
    assert found[BASE].holders[0] == found[TOP].holders[0]


def test_what_fits_nowhere_is_refused_by_name(chains):
    with pytest.raises(CapacityError, match="base"):
        plan({BASE: chains[BASE]}, places(memory=1000.0), {})


def expected(**changes):
    """Every segment's batch takes as long; what it weighs and keeps is the plan's to fill in."""
    flat = SegmentProfile(CostTable((1, 64), (0.01, 0.01)))
    return replace(Expected(lambda cut, segment: flat, {}, Lengths(20, 100, 64)), **changes)


BUSY = {BASE: 2.0, TOP: 2.0, FULL: 2.0}


def test_chains_that_share_settle_on_one_agent_whole_and_strangers_on_another(chains):
    found = plan(chains, places(), {}, expected=expected(rates=BUSY))
    homes = {ref: set(planned.holders) for ref, planned in found.items()}
    assert homes[BASE] == homes[TOP]
    assert len(homes[BASE]) == len(homes[FULL]) == 1
    assert homes[BASE] != homes[FULL]


def test_before_anybody_has_asked_every_chain_has_an_agent_that_holds_it_whole(chains):
    for planned in plan(chains, places(), {}, expected=expected()).values():
        assert set.intersection(*map(set, planned.holders))
        assert len({names[0] for names in planned.holders}) == 1, "and that one comes first"


def test_who_is_asked_for_more_than_an_agent_can_do_settles_on_several(chains):
    (found,) = plan({BASE: chains[BASE]}, places(), {}, expected=expected(rates={BASE: 200.0})).values()
    assert found.holders == (("a0", "a1"),)


def test_what_has_settled_stays_for_a_trifle(chains):
    first = plan(chains, places(), {}, expected=expected(rates=BUSY))
    mirrored = {"a0": ("a1",), "a1": ("a0",)}
    present = {key: mirrored[names[0]] for p in first.values() for key, names in zip(p.keys, p.holders, strict=True)}
    again = plan(chains, places(), present, expected=expected(rates=BUSY))
    assert {key: names for p in again.values() for key, names in zip(p.keys, p.holders, strict=True)} == present


def test_segments_are_placed_one_by_one_where_their_cost_is_unknown_or_a_chain_fits_no_agent(chains):
    plain = plan(chains, places(), {})
    unknown = expected(profile=Timing().known)
    assert plan(chains, places(), {}, expected=unknown) == plain
    size = sum(part.block.nbytes for part in chains[BASE].links)
    cut = {ref: chains[ref] for ref in (BASE, TOP)}
    tight = places(memory=0.95 * size)
    assert plan(cut, tight, {}, expected=expected()) == plan(cut, tight, {})


def test_further_replicas_stay_only_where_there_is_room_for_them(chains):
    first = plan({BASE: chains[BASE]}, places(), {})[BASE]
    (key,), ((home,),) = first.keys, first.holders
    other = "a1" if home == "a0" else "a0"
    size = weight(chains[BASE])
    apart = {ref: chains[ref] for ref in (BASE, FULL)}
    roomy = plan(apart, places(2.1 * size), {key: (home, other)})
    assert roomy[BASE].holders == ((home, other),)
    tight = plan(apart, places(1.1 * size), {key: (home, other)})
    assert {tight[BASE].holders[0], tight[FULL].holders[0]} == {("a0",), ("a1",)}


def weight(*chains):
    """Bytes of chains together, what they share once."""
    whole = {str(i): Planned(chain, Plan((0, len(chain.links)), ((),), (("a",),))) for i, chain in enumerate(chains)}
    return sum(held_bytes(whole.values(), 4)["a"].values())


def cuts(chains):
    return segments({ref: chain.links for ref, chain in chains.items()})


def together(standing):
    """The most that any agent holds."""
    return max(sum(units.values()) for units in held_bytes(standing, 4).values())


def test_a_model_comes_beside_what_stands_or_not_at_all(chains):
    size = weight(chains[BASE])
    apart = {ref: chains[ref] for ref in (BASE, FULL)}
    alone = arrange({}, {BASE: chains[BASE]}, (), places(1.5 * size), cuts(apart), 4)
    both = arrange(alone, {FULL: chains[FULL]}, (), places(1.5 * size), cuts(apart), 4)
    assert both[BASE] == alone[BASE]
    assert together(both.values()) == size
    assert arrange(alone, {FULL: chains[FULL]}, (), places(1.5 * size, count=1), cuts(apart), 4) is None


def test_what_stands_moves_where_only_that_makes_room_but_never_beyond_any_agents_memory(family):
    sizes = {ref: twin.chain for ref, twin in {
        ModelRef("large"): family.changed("large", ".", seed=11), ModelRef("one"): family.changed("one", ".", seed=12),
        ModelRef("two"): family.changed("two", ".", seed=13)}.items()}  # fmt: skip
    size = weight(sizes[ModelRef("one")])
    halves = {ref: (range(0, 5), range(5, 10)) for ref in sizes}
    small = {ref: sizes[ref] for ref in (ModelRef("one"), ModelRef("two"))}

    def on(ref, *agents):
        return Planned(sizes[ref], _plan(sizes[ref], halves[ref], agents))

    staying = {ModelRef("one"): on(ModelRef("one"), "a0", "a0"), ModelRef("two"): on(ModelRef("two"), "a1", "a1")}
    for memory in (1.2, 1.7, 2.1, 3.1):
        found = arrange(staying, {ModelRef("large"): sizes[ModelRef("large")]}, (), places(memory * size), halves, 4)
        assert (found is not None) == (memory >= 1.7), memory
        if found is not None:
            moved = [found[ref] for ref in small]
            assert together([*staying.values(), *moved]) <= memory * size
            assert together(found.values()) <= memory * size


def _plan(chain, runs, agents):
    keys = tuple(tuple(part.block.id for part in chain.links[run.start : run.stop]) for run in runs)
    return Plan((0, *(run.stop for run in runs)), keys, tuple((agent,) for agent in agents))


def test_what_runs_on_an_old_layout_takes_its_room(chains):
    size = weight(chains[BASE])
    apart = {ref: chains[ref] for ref in (BASE, FULL)}
    old = arrange({}, {BASE: chains[BASE]}, (), places(1.5 * size), cuts(apart), 4)[BASE]
    room = places(1.5 * size, count=1)
    assert arrange({}, {FULL: chains[FULL]}, (), room, cuts(apart), 4) is not None
    assert arrange({}, {FULL: chains[FULL]}, [old], room, cuts(apart), 4) is None


def test_segments_too_large_are_cut_into_few_even_pieces_in_all_models_alike(chains):
    found = cuts(chains)
    size = weight(chains[BASE])
    assert split(found, chains, size, 4) == found
    halved = split(found, chains, 0.6 * size, 4)
    assert len(halved[FULL]) == 2
    pieces = {
        ref: [tuple(p.block.id for p in chains[ref].links[r.start : r.stop]) for r in halved[ref]] for ref in chains
    }
    shared = {b for key in pieces[BASE] for b in key} & {b for key in pieces[TOP] for b in key}
    assert [key for key in pieces[BASE] if shared & set(key)] == [key for key in pieces[TOP] if shared & set(key)]
    for ref, runs in split(found, chains, 1.0, 4).items():
        assert [len(run) for run in runs] == [1] * len(chains[ref].links)
