"""Flexible workers by measured speeds, which dip and level off."""

import pytest

from quiltwork.cluster.curves import read_sia_curves
from quiltwork.cluster.policy.flexing import Flexible, share
from quiltwork.cluster.policy.rules import Elastic
from quiltwork.cluster.speed import Speed, linear

TYPES = ("V100", "T4")
T4 = 1


def on_t4(speed, base, most):
    return Flexible(speed, (0, base), most, 1, (False, True))


@pytest.mark.parametrize("elastic", [Elastic.MARGINAL, Elastic.EXACT])
def test_gains_are_seconds_on_whatever_gpus_a_job_runs(elastic):
    """As much is left of both; the one on slow GPUs is further from its end, and a fast GPU saves it more."""
    line = linear({"V100": 1.0, "T4": 1 / 3}, 8, mixing=1.0)
    fast, slow = Flexible(line, (2, 0), 1, 1, (True, True)), Flexible(line, (0, 2), 1, 1, (True, True))
    assert share([fast, slow], [600.0, 600.0], (1, 0), TYPES, elastic=elastic).workers == [(0, 0), (1, 0)]
    # 600 / 2 - 600 / 3 seconds, and 600 / (2 / 3) - 600 / (5 / 3).
    assert share([fast, slow], [600.0, 600.0], (2, 0), TYPES, elastic=elastic).value == pytest.approx(100 + 540)
    assert share([fast, slow], [600.0, 60.0], (1, 0), TYPES, elastic=elastic).workers == [(1, 0), (0, 0)]


@pytest.mark.realdata
def test_a_job_that_is_slower_with_five_workers_than_with_four_stays_at_four(data_dir):
    bert = Speed(read_sia_curves(data_dir / "cluster/profiles/sia")["bert"])
    assert bert.on("T4", 5) < bert.on("T4", 4) < bert.on("T4", 8)
    assert share([on_t4(bert, 4, 1)], [1e6], (0, 1), TYPES).workers == [(0, 0)]
    # With room enough the dip is stepped over.
    (found,) = share([on_t4(bert, 4, 4)], [1e6], (0, 4), TYPES).workers
    assert found == (0, 4)


@pytest.mark.realdata
@pytest.mark.parametrize("model", ["bert", "cifar10", "deepspeech2", "imagenet", "yolov3"])
@pytest.mark.parametrize("capacity", [0, 1, 3, 7, 20])
def test_nobody_gets_workers_with_whom_it_is_slower(data_dir, model, capacity):
    speed = Speed(read_sia_curves(data_dir / "cluster/profiles/sia")[model])
    for base in (1, 2, 4, 8):
        (found,) = share([on_t4(speed, base, 12)], [1e6], (0, capacity), TYPES).workers
        assert found[T4] <= capacity
        assert speed.on("T4", base + found[T4]) >= speed.on("T4", base)
        if found[T4]:
            assert speed.on("T4", base + found[T4]) > speed.on("T4", base)
