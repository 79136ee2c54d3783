"""With logical workers the parameters are the same bits whatever the number of real ones was."""

from __future__ import annotations

import hashlib

import pytest
from elastic_crew import Crew
from tiny_elastic import trained

from quiltwork.cluster.elastic import Concluded, Regrouped, newest

STEPS = 20
CONFIG = {"steps": STEPS, "batch": 13, "hidden": 7}


def digest(state):
    made = hashlib.sha256()
    for name in sorted(state.arrays):
        made.update(name.encode() + state.arrays[name].tobytes())
    return made.hexdigest()


def result(crew):
    crew.wait(Concluded)
    return digest(newest(crew.folder / "kept", pytest.fail).state)


def test_any_changes_give_the_hash_of_a_run_without_any(tmp_path):
    with Crew(tmp_path / "fixed", config=CONFIG, logical=4) as crew:
        crew.begin("w0", "w1")
        fixed = result(crew)
        assert [one.members for one in crew.of(Regrouped)] == [("w0", "w1")]
    hold = [3, 7, 11, 15]
    with Crew(tmp_path / "changing", config={**CONFIG, "hold": hold}, logical=4) as crew:
        crew.begin("w0", "w1", "w2")
        crew.start("w3", "w4")
        crew.ready("w3", "w4")
        groups = [("w0", "w1", "w2"), ("w1",), ("w3", "w1"), ("w4", "w3"), ("w4",)]
        for step, before, group in zip(hold, groups, groups[1:], strict=False):
            crew.held(step, len(before))
            crew.want(*group)
            crew.prepared(*before, *group)
            crew.open(step)
            crew.wait(Regrouped, lambda report, group=group: report.what.members == group)
        assert result(crew) == fixed
    _, state = trained(STEPS, batch=13, hidden=7)
    assert digest(state) != fixed  # whole batches round otherwise: the hash does tell
