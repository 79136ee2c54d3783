"""What is placed where, given all models at once."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import CapacityError
from quiltwork.core.names import ModelRef
from quiltwork.serving.agents.placing import plan
from quiltwork.serving.policy.placement import Place

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
