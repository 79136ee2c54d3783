"""Policies beside each other, and what they leave on disk."""

import json

import numpy as np
import pytest
from pyarrow import parquet
from small_studies import small_study, write_jobs, write_need

from quiltwork.cluster.log import Action
from quiltwork.cluster.simulate.metrics import lives, metrics
from quiltwork.cluster.simulate.simulation import simulate
from quiltwork.cluster.study import results
from quiltwork.cluster.study.arms import arm_of
from quiltwork.cluster.study.comparison import compare, ratios
from quiltwork.cluster.study.figures import FIGURES, lines_of
from quiltwork.cluster.study.study import world_of
from quiltwork.core.errors import BadInputError


@pytest.fixture
def study(tmp_path):
    return small_study(tmp_path)


def test_arms_run_on_the_same_jobs_and_are_compared_with_the_first(study):
    said = []
    found = compare(study, ["fifo", arm_of("lyra")], progress=said.append)
    assert said == ["preparing the jobs", "fifo (1 of 2)", "lyra (2 of 2)"]
    first, second = found.outcomes
    assert (first.arm.name, second.arm.name) == ("fifo", "lyra")
    assert first.metrics.jobs == second.metrics.jobs == found.jobs == 120
    world = world_of(study)
    alone = simulate(world.servers, world.jobs, second.arm.rules, need=world.need, settings=world.settings)
    assert second.metrics == metrics(alone)
    told = found.document()["arms"]
    assert set(told[0]["against_first"].values()) == {1.0}
    assert told[1]["against_first"]["queue_mean"] == first.metrics.queue_mean_s / second.metrics.queue_mean_s
    assert told[1]["against_first"]["goodput"] == second.metrics.goodput / first.metrics.goodput
    assert second.metrics.loans > 0


def test_nothing_is_divided_by_nothing(study):
    found = compare(study, ["elastic"]).outcomes[0].metrics
    idle = found.__class__(**found.document() | {"queue_mean_s": 0.0})
    assert ratios(found, idle)["queue_mean"] is None
    assert ratios(idle, found)["queue_mean"] == 0


def test_changes_and_settings_reach_the_arms(study):
    found = compare(study, ["sjf+loan"], changes=["headroom=0.6", "hysteresis=0.1"])
    assert found.outcomes[0].metrics.loans == 0
    slow, quick = (compare(study, ["srtf"], changes=[f"restart_s={s}"]).outcomes[0].metrics for s in (5000, 0))
    assert quick.jct_mean_s < slow.jct_mean_s


def test_every_figure_is_shown_with_what_it_is_a_share_of(study):
    found = compare(study, ["fifo", "lyra"])
    lines = lines_of(found)
    assert [line.name for line in lines if line.group == "Against fifo"] == [
        "mean queue", "mean JCT", "usage of all GPUs", "goodput"
    ]  # fmt: skip
    assert all(len(line.values) == 2 for line in lines)
    assert all(figure.of for figure in FIGURES if figure.group == "Usage")
    queue = next(line for line in lines if (line.group, line.name) == ("Queue", "mean"))
    means = [outcome.metrics.queue_mean_s for outcome in found.outcomes]
    assert queue.best == (int(np.argmin(means)),)
    usage = next(line for line in lines if line.name == "goodput")
    assert usage.best == (int(np.argmax([outcome.metrics.goodput for outcome in found.outcomes])),)
    assert not [line for line in lines_of(compare(study, ["fifo"])) if line.group == "Against fifo" or line.best]


