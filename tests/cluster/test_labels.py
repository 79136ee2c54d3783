"""Labels by rules that anyone can apply again."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.cluster.curves import MODELS, model_of
from quiltwork.cluster.labels import LabelRules, label
from quiltwork.cluster.traces import draw, read_jobs
from quiltwork.core.errors import BadInputError


def trace(tmp_path, *rows, header="job_id,submit_s,num_gpus,duration_s"):
    path = tmp_path / "jobs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_jobs(path)


def test_draws_of_the_trace_decide_against_thresholds(tmp_path):
    header = "job_id,submit_s,num_gpus,duration_s,u_fungible,u_hetero,u_ckpt"
    jobs = trace(tmp_path, "a,0,1,60,0.2099,0.7,0.1", "b,0,1,60,0.21,0.1,0.9", header=header)
    labels = label(jobs, LabelRules(hetero=0.5, checkpointed=0.5))
    assert list(labels.fungible) == [True, False]
    assert list(labels.hetero) == [False, True]
    assert list(labels.checkpointed) == [True, False]


def test_draws_that_a_trace_lacks_come_from_its_ids(tmp_path):
    jobs = trace(tmp_path, *(f"{n},0,1,60" for n in range(300)))
    assert list(label(jobs).fungible) == [draw("fungible", str(n)) < 0.21 for n in range(300)]


def test_shares_of_0_and_1_are_none_and_all(tmp_path):
    labels = label(trace(tmp_path, "a,0,1,60", "b,0,1,60"))
    assert list(labels.hetero) == [True, True]
    assert list(labels.checkpointed) == [False, False]


def test_most_gpu_time_is_counted_among_jobs_over_10_minutes(tmp_path):
    rows = [f"short{n},0,64,600" for n in range(10)] + ["a,0,1,700", "b,0,2,700", "c,0,2,700", "d,0,1,601"]
    rows += [f"tiny{n},0,1,1" for n in range(26)]
    jobs = trace(tmp_path, *rows)
    labels = label(jobs)
    assert [job.id for job in jobs.take(labels.elastic)] == ["b", "c"]
    wide = label(jobs, LabelRules(elastic_share=0.5))
    assert [job.id for job in jobs.take(wide.elastic)] == ["a", "b", "c", "d"]


def test_large_and_long_is_8_gpus_for_over_an_hour(tmp_path):
    jobs = trace(tmp_path, "a,0,8,3601", "b,0,8,3600", "c,0,7,9999", "d,0,64,4000")
    labels = label(jobs, LabelRules(elastic="large-and-long"))
    assert list(labels.elastic) == [True, False, False, True]


def test_drawn_and_none(tmp_path):
    header = "job_id,submit_s,num_gpus,duration_s,u_elastic"
    jobs = trace(tmp_path, "a,0,1,9,0.049", "b,0,1,9000,0.05", header=header)
    assert list(label(jobs, LabelRules(elastic="drawn")).elastic) == [True, False]
    assert not label(jobs, LabelRules(elastic="none")).elastic.any()


def test_elastic_jobs_may_double_and_have_a_models_curve(tmp_path):
    labels = label(trace(tmp_path, "a,0,8,4000", "b,0,4,4000"), LabelRules(elastic="large-and-long"))
    assert (list(labels.w_min), list(labels.w_max)) == ([8, 4], [16, 4])
    assert list(labels.model) == [MODELS.index(model_of("a")), -1]


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"fungible": 1.1}, "fungible"),
        ({"hetero": float("nan")}, "hetero"),
        ({"elastic": "some"}, "elastic"),
        ({"stretch": 0}, "stretch"),
        ({"elastic_share": -1}, "elastic_share"),
    ],
)
def test_rules_out_of_range_are_refused_by_name(rules, field):
    with pytest.raises(BadInputError, match=f"labels: {field}"):
        LabelRules(**rules)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("rule", "share", "gpu_time"),
    [("most-gpu-time", 0.05, 0.92), ("large-and-long", 0.011, 0.55)],
)
def test_published_shares_of_the_15_day_trace(data_dir, rule, share, gpu_time):
    jobs = read_jobs(data_dir / "cluster/jobs/trace15d_50390.csv.gz")
    labels = label(jobs, LabelRules(elastic=rule))
    time = jobs.gpus * jobs.duration_s
    assert labels.elastic.mean() == pytest.approx(share, abs=0.001)
    assert np.sum(time[labels.elastic]) / np.sum(time) == pytest.approx(gpu_time, abs=0.01)
