"""Workers that are killed without notice: the others go on, and nothing is computed twice or left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from elastic_crew import Crew
from tiny_elastic import trained

from quiltwork.cluster.elastic import Concluded, Failed, Left, Lost, Ready, Regrouped, newest
from quiltwork.core.sample_order import SampleOrder

STEPS, BATCH, SAMPLES = 24, 12, 50
CONFIG = {"steps": STEPS, "batch": BATCH, "samples": SAMPLES}


def configured(folder, name, **more):
    path = folder / f"config-{name}.json"
    path.write_text(json.dumps({**CONFIG, **more}))
    return str(path)


def assert_as_undisturbed(crew, noted_by_all=STEPS):
    """The run's state is that of one that was never disturbed, and so are the samples of each step that was taken, as
    far as every worker lived to note them."""
    reports, state = trained(STEPS, batch=BATCH, samples=SAMPLES)
    found = newest(crew.folder / "kept", pytest.fail)
    assert found.progress.done == STEPS
    for name, array in state.arrays.items():
        np.testing.assert_allclose(found.state.arrays[name], array, rtol=1e-3, atol=1e-5)
    noted, order = crew.noted(), SampleOrder(SAMPLES, 3)
    for done in range(noted_by_all):
        computed = sorted(i for line in noted[done] for i in line["ids"])
        assert computed == sorted(order.ids(done * BATCH, BATCH).tolist())
        assert noted[done][0]["loss"] == pytest.approx(reports[done].metrics["loss"], rel=2e-4)


def test_one_that_is_killed_while_the_others_wait_for_its_gradient_is_done_without(tmp_path):
    with Crew(tmp_path, config=CONFIG) as crew:
        crew.want("w0", "w1", "w2")
        crew.start("w0", "w2")
        # The second rank alone is held up in a step, the others wait for it.
        crew.start("w1", config=configured(tmp_path, "w1", hold=[9]))
        crew.wait(Regrouped)
        crew.held(9, 1)
        before = {name: crew.pid(name) for name in ("w0", "w2")}
        crew.kill("w1")
        regrouped = crew.wait(Regrouped, lambda report: report.what.members == ("w0", "w2")).what
        assert regrouped.done == 9
        crew.wait(Concluded)
        # Nobody was started anew: the two who finished are the two who began.
        assert {one.pid for one in crew.of(Ready)} == {*before.values(), crew.processes["w1"].pid}
        assert_as_undisturbed(crew)


def assert_concluded_by(crew, name, **how):
    concluded = crew.wait(Concluded)
    assert (concluded.worker, concluded.what) == (name, Concluded(STEPS, str(crew.folder / "kept" / "result.json")))
    assert_as_undisturbed(crew, **how)
    assert len(crew.of(Ready)) == 2  # nobody was started anew


def test_one_that_is_killed_while_it_writes_the_result_is_followed_by_another(tmp_path):
    with Crew(tmp_path, config={**CONFIG, "hold": [STEPS]}) as crew:
        crew.begin("w0", "w1")
        crew.held(STEPS, 1)
        writing, other = sorted(
            ("w0", "w1"), key=lambda name: not (tmp_path / f"held-{STEPS}-{crew.pid(name)}").exists()
        )
        crew.kill(writing)
        crew.held(STEPS, 2)
        crew.open(STEPS)
        assert_concluded_by(crew, other)


def test_one_that_is_killed_in_the_last_step_leaves_that_and_the_result_to_the_others(tmp_path):
    with Crew(tmp_path, config=CONFIG) as crew:
        crew.want("w0", "w1")
        crew.start("w0")
        crew.start("w1", config=configured(tmp_path, "w1", hold=[STEPS - 1]))
        crew.held(STEPS - 1, 1)
        crew.kill("w0")
        crew.open(STEPS - 1)
        # What the killed one computed may count though it did not live to note that, nor the step before.
        assert_concluded_by(crew, "w1", noted_by_all=STEPS - 2)


def test_a_newcomer_takes_the_place_of_one_that_was_killed(tmp_path):
    with Crew(tmp_path, config={**CONFIG, "hold": [6, 12]}) as crew:
        crew.begin("w0", "w1")
        crew.wait(Regrouped)
        crew.held(6, 2)
        crew.kill("w0")  # the first rank, in the middle of a gradient
        crew.begin("w1", "w2")
        crew.ready("w2")
        crew.open(6)
        crew.wait(Regrouped, lambda report: report.what.members == ("w1", "w2"))
        crew.open(12)
        crew.wait(Concluded)
        assert_as_undisturbed(crew)


def test_a_newcomer_that_is_killed_before_it_has_joined_disturbs_nobody(tmp_path):
    with Crew(tmp_path, config={**CONFIG, "hold": [6, 12]}) as crew:
        crew.begin("w0")
        crew.held(6, 1)
        crew.begin("w0", "w1")
        crew.prepared("w0", "w1")
        crew.kill("w1")
        for step in (6, 12):
            crew.open(step)
        crew.wait(Concluded)
        assert_as_undisturbed(crew)
        assert {one.members for one in crew.of(Regrouped)} == {("w0",)}


def test_when_all_are_killed_new_ones_go_on_from_the_last_checkpoint_that_is_whole(tmp_path):
    with Crew(tmp_path, config={**CONFIG, "hold": [6, 12]}) as crew:
        crew.begin("w0", "w1")
        crew.held(6, 2)
        crew.job.warn()
        crew.open(6)
        crew.held(12, 2)
        for name in ("w0", "w1"):
            crew.kill(name)
        kept = newest(tmp_path / "kept", pytest.fail).progress.done
        for path in tmp_path.glob("noted-*"):  # steps that are going to be taken again
            lines = [line for line in path.read_text().splitlines() if json.loads(line)["done"] < kept]
            path.write_text("".join(f"{line}\n" for line in lines))
        crew.open(12)
        crew.begin("w2")
        assert crew.wait(Regrouped, lambda report: report.what.members == ("w2",)).what.done == kept > 0
        crew.wait(Concluded)
        assert_as_undisturbed(crew)


def test_one_whose_trainable_raises_says_so_in_one_line(tmp_path):
    with Crew(tmp_path, config={**CONFIG, "raise_at": 5}) as crew:
        crew.begin("w0")
        failed = crew.wait(Failed)
        assert failed.worker == "w0"
        assert failed.what.what.startswith("tiny_elastic:TinyElastic: ArithmeticError: the loss is not a number (tiny_")
        assert "\n" not in failed.what.what
        assert crew.exit_code("w0") == 1
        assert "Traceback" in crew.errors("w0")
        assert crew.job.members == ()
        assert crew.of(Lost) == crew.of(Left) == []


@pytest.mark.parametrize(
    ("config", "settings", "what"),
    [
        ({"batch": "many"}, {}, "batch: is not a number of samples"),
        ({}, {"trainable": "tiny_elastic:Nothing"}, "tiny_elastic:Nothing: module 'tiny_elastic' has no attribute"),
        ({}, {"trainable": "tiny_elastic:TinyPlain", "logical": 2}, "cannot be computed in logical parts"),
    ],
)
def test_what_cannot_be_set_up_is_said_in_one_line(tmp_path, config, settings, what):
    with Crew(tmp_path, config=config, **settings) as crew:
        crew.begin("w0")
        failed = crew.wait(Failed).what.what
        assert what in failed
        assert "\n" not in failed
        assert crew.exit_code("w0") == 1
        assert "Traceback" not in crew.errors("w0")
