"""What a study assumes, and which questions it refuses before anything is simulated."""

import pytest
from small_studies import small_study, write_jobs, write_need

from quiltwork.cluster.curves import MODELS
from quiltwork.cluster.demand import read_demand
from quiltwork.cluster.labels import LabelRules
from quiltwork.cluster.study.arms import arm_of
from quiltwork.cluster.study.fleet import Fleet, types_of
from quiltwork.cluster.study.study import Study, need_of, world_of
from quiltwork.cluster.traces import read_jobs
from quiltwork.core.errors import BadInputError


def study(tmp_path, rows, fleet=None, **options):
    return Study(read_jobs(write_jobs(tmp_path, rows)), fleet or Fleet(1), **options)


def test_a_job_that_is_larger_than_the_cluster_is_named_or_left_out(tmp_path):
    rows = ["a,0,8,60,x", "big,1,9,60,x", "b,2,1,60,x", "huge,3,64,60,x"]
    with pytest.raises(
        BadInputError, match=r"job big: asks for 9 GPUs, more than the 8 of .*; so do 1 more"
    ) as refused:
        world_of(study(tmp_path, rows))
    assert "--skip-too-large" in refused.value.hint
    world = world_of(study(tmp_path, rows, skip_too_large=True))
    assert [job.id for job in world.jobs] == ["a", "b"]
    assert world.notes == ("left out: 2 jobs that ask for more than 8 GPUs (job big first)",)
    with pytest.raises(BadInputError, match="no job asks for at most 8 GPUs"):
        world_of(study(tmp_path, rows[1:2], skip_too_large=True))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0,1,1e10,x"], "job a: ran for 1e[+]10 s, over ten years .*another unit"),
        (["a,0,1,60,x", "b,5e8,1,60,x"], "job b: was submitted after 5e[+]08 s, over ten years"),
    ],
)
def test_absurd_lengths_of_time_are_refused(tmp_path, rows, message):
    with pytest.raises(BadInputError, match=message):
        # Dates are counted from the first: here all are numbers below that.
        world_of(study(tmp_path, rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimates": "guessed"}, "estimates: 'guessed' is no way to estimate .*oracle, learned, none"),
        ({"mixing": 0}, "mixing"),
        ({"mixing": float("nan")}, "mixing"),
        ({"checkpoint_s": 0}, "checkpoint"),
        ({"days": float("inf")}, "days"),
        ({"days": -1}, "days"),
    ],
)
def test_assumptions_out_of_range_are_refused_by_name(tmp_path, options, message):
    with pytest.raises(BadInputError, match=message):
        study(tmp_path, ["a,0,1,60,x"], **options)


def test_a_need_without_inference_servers_is_refused_and_servers_without_one_are_noted(tmp_path):
    demand = read_demand(write_need(tmp_path), "small")
    with pytest.raises(BadInputError, match="infer: inference's need is given, but it has no servers"):
        study(tmp_path, ["a,0,1,60,x"], demand=demand)
    world = world_of(study(tmp_path, ["a,0,1,60,x"], Fleet(1, 2)))
    assert world.need is None
    assert world.notes == ("nothing is lent: what inference needs is not given",)


def test_the_need_is_taken_when_loans_are_decided(tmp_path):
    demand = read_demand(write_need(tmp_path, [0.1, 0.2, 0.3, 0.4]), "small")
    assert need_of(demand, 300) == [0.1, 0.2, 0.3, 0.4]
    assert need_of(demand, 600) == [0.1, 0.3]
    assert need_of(demand, 150) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    world = world_of(small_study(tmp_path))
    settings, need = world.settings_with(arm_of("lyra:loans_every_s=600"), demand)
    assert (settings.loans_every_s, need) == (600.0, [0.1, 0.3])
    assert world.settings_with(arm_of("lyra"), demand) == (world.settings, world.need)


def test_the_trace_ran_on_trainings_type_though_inferences_is_faster(tmp_path):
    types, capability = types_of("V100,H100=4")
    world = world_of(study(tmp_path, ["a,0,1,60,x"], Fleet(1, 1, types=types, capability=capability)))
    assert world.settings.gpu_types == ("H100", "V100")
    job = world.jobs[0]
    assert (job.seconds(job.work, "V100"), job.seconds(job.work, "H100")) == (60, 15)


def test_measured_speeds_are_brought_to_one_worker_of_trainings_type(tmp_path):
    curves = {model: {"T4": (0.4, 0.6), "V100": (1.0, 1.8)} for model in MODELS}
    fleet = Fleet(1, 1, types=("T4", "V100"))
    all_elastic = LabelRules(elastic="most-gpu-time", elastic_share=1)
    world = world_of(study(tmp_path, ["a,0,2,1000,x"], fleet, curves=curves, labels=all_elastic))
    speed = world.jobs[0].speed
    assert (speed.on("T4", 1), speed.on("V100", 1)) == pytest.approx((1.0, 2.5))
    assert world.jobs[0].seconds(world.jobs[0].work, "T4") == pytest.approx(1000)


def test_estimates_are_the_truth_or_nothing_or_learned_from_jobs_that_ended_before(tmp_path):
    # One team's jobs always take as long; another's tell nothing.
    rows = [f"s{i},{1000 * i},1,{300 + i % 3},steady" for i in range(40)]
    rows += [f"w{i},{1000 * i + 1},1,{10 ** (1 + i % 4)},wild" for i in range(40)]
    rows.sort(key=lambda row: float(row.split(",")[1]))

    def believed(estimates):
        world = world_of(study(tmp_path, rows, estimates=estimates))
        return {job.id: job.believed for job in world.jobs}

    assert believed("oracle") == {job.id: job.work for job in world_of(study(tmp_path, rows)).jobs}
    assert set(believed("none").values()) == {None}
    learned = believed("learned")
    assert learned["s0"] is None
    assert learned["s39"] == pytest.approx(301, abs=2)
    assert learned["w39"] is None


def test_what_was_assumed_is_told_as_json(tmp_path):
    told = small_study(tmp_path, seed=4).document()
    assert (told["train"], told["infer"], told["seed"], told["speed"]) == (2, 4, 4, "linear")
    assert told["labels"]["elastic"] == "most-gpu-time"
    assert told["capability"] == {"V100": 1.0, "T4": 1 / 3}
