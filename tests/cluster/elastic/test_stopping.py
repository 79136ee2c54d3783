"""Jobs that are stopped, with and without warning, and go on later; batches and rates that follow the workers."""

from __future__ import annotations

import json
import os
import subprocess
import time

import numpy as np
import pytest
from elastic_crew import PATIENCE_S, Crew
from tiny_elastic import TinyPlain, trained

from quiltwork.cluster.elastic import (
    TOKEN,
    Checkpointed,
    Concluded,
    Failed,
    Left,
    Link,
    NotCheckpointed,
    Ready,
    Regrouped,
    newest,
)
from quiltwork.cluster.spec import Batch, Checkpoint, LearningRate
from quiltwork.core.sample_order import SampleOrder

STEPS = 20


def assert_state(crew, state, exact=False):
    found = newest(crew.folder / "kept", pytest.fail)
    assert found.progress.finished
    for name, array in state.arrays.items():
        if exact:
            assert found.state.arrays[name].tobytes() == array.tobytes()
        else:
            np.testing.assert_allclose(found.state.arrays[name], array, rtol=1e-3, atol=1e-5)


def test_a_terminated_job_saves_itself_and_goes_on_with_other_workers(tmp_path):
    with Crew(tmp_path, config={"steps": STEPS, "hold": [7]}) as crew:
        crew.begin("w0", "w1")
        crew.held(7, 2)
        for name in ("w0", "w1"):
            crew.terminate(name)
        # Perhaps at one boundary, perhaps at two: the first may be agreed on before the second is told.
        crew.open(7)
        for name in ("w0", "w1"):
            crew.wait(Left, lambda report, name=name: report.worker == name)
            assert crew.exit_code(name) == 0
        saved = crew.wait(Checkpointed).what
        assert newest(tmp_path / "kept", pytest.fail).progress.done == saved.done < STEPS
        crew.begin("w2", "w3", "w4")
        assert crew.wait(Regrouped, lambda report: "w2" in report.what.members).what.done == saved.done
        crew.wait(Concluded)
        assert_state(crew, trained(STEPS)[1])


def test_one_of_several_that_is_terminated_leaves_and_the_others_go_on(tmp_path):
    with Crew(tmp_path, config={"steps": STEPS, "hold": [7, 13]}) as crew:
        crew.begin("w0", "w1")
        crew.held(7, 2)
        crew.terminate("w0")
        crew.prepared("w0", "w1")
        crew.open(7)
        crew.wait(Left)
        crew.wait(Regrouped, lambda report: report.what.members == ("w1",))
        assert crew.of(Checkpointed) == []
        crew.open(13)
        crew.wait(Concluded)
        assert_state(crew, trained(STEPS)[1])


def test_one_that_is_not_needed_any_more_ends_though_it_is_not_up_yet(tmp_path):
    with Crew(tmp_path, config={"steps": STEPS, "hold": [0]}) as crew:
        crew.begin("w0")
        crew.held(0, 1)  # in its warm-up, which nothing opens
        crew.want()
        crew.wait(Left)
        assert crew.exit_code("w0") == 0
        assert crew.of(Ready) == []


def test_a_warning_saves_and_training_goes_on(tmp_path):
    with Crew(tmp_path, config={"steps": STEPS, "hold": [7]}) as crew:
        crew.begin("w0", "w1")
        crew.held(7, 2)
        crew.job.warn()
        crew.open(7)
        crew.wait(Checkpointed)
        crew.wait(Concluded)
        saved = [one.done for one in crew.of(Checkpointed)]
        assert len(saved) == 2
        assert saved[0] < saved[1] == STEPS


def test_a_folder_that_cannot_be_written_is_said_and_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with Crew(tmp_path, config={"steps": 6}, checkpoint=Checkpoint(str(tmp_path / "file" / "kept"))) as crew:
        crew.begin("w0")
        assert crew.wait(Concluded).what == Concluded(6, None)
        (said,) = crew.of(NotCheckpointed)
        assert (said.done, "\n" in said.what) == (6, False)
        assert "file" in said.what


def test_batch_and_rate_follow_the_workers_and_come_back(tmp_path):
    config = {"steps": STEPS, "samples": 31, "hold": [4, 10, 16]}
    settings = {"batch": Batch("fixed_local", 5), "lr": LearningRate(0.01, "linear", warmup_steps=0)}
    with Crew(tmp_path, config=config, **settings) as crew:
        crew.begin("w0")
        crew.held(4, 1)
        crew.begin("w0", "w1")
        crew.prepared("w0", "w1")
        crew.open(4)
        crew.held(10, 2)
        crew.want("w1")
        crew.prepared("w0", "w1")
        crew.open(10)
        crew.wait(Regrouped, lambda report: report.what.members == ("w1",))
        crew.open(16)
        crew.wait(Concluded)
        taken = 0
        for done in range(STEPS):
            lines = crew.noted()[done]
            assert {line["batch"] for line in lines} == {5 * len(lines)}
            assert [line["rate"] for line in lines] == pytest.approx([0.01 * len(lines)] * len(lines), rel=1e-12)
            assert {len(line["ids"]) for line in lines} == {5}
            computed = sorted(i for line in lines for i in line["ids"])
            assert computed == sorted(SampleOrder(31, 3).ids(taken, 5 * len(lines)).tolist())
            taken += 5 * len(lines)
        assert {len(lines) for lines in crew.noted().values()} == {1, 2}
        course = newest(tmp_path / "kept", pytest.fail).progress.course
        assert (course.size, course.first, course.batch) == (5, 5, 5)


