"""The set-up that all rows under load have in common: fleet, trace, popularity, memory cap, load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.bench import Context
from quiltwork.core.errors import QuiltworkError
from work.fleet import BODY_30M, Fleet, Shape, merged, sixteen_apps
from work.replay import Request
from work.side import Side
from work.stock import stock
from work.system import System
from work.workload import at_once, renamed, requests

OURS = "ours"
APPS = 16
CAP = 0.6
"""The memory cap, as a share of what continuous batching takes with all applications in memory."""
LOAD = 0.7
"""Offered load of the arrivals, as a share of the baseline's saturated rate."""
ENGINE_SHARE = 0.7
"""Share of the cap that the engine may fill with weights and KV; the rest is for what arithmetic needs in passing."""


@dataclass(frozen=True)
class Azure:
    """The fleet as folders, as whole models and as a zoo, and the requests of each shuffle of who is popular."""

    fleet: Fleet
    whole: Mapping[str, Path]
    """Application -> folder of the whole model, LoRAs merged."""
    zoo: Path
    traces: Mapping[int, list[Request]]

    @property
    def names(self) -> list[str]:
        """The applications."""
        return [app.name for app in self.fleet.apps]

    @property
    def vocab(self) -> int:
        """Size of the vocabulary."""
        return self.fleet.shape.vocab

    def words(self, seed: int, phase: str, count: int | None = None) -> list[Request]:
        """The first requests of a shuffle with words of their own for each phase; all where ``count`` is None."""
        return renamed(self.traces[seed][:count], phase, self.vocab)


def azure(context: Context, *, count: int, seeds: Sequence[int], shape: Shape = BODY_30M) -> Azure:
    """Make the fleet and read the trace. Raises NotFoundError where the trace is not there."""
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed, shape=shape)
    names = [app.name for app in fleet.apps]
    traces = {seed: requests(context.data, names, shape.vocab, count=count, seed=seed) for seed in seeds}
    whole = {app.name: app.path for app in merged(fleet, context.scratch / "merged").apps}
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    return Azure(fleet, whole, zoo, traces)


def need(factory: str, settings: object, work: Azure, cores: int, count: int | None = None) -> int:
    """Bytes that a system of one model per application takes, above its imports, with all applications in memory and a
    queue of ``count`` requests (all where None)."""
    with Side(factory, threads=cores, models=dict(work.whole), resident=APPS) as side:
        side.call("configure", settings)
        system = System(side)
        system.replay(at_once(work.words(next(iter(work.traces)), "need", count)))
    return system.peak


def fitting(work: Azure, memory_bytes: int) -> int:
    """How many applications fit as whole models: each its weights, and half as much for keys and values."""
    weights = (work.fleet.base.path / "model.safetensors").stat().st_size
    return max(1, min(len(work.names), int(memory_bytes / (1.5 * weights))))


@contextmanager
def apart(zoo: Path, apps: Sequence[str], resident: int, memory_bytes: int) -> Iterator[System]:
    """Our engine as one process per application, ``resident`` of which share what the engine may fill.

    A compute thread each: there are at least as many busy processes as cores.
    """
    with Side("work.apart:OurModelsApart", threads=1, zoo=zoo, models=list(apps), resident=resident,
              memory_bytes=memory_bytes // resident) as side:  # fmt: skip
        side.floor_pss += side.call("floor")
        yield System(side, "our engine, one process per app", f"{resident} apps in memory, 1 thread each")


@contextmanager
def ours(work: Azure, cores: int, memory_bytes: int, name: str = OURS, **settings: object) -> Iterator[System]:
    """Our engine with all applications in memory."""
    with Side("work.ours:OurModels", threads=cores, zoo=work.zoo, models=work.names, memory_bytes=memory_bytes,
              **settings) as side:  # fmt: skip
        told = f"{len(work.names)} apps in memory, {cores} threads"
        yield System(side, name, f"{told}, {label(settings)}" if settings else told)


def label(settings: Mapping[str, object]) -> str:
    """Settings of our engine as tables show them."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "defaults"


def check_cap(system: System, cap: int) -> None:
    """Raise QuiltworkError where a system took more than the cap."""
    if system.peak > cap:
        raise QuiltworkError(f"{system.name} took {system.peak} bytes of {cap}", where="memory cap")
