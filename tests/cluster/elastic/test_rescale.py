"""A job that grows, shrinks to one worker and grows again while it trains, as real processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from elastic_crew import Crew
from tiny_elastic import trained

from quiltwork.cluster.elastic import Concluded, Left, Regrouped, Resized, Step, longest_gap, newest, read_step_log
from quiltwork.core.sample_order import SampleOrder

STEPS, BATCH, SAMPLES = 30, 12, 50
GROUPS = [("w0", "w1"), ("w0", "w1", "w2"), ("w2",), ("w2", "w3")]


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    """Who has run through all of ``GROUPS``, with steps in each, to the end."""
    config = {"steps": STEPS, "batch": BATCH, "samples": SAMPLES, "hold": [4, 10, 16, 22]}
    with Crew(tmp_path_factory.mktemp("rescale"), config=config) as crew:
        crew.begin(*GROUPS[0])
        for step, before, group in zip(config["hold"], GROUPS, GROUPS[1:], strict=False):
            # All is ready for the change while a step is held up; it happens at one of the next boundaries.
            crew.held(step, len(before))
            crew.begin(*group)
            crew.prepared(*before, *group)
            crew.open(step)
            crew.wait(Regrouped, lambda report, group=group: report.what.members == group)
        crew.open(22)
        crew.wait(Concluded)
        for name in crew.processes:
            crew.wait(Left, lambda report, name=name: report.worker == name)
            assert crew.exit_code(name) == 0
        yield crew


def test_the_groups_are_those_that_were_wanted(crew):
    assert [one.members for one in crew.of(Regrouped)] == GROUPS
    assert sorted(one.generation for one in crew.of(Regrouped)) == [one.generation for one in crew.of(Regrouped)]


def test_who_survives_a_change_is_the_same_process(crew):
    at_work = {}
    for path in crew.folder.glob("noted-*"):
        for line in path.read_text().splitlines():
            at_work.setdefault(int(path.name.removeprefix("noted-")), []).append(line)
    assert sorted(at_work) == sorted(crew.pid(name) for name in crew.processes)
    steps = {name: [step.done for step in read_step_log(crew.folder / f"steps-{name}")] for name in crew.processes}
    # Without a gap from the first step to the last that it was there for.
    assert all(done == list(range(done[0], done[-1] + 1)) for done in steps.values())
    assert (steps["w0"][0], steps["w2"][-1], steps["w3"][-1]) == (1, STEPS, STEPS)
    assert len({step.generation for step in read_step_log(crew.folder / "steps-w2")}) == 3


def test_each_step_has_its_samples_once_whoever_computes_them(crew):
    order, noted = SampleOrder(SAMPLES, 3), crew.noted()
    assert sorted(noted) == list(range(STEPS))
    for done, lines in noted.items():
        computed = [i for line in lines for i in line["ids"]]
        assert sorted(computed) == sorted(order.ids(done * BATCH, BATCH).tolist())
    assert {len(lines) for lines in noted.values()} == {1, 2, 3}


def test_over_whole_epochs_every_sample_is_computed_equally_often(crew):
    epochs = STEPS * BATCH // SAMPLES
    taken = [i for done in range(STEPS) for line in crew.noted()[done] for i in line["ids"]]
    first = Counter(SampleOrder(SAMPLES, 3).ids(0, epochs * SAMPLES).tolist())
    assert set(first.values()) == {epochs}
    assert Counter(taken) == Counter(SampleOrder(SAMPLES, 3).ids(0, STEPS * BATCH).tolist())


def test_the_loss_is_that_of_a_run_that_never_changed(crew):
    reports, state = trained(STEPS, batch=BATCH, samples=SAMPLES)
    noted = crew.noted()
    for done, report in enumerate(reports):
        assert {line["loss"] for line in noted[done]} == {noted[done][0]["loss"]}
        assert noted[done][0]["loss"] == pytest.approx(report.metrics["loss"], rel=2e-4)
    found = newest(crew.folder / "kept", pytest.fail)
    assert (found.progress.done, found.progress.finished) == (STEPS, True)
    for name, array in state.arrays.items():
        np.testing.assert_allclose(found.state.arrays[name], array, rtol=1e-3, atol=1e-5)


def test_the_result_is_where_the_last_report_says(crew):
    (concluded,) = crew.of(Concluded)
    assert concluded == Concluded(STEPS, str(crew.folder / "kept" / "result.json"))


def test_every_change_is_reported_with_its_pause_by_every_member(crew):
    resized = crew.of(Resized)
    assert len(resized) == sum(map(len, GROUPS))
    for group in crew.of(Regrouped):
        own = [one for one in resized if one.generation == group.generation]
        assert {one.done for one in own} == {group.done}
        assert max(one.pause_s for one in own) == group.pause_s


def test_steps_are_reported_up_to_the_last_one(crew):
    last = max(crew.of(Step), key=lambda step: step.done)
    assert (last.done, last.total, last.finished, set(last.metrics)) == (STEPS, STEPS, True, {"loss"})


def test_the_step_log_tells_the_longest_gap(crew):
    steps = [step for name in crew.processes for step in read_step_log(crew.folder / f"steps-{name}")]
    gap, after = longest_gap(steps)
    assert gap > 0
    assert 1 < after.done <= STEPS
