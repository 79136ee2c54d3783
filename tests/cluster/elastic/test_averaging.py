"""The mean gradient over all workers: that of ``mean_of``, with marks, and bit-identically in parts."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from group_threads import ranks

from quiltwork.cluster.elastic.averaging import alone, in_parts, together
from quiltwork.cluster.elastic.group import GroupBroken
from quiltwork.cluster.elastic.layout import Layout, layout_of
from quiltwork.cluster.elastic.sharing import shares
from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import Gradients, mean_of

IDS = np.array([4, 1, 7, 0, 3, 9, 2])


def computed(ids, kind=np.float32) -> Gradients:
    """Gradients of made-up samples: each sample's are its own."""
    rows = [np.random.default_rng(i).normal(size=(3, 5)) for i in ids]
    flat = [np.random.default_rng(100 + i).normal(size=11) for i in ids]
    arrays = {"a": np.mean(rows, 0).astype(kind), "b": np.mean(flat, 0).astype(np.float32)}
    return Gradients(arrays, len(ids), {"loss": float(np.mean(ids)), "worst": float(np.max(ids))})


def expected(parts, kind=np.float32) -> Gradients:
    return mean_of([computed(part, kind) for part in shares(IDS, parts) if len(part)])


def bits(gradients):
    return {name: array.tobytes() for name, array in gradients.arrays.items()}


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("workers", [2, 3])
def test_one_all_reduce_gives_the_mean_at_every_worker(workers, kind):
    layout = layout_of(computed(IDS[:2], kind))
    got = ranks(
        workers, lambda group: together(lambda ids: computed(ids, kind), layout, group)(IDS, lambda: group.rank == 1)
    )
    right = expected(workers, kind)
    for mean, marks in got:
        assert marks == 1
        assert mean.count == len(IDS)
        assert mean.metrics == pytest.approx(right.metrics, rel=1e-6)
        for name, array in right.arrays.items():
            assert mean.arrays[name].dtype == array.dtype
            tolerance = 2e-3 if array.dtype == np.float16 else 1e-6
            np.testing.assert_allclose(mean.arrays[name], array, rtol=tolerance, atol=tolerance)
        assert bits(mean) == bits(got[0][0])


def test_a_worker_without_samples_takes_part_and_adds_nothing():
    few = IDS[:2]
    layout = layout_of(computed(few))
    asked = []

    def compute(ids):
        asked.append(len(ids))
        return computed(ids)

    got = ranks(4, lambda group: together(compute, layout, group)(few, lambda: True))
    right = mean_of([computed(few[:1]), computed(few[1:])])
    assert asked == [1, 1]
    for mean, marks in got:
        assert marks == 4
        np.testing.assert_allclose(mean.arrays["a"], right.arrays["a"], rtol=1e-6)


def test_a_mean_stays_what_it_is_when_the_next_one_is_computed():
    layout = layout_of(computed(IDS))

    def two(group):
        mean = together(computed, layout, group)
        first, _ = mean(IDS, lambda: False)
        kept = {name: array.copy() for name, array in first.arrays.items()}
        mean(IDS[::-1] + 1, lambda: False)
        return all(np.array_equal(first.arrays[name], kept[name]) for name in kept)

    assert ranks(2, two) == [True, True]


def test_a_metric_that_not_all_workers_tell_is_left_out():
    layout = layout_of(computed(IDS))

    def compute(ids):
        found = computed(ids)
        return Gradients(found.arrays, found.count, {"loss": 1.0} if 4 in ids else {**found.metrics, "extra": 2.0})

    for mean, _ in ranks(2, lambda group: together(compute, layout, group)(IDS, lambda: False)):
        assert set(mean.metrics) == {"loss"}
    for mean, _ in ranks(2, lambda group: in_parts(compute, layout, 3, group)(IDS, lambda: False)):
        assert set(mean.metrics) == {"loss"}


@pytest.mark.parametrize("parts", [1, 4, 9])
def test_in_parts_the_bits_are_those_of_the_mean_of_parts_whatever_the_workers(parts):
    layout = layout_of(computed(IDS))
    right = expected(parts)
    single, marks = in_parts(computed, layout, parts, None)(IDS, lambda: True)
    assert marks == 1
    for workers in (2, 3, 5):
        for mean, marks in ranks(
            workers, lambda group: in_parts(computed, layout, parts, group)(IDS, lambda: group.rank < 2)
        ):
            assert marks == 2
            assert bits(mean) == bits(single) == bits(right)
            assert (mean.count, mean.metrics) == (right.count, right.metrics)


def test_one_worker_alone_has_its_own_gradient():
    mean, marks = alone(computed)(IDS, lambda: True)
    assert marks == 1
    assert bits(mean) == bits(computed(IDS))


def test_a_parameter_that_changes_is_named():
    layout = layout_of(computed(IDS))
    for arrays, what in [
        ({"a": np.zeros((3, 5), np.float32)}, "b: is not there in every step"),
        ({"a": np.zeros((3, 4), np.float32), "b": np.zeros(11, np.float32)}, r"a: is float32 \(3, 4\) and was"),
        ({"a": np.zeros((3, 5)), "b": np.zeros(11, np.float32)}, "a: is float64"),
    ]:
        with pytest.raises(BadInputError, match=what):
            layout.check(Gradients(arrays, 1))
    with pytest.raises(BadInputError, match="gradients: n: cannot be averaged: int64"):
        layout_of(Gradients({"n": np.zeros(3, np.int64)}, 1))


def test_layouts_differ_where_gradients_cannot_be_summed():
    one = layout_of(computed(IDS))
    assert one.digest() == layout_of(computed(IDS[:1])).digest()
    assert one.digest() != layout_of(computed(IDS, np.float64)).digest()
    assert one.digest() != Layout({}, {}, ()).digest()


def test_whoever_waits_for_one_that_leaves_is_told():
    layout = layout_of(computed(IDS))

    def work(group):
        if group.rank == 1:
            return None
        with pytest.raises(GroupBroken):
            together(computed, layout, group)(IDS, lambda: False)
        return "told"

    assert ranks(2, work) == ["told", None]


def test_whoever_waits_for_one_that_does_not_come_can_be_told_to_stop():
    layout = layout_of(computed(IDS))
    over = threading.Event()

    def work(group):
        if group.rank == 1:
            return over.wait(60)
        with pytest.raises(GroupBroken, match="abandoned"):
            together(computed, layout, group)(IDS, lambda: False)
        over.set()
        return True

    asked = []
    assert ranks(2, work, stopped=lambda rank: len(asked) > 2 or asked.append(rank) is not None) == [True, True]
