"""A run that is stopped and started again does what one run does, and every so often keeps what it has."""

from __future__ import annotations

import numpy as np
import pytest
from counting_trainable import Counting

from quiltwork.core.checkpoint import CheckpointFile
from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.run_training import run_training
from quiltwork.core.trainable import Setup, State


class Watched(CheckpointFile):
    """Remembers after how many steps it was written."""

    def __init__(self, path):
        super().__init__(path)
        self.written = []

    def write(self, state):
        super().write(state)
        self.written.append(state.meta["done"])


@pytest.fixture
def run(tmp_path):
    """Run a fresh trainable on the same checkpoint; gives how it went and what was told and written."""

    def call(steps=7, every=3, stop_after=None):
        trainable, place, told = Counting(), Watched(tmp_path / "c"), []
        trainable.setup(Setup({"steps": steps}, 0))

        def stop():
            return stop_after is not None and len(told) >= stop_after

        ran = run_training(trainable, place, every=every, stop=stop, tell=told.append)
        return ran, [report.done for report in told], place.written

    return call


def test_it_runs_to_the_end_with_a_checkpoint_every_so_often(run):
    ran, told, written = run()
    assert told == [1, 2, 3, 4, 5, 6, 7]
    assert written == [3, 6, 7]
    assert ran.finished
    assert not ran.resumed
    assert ran.report.metrics == {"total": 28.0}


def test_it_stops_between_steps_and_goes_on_where_it_was(run):
    ran, _, written = run(stop_after=2)
    assert (ran.finished, written) == (False, [2])
    ran, told, _ = run()
    assert told == [3, 4, 5, 6, 7]
    assert (ran.finished, ran.resumed, ran.report.metrics) == (True, True, {"total": 28.0})


def test_where_no_checkpoint_can_be_written_no_step_is_taken(tmp_path):
    (tmp_path / "file").touch()
    trainable, told = Counting(), []
    trainable.setup(Setup({"steps": 2}, 0))
    place = CheckpointFile(tmp_path / "file" / "c")
    with pytest.raises(QuiltworkError, match="cannot be used: Not a directory"):
        run_training(trainable, place, every=1, stop=lambda: False, tell=told.append)
    assert told == []


def test_stopped_before_the_first_step_it_keeps_the_beginning(run):
    ran, told, written = run(stop_after=0)
    assert (ran.report, told, written) == (None, [], [0])


def test_what_has_finished_stays_as_it_is_and_more_steps_go_on(run):
    run()
    assert run()[0].report.metrics == {"total": 28.0}
    assert run(steps=8)[0].report.metrics == {"total": 36.0}


def test_a_state_that_does_not_fit_names_the_file_and_what_is_wrong(run, tmp_path):
    CheckpointFile(tmp_path / "c").write(State({"other": np.zeros(1)}, {}))
    with pytest.raises(BadInputError, match=r"c: state: total: is missing \(name another checkpoint"):
        run()
