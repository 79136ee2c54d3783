from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import place_gang
from quiltwork.cluster.policy.room import CLOSED, Room, bits
from quiltwork.cluster.server import Group, Pool, Server
from quiltwork.core.errors import BadInputError

TRAIN = ((0,),)


def training(*used, gpus=8):
    room = Room([Server(str(i), "V100", gpus, Pool.TRAIN) for i in range(len(used))])
    for server, taken in enumerate(used):
        if taken:
            room.take(server, taken)
    return room


def test_the_server_with_the_least_room_that_is_enough():
    room = training(0, 3, 6, 7)
    assert place_gang(room, Shape(1, 1), TRAIN) == ((3, 1),)
    assert place_gang(room, Shape(1, 2), TRAIN) == ((2, 2),)
    assert place_gang(room, Shape(4, 1), TRAIN) == ((1, 4),)
    assert place_gang(room, Shape(8, 1), TRAIN) == ((0, 8),)


def test_a_gang_of_whole_servers_waits_though_as_many_gpus_are_free_in_pieces():
    room = training(*[6] * 20, *[8] * 4)
    assert sum(room.free) > 32
    assert place_gang(room, Shape(1, 32), TRAIN) is None
    assert place_gang(room, Shape(8, 4), TRAIN) is None
    for server in range(20, 24):
        room.give(server, 8)
    assert place_gang(room, Shape(1, 32), TRAIN) == tuple((server, 8) for server in range(20, 24))


def test_a_gang_takes_whole_servers_and_the_rest_on_one():
    room = training(0, 4, 2, 0)
    assert place_gang(room, Shape(1, 12), TRAIN) == ((0, 8), (1, 4))
    assert place_gang(room, Shape(3, 3), TRAIN) == ((2, 6), (1, 3))


def test_a_gang_that_need_not_be_compact_uses_the_pieces():
    room = training(6, 7, 0)
    assert place_gang(room, Shape(1, 4, compact=False), TRAIN) == ((1, 1), (0, 2), (2, 1))
    assert place_gang(room, Shape(1, 12, compact=False), TRAIN) is None


def test_servers_that_are_not_allowed_are_not_used():
    assert place_gang(training(7, 0), Shape(1, 1), TRAIN, allowed=~1) == ((1, 1),)


def sizes(*free):
    """Servers of 4 and 8 GPUs, (size, free ones) each, and a tier of each size and of both."""
    room = Room([Server(str(i), "V100", gpus, Pool.TRAIN) for i, (gpus, _) in enumerate(free)])
    for server, (gpus, left) in enumerate(free):
        if left < gpus:
            room.take(server, gpus - left)
    small, large = (next(i for i, shelf in enumerate(room.shelves) if shelf.gpus == gpus) for gpus in (4, 8))
    return room, ((small,), (large,), (small, large))


def test_a_gang_spans_servers_of_several_sizes_where_none_holds_it():
    room, tiers = sizes((4, 4), (8, 8), (4, 4))
    assert place_gang(room, Shape(1, 12), tiers[:2]) is None
    assert place_gang(room, Shape(1, 12), tiers) == ((1, 8), (0, 4))
    assert place_gang(room, Shape(1, 16), tiers) == ((1, 8), (0, 4), (2, 4))
    assert place_gang(room, Shape(3, 3), tiers) == ((1, 6), (0, 3))
    assert place_gang(room, Shape(1, 8), tiers) == ((0, 4), (2, 4))
    assert place_gang(room, Shape(1, 17), tiers) is None
    assert place_gang(room, Shape(1, 12), tiers, allowed=0b101) is None
    assert place_gang(room, Shape(1, 14, compact=False), tiers) == ((0, 4), (2, 4), (1, 6))


