import random

import pytest

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import place_gang
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.policy.waiting import Reservation, Waiting, admissions, reserve
from quiltwork.cluster.server import Pool, Server

TRAIN = ((0,),)
HOUR = 3600.0


def room_of(*free):
    room = Room([Server(str(i), "V100", 8, Pool.TRAIN) for i in range(len(free))])
    for server, left in enumerate(free):
        if left < 8:
            room.take(server, 8 - left)
    return room


def start_all(waiting, room, **options):
    started = []
    for start in admissions(waiting, room, lambda shape: [(TRAIN, False)], **options):
        for server, gpus in start.placement:
            room.take(server, gpus)
        started.append(start.job)
    return started


def queue(*jobs):
    waiting = Waiting()
    for number, (gpus, key) in enumerate(jobs):
        waiting.add(Shape(1, gpus), key, number)
    return waiting


def test_the_shortest_that_fits_starts_and_what_does_not_fit_is_passed_over():
    waiting = queue((8, 600), (2, HOUR))
    assert start_all(waiting, room_of(4)) == [1]
    assert len(waiting) == 1


def test_ties_go_by_number():
    assert start_all(queue((1, 5), (2, 5), (1, 5)), room_of(8)) == [0, 1, 2]


def test_no_more_are_passed_over_than_may_be():
    jobs = [(8, 1), (8, 2), (1, 3), (4, 4), (1, 5)]
    assert start_all(queue(*jobs), room_of(2), depth=0) == []
    assert start_all(queue(*jobs), room_of(2), depth=1) == []
    assert start_all(queue(*jobs), room_of(2), depth=2) == [2]
    assert start_all(queue(*jobs), room_of(2), depth=3) == [2, 4]


def test_the_lines_say_what_a_walk_of_the_whole_queue_says():
    chance = random.Random(7)
    for _ in range(200):
        jobs = [(chance.choice([1, 2, 4, 8, 12, 16]), chance.randrange(100)) for _ in range(30)]
        free = [chance.randrange(9) for _ in range(6)]
        depth = chance.choice([None, 0, 1, 3, 10])
        room, walked, skipped = room_of(*free), [], 0
        for number in sorted(range(30), key=lambda n: (jobs[n][1], n)):
            placed = place_gang(room, Shape(1, jobs[number][0]), TRAIN)
            if placed is None:
                skipped += 1
                continue
            if depth is not None and skipped > depth:
                break
            for server, gpus in placed:
                room.take(server, gpus)
            walked.append(number)
        assert start_all(queue(*jobs), room_of(*free), depth=depth) == walked


def test_a_job_that_waits_can_leave():
    waiting = queue((1, 5), (1, 6))
    waiting.remove(Shape(1, 1), 5, 0)
    assert start_all(waiting, room_of(8)) == [1]
    with pytest.raises(KeyError):
        waiting.remove(Shape(1, 1), 5, 0)


def test_what_is_reserved_may_be_used_by_who_is_gone_in_time():
    seconds = [600.0, HOUR, 60.0]
    reserved = Reservation(0, 0b1, 120.0)
    waiting = queue((8, 600), (2, HOUR), (2, 60))
    assert start_all(waiting, room_of(4), reserved=reserved, seconds=seconds.__getitem__) == [2]
    waiting = queue((8, 600), (2, HOUR), (2, 60))
    assert start_all(waiting, room_of(4, 4), reserved=reserved, seconds=seconds.__getitem__) == [2, 1]


def test_a_gang_is_promised_the_servers_that_are_free_first():
    room = room_of(0, 4, 0, 8)
    ends = {0: [(50.0, 4), (500.0, 4)], 1: [(100.0, 4)], 2: [(10.0, 8)]}
    assert reserve(7, Shape(1, 16), room, TRAIN, ends) == Reservation(7, 0b1100, 10.0)
    assert reserve(7, Shape(1, 24), room, TRAIN, ends) == Reservation(7, 0b1110, 100.0)
    assert reserve(7, Shape(1, 32), room, TRAIN, ends) == Reservation(7, 0b1111, 500.0)
    assert reserve(7, Shape(1, 40), room, TRAIN, ends) is None


def test_a_job_as_large_as_a_piece_of_a_server_is_promised_one():
    room = room_of(0, 1)
    assert reserve(7, Shape(1, 4), room, TRAIN, {0: [(50.0, 4)], 1: [(9.0, 7)]}) == Reservation(7, 0b10, 9.0)


def test_a_gang_over_servers_of_several_sizes_is_promised_as_many_as_hold_it():
    room = Room([Server(str(i), "V100", gpus, Pool.TRAIN) for i, gpus in enumerate((4, 8, 4))])
    for server in range(3):
        room.take(server, room.gpus[server])
    small, large = (next(i for i, shelf in enumerate(room.shelves) if shelf.gpus == gpus) for gpus in (4, 8))
    ends = {0: [(10.0, 4)], 1: [(20.0, 8)], 2: [(30.0, 4)]}
    tiers = ((small,), (large,), (small, large))
    assert reserve(7, Shape(1, 12), room, tiers, ends) == Reservation(7, 0b011, 20.0)
    assert reserve(7, Shape(1, 16), room, tiers, ends) == Reservation(7, 0b111, 30.0)
    assert reserve(7, Shape(1, 8), room, tiers, ends) == Reservation(7, 0b010, 20.0)
    assert reserve(7, Shape(1, 17), room, tiers, ends) is None
