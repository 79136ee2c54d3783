"""Messages as lines, and what is not one."""

from __future__ import annotations

import json

import pytest

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.lines import from_worker, to_line, to_worker
from quiltwork.core.errors import BadInputError

PLAN = m.Plan(3, ("a", "b"), "a", ("b",), "127.0.0.1:1", False)


@pytest.mark.parametrize(
    "message",
    [
        m.Hello("job", "a", "secret", 17, "127.0.0.1"),
        m.Step(2, 5, None, False, 0.25, {"loss": 1.5}),
        m.Step(2, 5, 7, True, 0.0),
        m.Concluded(7, None),
        m.Computing(PLAN, 9),
        m.Left(),
    ],
)
def test_what_a_worker_says_comes_across(message):
    assert from_worker(to_line(message)) == message


@pytest.mark.parametrize("message", [m.Prepare(PLAN), m.Go(2), m.Warn(), m.End(save=True), m.Refused("no")])
def test_what_a_worker_is_told_comes_across(message):
    line = to_line(message)
    assert to_worker(line) == message
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_a_loss_that_is_no_number_comes_across():
    (value,) = from_worker(to_line(m.Step(1, 1, 1, False, 0.1, {"loss": float("nan")}))).metrics.values()
    assert value != value


def spoiled(**fields) -> bytes:
    return json.dumps({"kind": "Resized", "generation": 1, "done": 2, "pause_s": 0.5, **fields}).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"kind": "Warn"}',
        b'{"kind": "dict"}',
        b'{"kind": ["Left"]}',
        spoiled(generation="1"),
        spoiled(generation=True),
        spoiled(pause_s=None),
        spoiled(more=1),
        b'{"kind": "Computing", "plan": {"generation": 1}, "done": 1}',
        to_line(m.Computing(PLAN, 1)).replace(b'"a","b"', b'"a",2'),
    ],
)
def test_what_is_no_message_is_refused(line):
    with pytest.raises(BadInputError):
        from_worker(line)