def test_a_folder_tells_of_each_job_and_each_decision(study, tmp_path):
    jobs, need = write_jobs(tmp_path), write_need(tmp_path)
    found = compare(study, ["fifo", "lyra"], out=tmp_path / "out", inputs=[jobs, need], command="as typed")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(results.FILES)
    told = json.loads((tmp_path / "out/metrics.json").read_text())
    assert told["command"] == "as typed"
    assert told["study"]["seed"] == 0
    assert told["inputs"] == {str(path): results.fingerprint(path) for path in (jobs, need)}
    assert {"python", "quiltwork", "numpy", "pyarrow"} <= set(told["versions"])
    assert told["arms"] == found.document()["arms"]
    assert "wall_s" not in json.dumps(told)
    assert set(json.loads((tmp_path / "out/timing.json").read_text())["wall_s"]) == {"fifo", "lyra"}

    world = world_of(study)
    log = simulate(world.servers, world.jobs, found.outcomes[1].arm.rules, need=world.need, settings=world.settings)
    rows = [row for row in parquet.read_table(tmp_path / "out/jobs.parquet").to_pylist() if row["arm"] == "lyra"]
    expected = lives(log)
    assert [row["job"] for row in rows] == expected.ids
    assert [row["gpus"] for row in rows] == study.trace.gpus.tolist()
    assert {row["team"] for row in rows} == {"team0", "team1", "team2"}
    for row, queue, jct, preemptions in zip(rows, expected.queues, expected.jcts, expected.preemptions, strict=True):
        assert row["start_s"] - row["submit_s"] == pytest.approx(queue)
        assert row["end_s"] - row["submit_s"] == pytest.approx(jct)
        assert row["slowdown"] == pytest.approx(jct / row["alone_s"])
        assert row["preemptions"] == preemptions
    decisions = [row for row in parquet.read_table(tmp_path / "out/log.parquet").to_pylist() if row["arm"] == "lyra"]
    assert len(decisions) == len(log)
    for told, row in zip(decisions, log, strict=True):
        names = [world.servers[s].id for s, _ in row.servers]
        assert (told["time"], told["action"], told["servers"]) == (row.time, str(row.action), names)
        assert (told["server_gpus"], told["gpus_lent"]) == ([n for _, n in row.servers], row.gpus[1])
    assert any(told["action"] == Action.LOAN for told in decisions)


def test_an_earlier_simulations_folder_is_replaced_and_no_other_is_touched(study, tmp_path):
    out = tmp_path / "out"
    compare(study, ["fifo"], out=out)
    compare(study, ["sjf"], out=out)
    assert [arm["name"] for arm in json.loads((out / "metrics.json").read_text())["arms"]] == ["sjf"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match=r"out: holds 'notes\.txt', which is not of a simulation"):
        compare(study, ["fifo"], out=out)
    assert (out / "notes.txt").read_text() == "mine"
    assert [arm["name"] for arm in json.loads((out / "metrics.json").read_text())["arms"]] == ["sjf"]


def test_what_fails_half_way_leaves_nothing_behind(study, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(results, "log_table", full)
    with pytest.raises(OSError, match="No space"):
        compare(study, ["fifo"], out=tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr("quiltwork.cluster.study.report.page_of", full)
    with pytest.raises(OSError, match="No space"):
        compare(study, ["fifo"], report=tmp_path / "page.html")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("make", "option", "message"),
    [
        (lambda p: None, "nowhere/out", "nowhere: there is no such folder"),
        (lambda p: (p / "out").write_text(""), "out", "out: is no folder"),
        (lambda p: (p / "out").mkdir() or (p / "out/jobs.parquet").mkdir(), "out", "holds 'jobs.parquet'"),
    ],
)
def test_folders_that_cannot_be_written_are_refused_before_anything_is_simulated(
    study, tmp_path, monkeypatch, make, option, message
):
    def simulated(*args, **options):
        raise AssertionError("nothing is to be simulated")

    monkeypatch.setattr("quiltwork.cluster.study.comparison.simulate", simulated)
    make(tmp_path)
    with pytest.raises(BadInputError, match=message):
        compare(study, ["fifo"], out=tmp_path / option)
    (tmp_path / "folder").mkdir()
    for report, said in (("nowhere/page.html", "no such folder"), ("folder", "is a folder, not a file")):
        with pytest.raises(BadInputError, match=said):
            compare(study, ["fifo"], report=tmp_path / report)


def test_a_folder_is_known_by_the_names_and_contents_of_its_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/a.csv").write_text("1")
    assert results.fingerprint(tmp_path / "one") == results.fingerprint(tmp_path / "two")
    (tmp_path / "two/deep/a.csv").rename(tmp_path / "two/deep/b.csv")
    assert results.fingerprint(tmp_path / "one") != results.fingerprint(tmp_path / "two")
