"""What is ours to know of a Ray cluster, without one: which nodes are servers, and what groups ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.live.backend import Gang, WorkerOrder
from quiltwork.cluster.live.ray_groups import PINCH, Groups
from quiltwork.cluster.live.ray_nodes import Node, nodes_of


def node(id, alive=True, **resources):
    return {"NodeID": id, "Alive": alive, "Resources": {"CPU": 8.0, f"node:{id}": 1.0, "memory": 1e9, **resources}}


def test_a_node_is_a_server_where_it_says_its_name_and_its_gpu_type():
    found = nodes_of([
        node("1", srv_a=1.0, V100=4.0),
        node("2", srv_b=1.0, T4=2.0, GPU=2.0, **{"accelerator_type:T4": 1.0}),
        node("3", srv_c=1.0, GPU=8.0, **{"accelerator_type:A100": 1.0}),
        node("4", srv_d=1.0),
        node("5", V100=4.0),
        node("6", srv_e=1.0, srv_f=1.0, V100=4.0),
        node("7", srv_g=1.0, V100=4.0, T4=2.0),
        node("8", alive=False, srv_h=1.0, V100=4.0),
        node("9", srv_a=1.0, T4=1.0),
    ])  # fmt: skip
    assert found == {
        "a": Node("1", "a", "V100", 4, "V100", real=False),
        "b": Node("2", "b", "T4", 2, "T4", real=True),
        "c": Node("3", "c", "A100", 8, "GPU", real=True),
    }


@dataclass
class FakeGroup:
    name: str
    bundle_specs: list[dict[str, float]]


@dataclass
class FakeRay:
    """Groups as Ray keeps them: by name."""

    groups: dict[str, FakeGroup] = field(default_factory=dict)

    @property
    def util(self) -> Any:
        return self

    def placement_group(self, bundles, strategy, name, lifetime):
        assert (strategy, lifetime) == ("PACK", "detached")
        assert name not in self.groups
        self.groups[name] = FakeGroup(name, bundles)
        return self.groups[name]

    def get_placement_group(self, name):
        if name not in self.groups:
            raise ValueError(name)
        return self.groups[name]

    def remove_placement_group(self, handle):
        del self.groups[handle.name]

    def asked(self):
        return {name: group.bundle_specs for name, group in self.groups.items()}

    def held(self, resource):
        return sum(bundle.get(resource, 0) for group in self.groups.values() for bundle in group.bundle_specs)


def order(id, server="a", slots=(0,), gang=None):
    return WorkerOrder(id, "job", server, slots, ("true",), "/log", gang=gang)


@pytest.fixture
def ray():
    return FakeRay()


@pytest.fixture
def groups(ray):
    return Groups(ray, {"a": "V100", "b": "T4"}.__getitem__)


@pytest.fixture
def join(groups):
    """Join, and say which group and bundle that is."""

    def join(order, alive=("a", "b")):
        group, bundle = groups.join(order, alive)
        return group.name, bundle

    return join


def test_a_gang_has_one_group_with_a_bundle_for_each_and_until_the_last_is_gone(ray, groups, join):
    gang = ("a", "b", "a")
    orders = [order(f"w{i}", server, (i, i + 3), Gang("g", gang, i)) for i, server in enumerate(gang)]
    assert [join(one) for one in orders] == [("g", 0), ("g", 1), ("g", 2)]
    a, b = {"srv_a": PINCH, "V100": 2.0}, {"srv_b": PINCH, "T4": 2.0}
    assert ray.asked() == {"g": [a, b, a]}
    groups.leave("w1")
    groups.leave("w0")
    assert set(ray.groups) == {"g"}
    groups.leave("w2")
    assert ray.groups == {}


def test_gpus_that_a_group_holds_and_nobody_uses_are_not_asked_for_again(ray, groups, join):
    gang = ("a", "a")
    for i in range(2):
        join(order(f"w{i}", slots=(2 * i, 2 * i + 1), gang=Gang("g", gang, i)))
    groups.leave("w0")
    assert join(order("x", slots=(0,))) == ("x", 0)
    assert join(order("y", slots=(1, 4))) == ("y", 0)
    assert ray.asked()["x"] == [{"srv_a": PINCH}]
    assert ray.asked()["y"] == [{"srv_a": PINCH, "V100": 1.0}]


SLOTS = 8
moves = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(1, 3), st.integers(1, 3)), max_size=30)


@given(moves)
def test_groups_never_hold_more_than_a_server_has_so_that_none_waits_for_ever(moves):
    """Gangs come to slots that are free, and workers leave one by one, in any order."""
    ray = FakeRay()
    groups = Groups(ray, lambda server: "V100")
    slots = {}
    for n, (pick, size, count) in enumerate(moves):
        free = [slot for slot in range(SLOTS) if slot not in slots.values()]
        if len(free) >= size * count:
            gang = ("a",) * count
            for i in range(count):
                mine = tuple(free[i * size : (i + 1) * size])
                groups.join(order(f"w{n}.{i}", slots=mine, gang=Gang(f"g{n}", gang, i)), {"a"})
                slots |= {(n, i, slot): slot for slot in mine}
        elif slots:
            n, i, _ = sorted(slots)[pick % len(slots)]
            groups.leave(f"w{n}.{i}")
            slots = {key: slot for key, slot in slots.items() if key[:2] != (n, i)}
        assert ray.held("V100") <= SLOTS
        assert bool(slots) == bool(ray.groups)


def test_a_gang_that_has_lost_a_server_gets_a_group_for_each(ray, join):
    assert join(order("w", gang=Gang("g", ("a", "b"), 0)), {"a"}) == ("w!", 0)
    assert ray.asked() == {"w!": [{"srv_a": PINCH, "V100": 1.0}]}


def test_a_place_in_a_gang_is_taken_again_when_it_is_free_and_else_beside_it(groups, join):
    gang = Gang("g", ("a", "b"), 0)
    join(order("w", gang=gang))
    assert join(order("x", slots=(1,), gang=gang)) == ("x!", 0)
    join(order("stays", "b", gang=Gang("g", ("a", "b"), 1)))
    groups.leave("w")
    assert join(order("y", gang=gang)) == ("g", 0)


def test_the_next_controller_knows_the_groups_of_the_workers_that_it_finds(ray, join):
    gang = Gang("g", ("a", "b"), 0)
    orders = [order("w", gang=gang), order("x", slots=(1,), gang=gang), order("y", slots=(2,))]
    for one in orders:
        join(one)
    again = Groups(ray, {"a": "V100", "b": "T4"}.__getitem__)
    for one in orders:
        again.find(one)
    again.find(order("never", slots=(3,)))
    assert again.join(order("z", slots=(3,)), {"a", "b"})[0].bundle_specs == [{"srv_a": PINCH, "V100": 1.0}]
    for one in (*orders, order("z")):
        again.leave(one.worker_id)
    assert ray.groups == {}
