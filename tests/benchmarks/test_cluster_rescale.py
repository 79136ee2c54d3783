"""What a pause is, read from the steps of all workers; and the job that is rescaled is the same for everybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cluster_rescale
from quiltwork.cluster.elastic.sharing import shares
from quiltwork.core.bench import Context, judge
from quiltwork.core.trainable import Elastic, Setup, mean_of
from work.growing import BATCH, SMALL, Change, Growing, Notes, Step, adam, change, network, read_notes


def steps(*taken: tuple[float, int, int, tuple[int, ...]]) -> list[Step]:
    return [Step(at, done, len(pids), pid) for at, done, _, pids in taken for pid in pids]


def test_the_pause_is_the_longest_time_between_steps_of_all_from_when_it_was_asked_for() -> None:
    before = [(0.25 * i, i + 1, 2, (1, 2)) for i in range(9)]  # to 2.0
    after = [(2.25, 10, 2, (1, 2)), (4.0, 11, 3, (1, 2, 3)), (4.25, 12, 3, (1, 2, 3))]
    slower = Step(4.125, 11, 3, 3)  # the newcomer took it later
    found = change([*steps(*before, *after), slower], 2.1, 2, 3)
    assert found == Change(pause_s=4.125 - 2.25, noticed_s=pytest.approx(0.15), step_s=0.25, survivors=2, again=0)


def test_a_pause_before_the_change_was_asked_for_is_none_of_it() -> None:
    taken = [(0.0, 1, 2, (1, 2)), (9.0, 2, 2, (1, 2)), (9.5, 3, 2, (1, 2)), (10.5, 4, 1, (1,))]
    assert change(steps(*taken), 9.25, 2, 1).pause_s == 1.0


def test_steps_of_a_job_that_began_again_are_counted_with_nobody_surviving() -> None:
    taken = [(0.5 * i, i + 1, 2, (1, 2)) for i in range(10)] + [(20.0 + i, 6 + i, 3, (3, 4, 5)) for i in range(3)]
    found = change(steps(*taken), 4.0, 2, 3)
    assert (found.pause_s, found.survivors, found.again) == (15.5, 0, 5)


def test_notes_come_back_and_a_line_that_was_cut_off_does_not(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.add(1, 2)
    notes.add(2, 2)
    (tmp_path / "steps-1").write_text("1.5 7 3\n2.5 8")
    found = read_notes(tmp_path)
    assert [(step.done, step.workers) for step in found] == [(7, 3), (1, 2), (2, 2)]
    assert found[0] == Step(1.5, 7, 3, 1)


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    made = Growing()
    made.setup(Setup({"width": SMALL, "notes": str(tmp_path)}, 3))
    return made


def test_the_job_is_elastic_and_goes_on_from_its_state(growing: Growing, tmp_path: Path) -> None:
    assert isinstance(growing, Elastic)
    for _ in range(3):
        growing.step()
    other = Growing()
    other.setup(Setup({"width": SMALL, "notes": str(tmp_path)}, 3))
    other.load_state_dict(growing.state_dict())
    growing.step()
    other.step()
    mine, theirs = growing.state_dict(), other.state_dict()
    assert mine.meta == theirs.meta == {"done": 4}
    for name, array in mine.arrays.items():
        np.testing.assert_array_equal(theirs.arrays[name], array)


def test_workers_that_share_a_step_take_that_of_one_alone(growing: Growing, tmp_path: Path) -> None:
    """What Ray Train's loop computes with torch alone is what ours computes in shares."""
    import torch

    from work.growing import Samples

    model, samples = network(SMALL, 3), Samples(3)
    optimizer = adam(model)
    for done in range(3):
        ids = growing.next_samples()
        assert len(ids) == BATCH
        np.testing.assert_array_equal(ids, samples.ids(done))
        growing.apply(mean_of([growing.gradients(share) for share in shares(ids, 3)]))
        optimizer.zero_grad()
        samples.loss(model, ids).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    kept = growing.state_dict().arrays
    for name, p in model.named_parameters():
        assert torch.allclose(torch.from_numpy(kept[f"p.{name}"]), p, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_benchmark_runs_through(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = cluster_rescale.run(Context(quick=True, seed=0, scratch=tmp_path))
    assert found.keys() == {claim.name for claim in cluster_rescale.CLAIMS}
    for claim in cluster_rescale.CLAIMS:
        assert min(*found[claim.name].ours, *found[claim.name].baseline) > 0
        judge(claim, found[claim.name])
    rows = next(iter(found.values())).rows
    assert {(row["arm"], row["change"], row["survivors"]) for row in rows} == {
        *((arm, direction, 2) for arm in ("local", "ray") for direction in ("out", "in")),
        *(("Ray Train", direction, 0) for direction in ("out", "in")),
    }
