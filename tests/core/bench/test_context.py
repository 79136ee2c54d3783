from __future__ import annotations

import pytest

from quiltwork.core.bench import Context, Sample
from quiltwork.core.errors import BadInputError


@pytest.fixture
def world(tmp_path):
    """A context under clocks that only the arms move, and the arms' diary."""
    now, diary = {"wall": 0.0, "cpu": 0.0}, []
    context = Context(True, 0, tmp_path, clock=lambda: now["wall"], cpu=lambda: now["cpu"], progress=diary.append)

    def arm(name, wall, cpu):
        def run():
            diary.append(name)
            now["wall"] += wall
            now["cpu"] += cpu

        return run

    return context, arm, diary


def test_arms_take_turns_and_warm_up_first(world):
    context, arm, diary = world
    samples = context.interleave({"a": arm("a", 1, 1), "b": arm("b", 1, 1)}, repeats=2, warmup=1)
    assert diary == ["warm-up", "a", "b", "round 1 of 2", "a", "b", "round 2 of 2", "a", "b"]
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 2, "b": 2}


def test_each_arm_gets_its_own_cost(world):
    context, arm, _ = world
    samples = context.interleave({"a": arm("a", 2.0, 3.0), "b": arm("b", 5.0, 0.5)}, repeats=1, warmup=0)
    assert samples == {"a": [Sample(cpu_s=3.0, wall_s=2.0)], "b": [Sample(cpu_s=0.5, wall_s=5.0)]}


def test_an_arms_error_ends_the_run(world):
    context, arm, _ = world
    with pytest.raises(ZeroDivisionError):
        context.interleave({"a": arm("a", 1, 1), "b": lambda: 1 / 0}, repeats=1)


@pytest.mark.parametrize(("arms", "repeats", "warmup"), [({}, 1, 0), ({"a": print}, 0, 0), ({"a": print}, 1, -1)])
def test_nonsense_is_refused(world, arms, repeats, warmup):
    with pytest.raises(BadInputError, match="interleave"):
        world[0].interleave(arms, repeats, warmup)


def test_real_clocks_see_real_work(tmp_path):
    (sample,) = Context(True, 0, tmp_path).interleave({"a": lambda: sum(range(10**6))}, repeats=1)["a"]
    assert sample.cpu_s > 0
    assert sample.wall_s > 0
