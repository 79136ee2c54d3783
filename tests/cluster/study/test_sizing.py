"""How many servers it takes."""

from dataclasses import replace

import pytest
from small_studies import small_study, write_jobs

from quiltwork.cluster.study.fleet import Fleet
from quiltwork.cluster.study.sizing import Point, Sizing, whatif
from quiltwork.cluster.study.study import Study
from quiltwork.cluster.traces import read_jobs
from quiltwork.core.errors import BadInputError


@pytest.fixture
def study(tmp_path):
    return small_study(tmp_path, skip_too_large=True)


def plain(tmp_path, rows=None, **options):
    return Study(read_jobs(write_jobs(tmp_path, rows)), Fleet(1), **options)


def test_more_servers_wait_less_and_the_fewest_that_hold_the_queue_are_the_answer(study):
    found = whatif(study, [4, 2, 3], ["fifo", "sjf"])
    assert [(p.arm, p.train) for p in found.points] == [(arm, n) for arm in ("fifo", "sjf") for n in (2, 3, 4)]
    queues = [p.metrics.queue_mean_s for p in found.points[:3]]
    assert queues == sorted(queues, reverse=True)
    assert found.answers() == []
    asked = whatif(study, [4, 2, 3], ["fifo"], queue_s=queues[1])
    assert [asked.holds(p) for p in asked.points] == [False, True, True]
    assert asked.answers() == [("fifo", None, 3)]
    assert asked.document()["answers"] == [{"arm": "fifo", "lent": None, "train": 3}]
    assert whatif(study, [2], ["fifo"], queue_s=0.0).answers() == [("fifo", None, None)]


def test_a_size_that_holds_by_chance_below_one_that_does_not_is_no_answer(study):
    some = whatif(study, [2], ["fifo"]).points[0].metrics

    def point(train, queue_s):
        return Point(train, None, "fifo", some.__class__(**some.document() | {"queue_mean_s": queue_s}), 0.0)

    found = Sizing((point(1, 5.0), point(2, 50.0), point(3, 5.0), point(4, 5.0)), 10.0, ())
    assert found.answers() == [("fifo", None, 3)]


def test_servers_that_are_lent_for_good_shorten_the_queue(tmp_path):
    study = plain(tmp_path, skip_too_large=True)
    study = replace(study, fleet=Fleet(1, 7))
    found = whatif(study, [1], ["sjf"], lend=[4, 0], queue_s=1.0)
    assert not any("nothing is lent" in note for note in found.notes)
    assert [(p.train, p.lent) for p in found.points] == [(1, 0), (1, 4)]
    none, four = (p.metrics for p in found.points)
    assert (none.loans, four.loans, four.reclaims) == (0, 4, 0)
    assert four.queue_mean_s < none.queue_mean_s
    assert [(arm, lent) for arm, lent, _ in found.answers()] == [("sjf", 0), ("sjf", 4)]


def test_the_jobs_are_the_same_at_every_size(tmp_path):
    rows = ["a,0,8,60,x", "big,1,16,60,x"]
    with pytest.raises(BadInputError, match="job big: asks for 16 GPUs, more than the 8"):
        whatif(plain(tmp_path, rows), [2, 1], ["fifo"])
    found = whatif(plain(tmp_path, rows, skip_too_large=True), [2, 1], ["fifo"])
    assert [p.metrics.jobs for p in found.points] == [1, 1]
    assert found.notes == ("left out: 1 job that asks for more than 8 GPUs (job big first)",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": []}, "train: no number of servers"),
        ({"train": [2, 2]}, "train: a number of servers is given twice"),
        ({"train": [0]}, "train: 0 is not from 1"),
        ({"lend": [1]}, "lend: .*leave no demand to follow"),
        ({"queue_s": -1.0}, "queue: -1.0 is not a length of time"),
        ({"policies": ["best"]}, "policy: 'best' is not one of"),
    ],
)
def test_questions_that_make_no_sense_are_refused(study, options, message):
    asked = {"train": [2], "policies": ["fifo"]} | options
    with pytest.raises(BadInputError, match=message):
        whatif(study, **asked)
