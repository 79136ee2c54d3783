"""Random lent servers: full, within their GPUs, the same for the same number and no others than those asked for."""

from __future__ import annotations

import random

import pytest

from work.gangs import DEVELOPMENT, GPUS, MIX, REPORTED, SERVERS, TAKEN, Family, instance, population


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("servers", SERVERS)
def test_servers_are_nearly_full_and_never_overfull(servers: int, family: Family) -> None:
    lent = instance(servers, 1_000_000, family=family)
    taken = [sum(held.base.values()) for held in lent.values()]
    assert sorted(lent) == list(range(servers))
    assert max(taken) <= GPUS
    assert TAKEN <= sum(taken) / (servers * GPUS) <= 1


@pytest.mark.parametrize("family", Family)
def test_every_job_has_the_gpus_of_a_size_of_the_mix(family: Family) -> None:
    sizes: dict[int, int] = {}
    for held in instance(100, 1_000_000, family=family).values():
        for job, gpus in held.base.items():
            sizes[job] = sizes.get(job, 0) + gpus
    assert set(sizes.values()) <= set(MIX)


def test_sizes_come_as_the_mix_says() -> None:
    sizes = population(1_000_000, random.Random(1))
    assert sum(MIX.values()) == pytest.approx(1)
    for size, share in MIX.items():
        assert sizes.count(size) / len(sizes) == pytest.approx(share, abs=0.01)


def test_a_number_says_all() -> None:
    assert instance(50, 7) == instance(50, 7)
    assert instance(50, 7) != instance(50, 8)
    assert instance(50, 7) != instance(50, 7, seed=1)


def test_what_is_reported_is_not_what_is_tuned_on() -> None:
    assert set(REPORTED) == set(SERVERS)
    for numbers in REPORTED.values():
        assert len(numbers) >= 30
        assert not set(numbers) & set(DEVELOPMENT)


def test_gangs_that_are_spread_share_servers_and_compact_ones_hardly_do() -> None:
    def alone(family: Family) -> float:
        return sum(len(held.base) == 1 for held in instance(300, 1_000_000, family=family).values()) / 300

    assert alone(Family.COMPACT) > alone(Family.SPREAD)