def test_a_trainable_that_is_not_elastic_resumes_bit_by_bit_and_has_one_worker(tmp_path):
    with Crew(tmp_path, "tiny_elastic:TinyPlain", {"steps": STEPS, "hold": [5, 11]}) as crew:
        crew.begin("w0")
        crew.held(5, 1)
        crew.begin("w0", "spare")  # one too many
        assert "is not elastic" in crew.wait(Failed).what.what
        crew.terminate("w0")
        crew.prepared("w0")
        crew.open(5)
        crew.wait(Left)
        crew.begin("w1")
        assert crew.wait(Regrouped, lambda report: report.what.members == ("w1",)).what.done >= 6
        # Another process takes over from one that is running: the state goes along.
        crew.held(11, 1)
        crew.begin("w2")
        crew.prepared("w1", "w2")
        crew.open(11)
        crew.wait(Concluded)
        assert_state(crew, trained(STEPS, kind=TinyPlain)[1], exact=True)


def test_a_job_that_has_finished_is_not_trained_again(tmp_path):
    with Crew(tmp_path, config={"steps": 5}) as crew:
        crew.begin("w0")
        crew.wait(Concluded)
        crew.wait(Left)
    with Crew(tmp_path, config={"steps": 5}) as crew:
        crew.begin("w1")
        assert crew.wait(Concluded).what.done == 5
        assert {len(lines) for lines in crew.noted().values()} == {1}


def test_workers_whose_link_is_gone_go_on_with_the_next_one_in_its_place(tmp_path):
    with Crew(tmp_path, config={"steps": STEPS, "hold": [7, 13]}) as crew:
        crew.begin("w0", "w1")
        before = crew.wait(Regrouped).what
        crew.held(7, 2)
        address, token = crew.link.address, crew.link.token
        crew.link.close()
        crew.link = Link(port=int(address.rpartition(":")[2]), token=token, clock=time.monotonic)
        crew.job = crew.link.job("job")
        crew.reports.clear()
        crew.want("w0", "w1")
        crew.ready("w0", "w1")
        crew.want("w1")
        crew.prepared("w0", "w1")
        crew.open(7)
        after = crew.wait(Regrouped).what
        assert (after.members, after.generation > before.generation) == (("w1",), True)
        crew.open(13)
        crew.wait(Concluded)
        assert_state(crew, trained(STEPS)[1])


def test_workers_without_a_link_save_what_they_have_and_end(tmp_path):
    with Crew(tmp_path, config={"steps": STEPS, "hold": [7]}, orphan_s=0.0) as crew:
        crew.begin("w0")
        crew.held(7, 1)
        crew.link.close()
        crew.open(7)
        assert crew.exit_code("w0") == 1
        assert "nobody was there for 0 seconds" in crew.errors("w0")
        assert newest(tmp_path / "kept", pytest.fail).progress.done >= 8


def test_a_worker_is_a_command(tmp_path):
    with Crew(tmp_path, config={"steps": 6}) as crew:
        crew.want("w0")
        settings = crew.settings.__class__(**{**vars(crew.settings), "worker": "w0"})
        paths = os.pathsep.join([str(tmp_path), os.path.dirname(__import__("tiny_elastic").__file__)])
        path = os.pathsep.join(filter(None, [paths, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, TOKEN: crew.link.token, "PYTHONPATH": path}
        ran = subprocess.Popen(settings.command(), env=environment, stderr=subprocess.PIPE, text=True)
        assert crew.wait(Concluded).what.done == 6
        _, errors = ran.communicate(timeout=PATIENCE_S)
        assert (ran.returncode, errors) == (0, "")
        assert crew.wait(Ready).what.pid == ran.pid
        assert json.loads((tmp_path / "kept" / "result.json").read_text())["progress"]["finished"]


def test_a_worker_without_a_token_does_not_begin(tmp_path):
    with Crew(tmp_path) as crew:
        settings = crew.settings.__class__(**{**vars(crew.settings), "worker": "w0"})
        environment = {name: value for name, value in os.environ.items() if name != TOKEN}
        ran = subprocess.run(settings.command(), env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("error: the link's token: is not set")
