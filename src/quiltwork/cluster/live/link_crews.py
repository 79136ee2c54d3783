"""The crews of elastic jobs over their link, and what their workers are started with."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.link import Link
from quiltwork.cluster.elastic.settings import TOKEN, WorkerSettings
from quiltwork.cluster.live.crews import Failed, Finished, Report, Stepped
from quiltwork.cluster.live.entries import CHECKPOINT_S, Entry
from quiltwork.cluster.spec import Batch, Checkpoint


class LinkCrews:
    """``Crews`` over a link. known : jobs whose workers may come back before anybody has asked for them."""

    def __init__(self, link: Link, known: Iterable[str] = ()) -> None:
        self._link = link
        for job in known:
            link.job(job)

    def want(self, job: str, members: Sequence[str]) -> None:
        """As ``Crews`` says."""
        self._link.job(job).want(members)

    def forget(self, job: str) -> None:
        """As ``Crews`` says."""
        self._link.forget(job)

    def reports(self) -> list[Report]:
        """As ``Crews`` says."""
        found: list[Report] = []
        while True:
            try:
                report = self._link.reports.get_nowait()
            except queue.Empty:
                return found
            what = report.what
            if isinstance(what, m.Step):
                found.append(Stepped(report.job, what.done, what.total, what.metrics))
            elif isinstance(what, m.Concluded):
                found.append(Finished(report.job))
            elif isinstance(what, m.Failed):
                found.append(Failed(report.job, what.what))


class Programs:
    """What is run for a worker of an elastic job. folder : of jobs' files; a job that names no folder for its
    checkpoints has one there, so that it goes on where it was whenever it is stopped. threads : of computation for each
    worker, where workers share a machine's cores; None leaves that to torch."""

    def __init__(self, folder: Path, link: Link, *, threads: int | None = None) -> None:
        self._folder, self._link, self._threads = folder, link, threads

    def __call__(self, entry: Entry, worker: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """Arguments and variables."""
        spec = entry.spec
        assert spec.trainable is not None
        home = self._folder / entry.id
        home.mkdir(parents=True, exist_ok=True)
        config = home / "config.json"
        if not config.exists():
            written = config.with_suffix(".new")
            written.write_text(json.dumps(dict(spec.config)))
            written.replace(config)
        kept = spec.checkpoint or Checkpoint(str(home / "checkpoints"), CHECKPOINT_S)
        if not Path(kept.path).is_absolute():
            kept = replace(kept, path=str((Path(spec.workdir or home) / kept.path).absolute()))
        settings = WorkerSettings(
            job=entry.id,
            worker=worker,
            link=self._link.address,
            trainable=spec.trainable,
            config=str(config),
            seed=spec.seed,
            workdir=str(home),
            batch=spec.batch or Batch(),
            lr=spec.lr,
            checkpoint=kept,
            threads=self._threads,
        )
        return tuple(settings.command()), {TOKEN: self._link.token}