def test_pieces_of_servers_of_several_sizes_hold_no_gang_that_wants_whole_ones():
    room, tiers = sizes((4, 3), (8, 8), (4, 3), (8, 5))
    assert place_gang(room, Shape(1, 13), tiers) == ((1, 8), (3, 5))
    assert place_gang(room, Shape(1, 11), tiers[2:]) == ((1, 8), (0, 3))
    assert place_gang(room, Shape(1, 14), tiers) is None
    assert place_gang(room, Shape(1, 14, compact=False), tiers) is not None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([(4, n) for n in range(5)] + [(8, n) for n in range(9)]), min_size=2, max_size=6),
    st.integers(1, 5),
    st.integers(1, 12),
)
def test_whatever_whole_servers_and_one_piece_can_hold_is_placed(free, weight, workers):
    room, tiers = sizes((4, 0), (8, 0), *free)

    def holds(chosen):
        rest = workers - sum(gpus // weight for gpus, _ in chosen)
        others = list(free)
        for each in chosen:
            others.remove(each)
        return rest == 0 or (rest > 0 and any(left // weight >= rest for _, left in others))

    usable = [each for each in free if each[1] >= each[0] // weight * weight > 0]
    possible = any(holds(some) for n in range(len(usable) + 1) for some in combinations(usable, n))
    placed = place_gang(room, Shape(weight, workers), tiers[2:])
    assert (placed is not None) == possible
    if placed is not None:
        assert sum(gpus for _, gpus in placed) == weight * workers
        assert len({server for server, _ in placed}) == len(placed)
        assert all(gpus <= room.free[server] for server, gpus in placed)


def lent(count):
    return Room([Server(str(i), "T4", 8, Pool.ONLOAN) for i in range(count)])


def test_a_lent_server_is_of_the_group_of_what_runs_there():
    room = lent(1)
    groups = [room.shelf_of(0).group]
    room.take(0, 2, flexible=True)
    groups.append(room.shelf_of(0).group)
    room.take(0, 1)
    groups.append(room.shelf_of(0).group)
    room.give(0, 1)
    room.give(0, 2, flexible=True)
    groups.append(room.shelf_of(0).group)
    assert groups == [Group.NONE, Group.FLEX, Group.BASE, Group.NONE]


def test_flexible_workers_count_as_room_for_base_demand():
    room = training(0)
    room.take(0, 6, flexible=True)
    assert place_gang(room, Shape(4, 1), TRAIN) is None
    assert place_gang(room, Shape(4, 1), TRAIN, revoking=True) == ((0, 4),)
    room.keep(0, 6)
    assert place_gang(room, Shape(4, 1), TRAIN, revoking=True) is None


def test_a_closed_server_takes_nothing_and_its_workers_may_go():
    room = training(3, 0)
    room.close(0)
    assert place_gang(room, Shape(1, 1), TRAIN) == ((1, 1),)
    room.give(0, 3)
    assert room.shelf[0] == CLOSED
    room.admit(0, Pool.TRAIN)
    assert sorted(room.servers(0)) == [0, 1]
    with pytest.raises(BadInputError, match="takes work already"):
        room.admit(0, Pool.TRAIN)


def test_more_than_there_is_cannot_be_taken_or_given():
    room = training(6)
    with pytest.raises(BadInputError, match="3 GPUs of 2 free ones"):
        room.take(0, 3)
    with pytest.raises(BadInputError, match="not taken"):
        room.give(0, 7)


change = st.tuples(st.integers(0, 3), st.integers(1, 8), st.booleans(), st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(change, max_size=40))
def test_buckets_say_what_the_counts_say(changes):
    room = Room([Server(str(i), "T4", 8, Pool.ONLOAN if i % 2 else Pool.TRAIN) for i in range(4)])
    taken: dict[tuple[int, bool], int] = {}
    for server, gpus, flexible, leave in changes:
        held = taken.get((server, flexible), 0)
        if leave and held >= gpus:
            room.give(server, gpus, flexible)
            taken[server, flexible] = held - gpus
        elif not leave and room.free[server] >= gpus:
            room.take(server, gpus, flexible)
            taken[server, flexible] = held + gpus
    copy = room.copy()
    for server in range(4):
        used, flexible = (taken.get((server, kind), 0) for kind in (False, True))
        assert room.free[server] == 8 - used - flexible
        assert room.reach[server] == 8 - used
        where = [(s, n) for s, shelf in enumerate(copy.open) for n, b in enumerate(shelf) if server in bits(b)]
        assert where == [(room.shelf[server], room.free[server])]
        within = [(s, n) for s, shelf in enumerate(copy.within) for n, b in enumerate(shelf) if server in bits(b)]
        assert within == [(room.shelf[server], room.reach[server])]
