"""A trace and its labels become jobs: how much work each is, and how fast it runs on each type."""

import numpy as np
import pytest
from small_studies import write_jobs

from quiltwork.cluster.curves import CAPABILITY, MODELS, model_of, read_sia_curves
from quiltwork.cluster.labels import LabelRules, label
from quiltwork.cluster.simulate.workload import jobs_of
from quiltwork.cluster.traces import read_jobs
from quiltwork.core.errors import BadInputError


@pytest.fixture
def trace(tmp_path):
    return read_jobs(write_jobs(tmp_path, ["a,0,8,4000,red", "b,1,2,100,blue"]))


def jobs(trace, capability=CAPABILITY, elastic="large-and-long", **options):
    return jobs_of(trace, label(trace, LabelRules(elastic=elastic)), capability, **options)


def test_a_job_that_gets_what_it_asked_for_takes_as_long_as_in_the_trace(trace):
    for job, seconds in zip(jobs(trace), (4000, 100), strict=True):
        assert job.seconds(job.work, "V100") == pytest.approx(seconds)
        assert job.seconds(job.work, "T4") == pytest.approx(3 * seconds)
        assert job.believed == job.work
    assert [job.team for job in jobs(trace)] == ["red", "blue"]
    assert [(job.w_min, job.w_max) for job in jobs(trace)] == [(8, 16), (2, 2)]


def test_the_trace_may_have_run_on_the_slower_type(trace):
    made = jobs(trace, {"V100": 1.0, "H100": 4.0}, reference="V100")
    assert made[1].seconds(made[1].work, "V100") == pytest.approx(100)
    assert made[1].seconds(made[1].work, "H100") == pytest.approx(25)
    with pytest.raises(BadInputError, match="reference: 'T4' is not one of V100"):
        jobs(trace, {"V100": 1.0}, reference="T4")


def test_only_elastic_jobs_have_a_measured_speed_and_in_one_unit_with_the_others(trace):
    curves = [{"V100": (1.0, 1.9), "T4": (0.4 + at / 100, 0.7)} for at in range(len(MODELS))]
    made = jobs(trace, curves=curves)
    own = MODELS.index(model_of("a"))
    assert made[0].speed.on("T4", 1) == 0.4 + own / 100
    # Flat beyond what was measured, and the trace's time is what that takes.
    assert made[0].work == pytest.approx(4000 * 1.9)
    assert [made[1].speed.on(t, 1) for t in ("V100", "T4")] == [1.0, 1 / 3]
    assert made[1].work == pytest.approx(200)


def test_what_is_thought_of_a_job_is_a_running_time_or_nothing(trace):
    made = jobs(trace, believed_s=[2000.0, None])
    assert made[0].seconds(made[0].believed, "V100") == pytest.approx(2000)
    assert made[1].believed is None


def test_labels_of_another_trace_are_refused(trace):
    with pytest.raises(BadInputError, match="labels: 1 of them for 2 jobs"):
        jobs_of(trace, label(trace[:1]), CAPABILITY)
    with pytest.raises(BadInputError, match="believed_s: 1 of them for 2 jobs"):
        jobs(trace, believed_s=[1.0])


@pytest.mark.realdata
def test_measured_speeds_are_of_one_v100_on_both_types(data_dir):
    curves = read_sia_curves(data_dir / "cluster/profiles/sia")
    for curve in curves.values():
        assert curve["V100"][0] == 1.0
        # Where one T4 is a third of a V100, for every model by and large.
        assert curve["T4"][0] == pytest.approx(CAPABILITY["T4"], abs=0.12)
        assert np.all(np.array(curve["T4"]) < np.array(curve["V100"]))
