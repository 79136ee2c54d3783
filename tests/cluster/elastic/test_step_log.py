"""The log of optimiser steps, and the longest time between two."""

from __future__ import annotations

import pytest

from quiltwork.cluster.elastic.step_log import StepLog, StepTime, longest_gap, read_step_log
from quiltwork.core.errors import BadInputError, NotFoundError


def test_steps_are_read_as_they_were_written_but_for_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "steps"
    steps = [StepTime(1.5, 1, 1), StepTime(2.25, 2, 1), StepTime(9.0, 3, 2)]
    log = StepLog(str(path))
    for step in steps:
        log.add(step)
    assert list(read_step_log(path)) == steps
    with path.open("a") as file:
        file.write("10.1 4")
    assert list(read_step_log(path)) == steps


def test_a_log_that_cannot_be_written_ends_and_nothing_else_does():
    log = StepLog("/dev/full")
    for done in (1, 2):
        log.add(StepTime(1.0, done, 1))


def test_the_longest_gap_is_between_steps_of_all_workers():
    first = [StepTime(1.0, 1, 1), StepTime(2.0, 2, 1), StepTime(5.0, 3, 2)]
    second = [StepTime(5.5, 3, 2), StepTime(6.0, 4, 2)]
    assert longest_gap(first) == (3.0, first[2])
    assert longest_gap([*second, *first]) == (3.5, second[0])
    assert longest_gap(first[:1]) is None


def test_what_is_no_log_is_said_with_its_line(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        list(read_step_log(tmp_path / "steps"))
    (tmp_path / "steps").write_text("1.0 1 1\nyesterday 2 1\n")
    with pytest.raises(BadInputError, match="line 2: is not a step"):
        list(read_step_log(tmp_path / "steps"))
