import math

import pytest

from quiltwork.cluster.job import Job
from quiltwork.cluster.speed import Speed, linear
from quiltwork.core.errors import BadInputError

LINE = linear({"V100": 1.0, "T4": 1 / 3}, 16)
TYPES = ("V100", "T4")


def test_linear_speed_is_the_workers_by_what_each_can_do():
    assert LINE.of((4, 0), TYPES) == 4
    assert LINE.of((0, 6), TYPES) == pytest.approx(2)
    assert LINE.of((0, 0), TYPES) == 0


def test_a_run_over_two_types_keeps_a_share_of_its_speed():
    assert LINE.of((4, 6), TYPES) == pytest.approx(0.7 * 6)
    assert Speed(LINE.curves, mixing=1.0).of((4, 6), TYPES) == pytest.approx(6)


def test_a_measured_curve_is_flat_beyond_its_end():
    speed = Speed({"V100": (1.0, 1.9, 2.5)})
    assert [speed.on("V100", n) for n in (0, 1, 3, 9)] == [0.0, 1.0, 2.5, 2.5]
    assert speed.on("T4", 1) == 0
    assert speed.of((1, 1), TYPES) == 0


@pytest.mark.parametrize("curve", [(), (0.0,), (1.0, math.nan)])
def test_a_curve_is_of_positive_numbers(curve):
    with pytest.raises(BadInputError, match="positive numbers"):
        Speed({"V100": curve})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"w_min": 0}, "at least one worker"),
        ({"gpus_per_worker": 0}, "at least one worker"),
        ({"w_min": 3, "w_max": 2}, "w_max 2 is less than w_min 3"),
        ({"work": math.nan}, "not a number"),
        ({"believed": -1.0}, "not a number"),
        ({"submit_s": math.inf}, "submitted at inf"),
        ({"checkpoint_s": 0.0}, "checkpoints every 0"),
    ],
)
def test_a_job_that_cannot_be_is_named(fields, message):
    with pytest.raises(BadInputError, match=f"job x: .*{message}"):
        Job(**{"id": "x", "submit_s": 0.0, "work": 1.0, "speed": LINE, **fields})


def test_who_outlives_what_was_believed_is_thought_to_have_as_much_before_it():
    job = Job("x", 0.0, 100.0, LINE, believed=60.0)
    assert [job.believed_left(done) for done in (0, 20, 60, 80)] == [60, 40, 60, 80]
    assert Job("y", 0.0, 100.0, LINE).believed_left(10) == math.inf
