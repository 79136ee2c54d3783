"""Crews of paced agents that are measured at the same time, each with a front in a process of its own.

Paced agents wait more than they compute: several crews beside each other take as long as one, and whatever else the
machine does happens to all of them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from work.paced import Asked, PacedFleet

if TYPE_CHECKING:
    from quiltwork.serving.agents.message import Beat
    from quiltwork.serving.agents.settings import AgentSettings
    from quiltwork.serving.policy.cost import Instance, SegmentProfile


@dataclass(frozen=True)
class Crew:
    """One crew, and the requests of each of its runs, one after another."""

    zoo: Path
    holders: Mapping[str, Sequence[Sequence[str]]]
    profiles: Mapping[Instance, SegmentProfile]
    settings: AgentSettings
    agents: int
    kv_bytes: int
    runs: Sequence[Sequence[Asked]]


@dataclass(frozen=True)
class Replayed:
    """Latencies by model, for each run; the agents' counts after the last; seconds of processor time per second."""

    latencies: list[Mapping[str, tuple[float, ...]]]
    beats: list[Beat]
    cores: float


def replayed(crews: Sequence[Crew]) -> list[Replayed]:
    """All crews at the same time, in their order."""
    with ProcessPoolExecutor(len(crews), mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_replay, crews))


def _replay(crew: Crew) -> Replayed:
    fleet = PacedFleet(crew.zoo, crew.holders, crew.profiles, crew.settings, agents=crew.agents, kv_bytes=crew.kv_bytes)
    try:
        runs = [fleet.replay(requests) for requests in crew.runs]
    finally:
        fleet.close()
    cores = sum(run.cpu_s for run in runs) / sum(run.seconds for run in runs)
    return Replayed([dict(run.latencies) for run in runs], list(runs[-1].beats.values()), cores)
