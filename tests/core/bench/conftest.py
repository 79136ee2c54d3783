"""Records and small projects with benchmarks."""

from __future__ import annotations

import pytest

from quiltwork.core.bench import Claim, Outcome, Record, at_least

CLAIM = Claim("room.speed", "room", "ours | theirs", at_least(2.0), "baseline/ours", "s")


@pytest.fixture
def record():
    """Make a record of a claim, met unless told otherwise."""

    def make(claim=CLAIM, ours=(1.0, 1.1, 0.9), baseline=(3.0, 3.1, 2.9), quick=False, **outcome):
        return Record(
            claim=claim,
            outcome=Outcome(tuple(ours), tuple(baseline), **{"details": {}, "rows": (), **outcome}),
            quick=quick,
            started="2026-01-02T03:04:05+00:00",
            seconds=12.5,
            seed=0,
            command=f"quiltwork bench run {claim.name}",
            machine={"cpu": "A Processor", "cores": 2, "memory_bytes": 8 * 2**30},
            versions={"python": "3.11.0", "torch": "2.13.0"},
            load={"average_before": [0, 0, 0], "average_after": [0, 0, 0], "others_cores": 0.1},
            git={"commit": "abc", "dirty": False},
        )

    return make
