"""A link and real worker processes, forked off one that has loaded torch, so that a start takes no second."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import select
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from quiltwork.cluster.elastic import TOKEN, Failed, Leaving, Link, Lost, Prepared, Ready, Report, WorkerSettings
from quiltwork.cluster.spec import Checkpoint

PATIENCE_S = 60.0
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["quiltwork.cluster.elastic.training", "quiltwork.cluster.elastic.worker"])


def _be_worker(arguments, token, errors):
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    from quiltwork.cluster.elastic.worker import main

    os._exit(main(arguments, {TOKEN: token}))


class Crew:
    """One job's processes. What was reported stays in ``reports``."""

    def __init__(self, folder, trainable="tiny_elastic:TinyElastic", config=None, link=None, job="job", **settings):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(config or {}))
        self.link = link or Link(clock=time.monotonic)
        self.job = self.link.job(job)
        self.settings = WorkerSettings(
            **{
                **{"job": job, "worker": "", "link": self.link.address, "trainable": trainable, "seed": 3},
                **{"threads": 1, "config": str(self.folder / "config.json"), "workdir": str(self.folder)},
                **{"checkpoint": Checkpoint(str(self.folder / "kept")), **settings},
            }
        )
        self.processes, self.reports, self._since, self._failures = {}, [], 0, False
        if not (self.folder / "held").exists():
            os.mkfifo(self.folder / "held")
        # Open on both sides, so that it has no end when a worker closes its own.
        self._held, self._waiting = os.open(self.folder / "held", os.O_RDWR), Counter()

    def start(self, *names, **other):
        for name in names:
            settings = replace(self.settings, worker=name, step_log=str(self.folder / f"steps-{name}"), **other)
            arguments = (settings.arguments(), self.link.token, str(self.folder / f"errors-{name}"))
            self.processes[name] = _forks.Process(target=_be_worker, args=arguments, daemon=True)
            self.processes[name].start()

    def want(self, *names):
        self._drain()
        self.job.want(names)

    def begin(self, *names):
        """Start workers, and have all of them compute."""
        self.want(*names)
        self.start(*(name for name in names if name not in self.processes))

    def wait(self, kind, when=lambda report: True) -> Report:
        """The first report of this kind for which ``when`` holds, of those that have come and those that come.

        That a worker fails is an error, unless that was waited for.
        """
        end = time.monotonic() + PATIENCE_S
        self._failures |= kind is Failed
        for report in self._with_new(end):
            if isinstance(report.what, kind) and when(report):
                return report
            if isinstance(report.what, Failed) and not self._failures:
                raise AssertionError(f"{report.worker}: {report.what.what}\n{self.errors(report.worker)}")
        raise AssertionError(f"no {kind.__name__} in {PATIENCE_S:g} s; last: {self.reports[-8:]}\n{self.errors()}")

    def _with_new(self, end):
        yield from list(self.reports)
        while (left := end - time.monotonic()) > 0:
            try:
                self.reports.append(self.link.reports.get(timeout=left))
            except queue.Empty:
                return
            yield self.reports[-1]

    def _drain(self):
        """What comes from here on is the consequence of what is done next."""
        while not self.link.reports.empty():
            self.reports.append(self.link.reports.get())
        self._since = len(self.reports)

    def prepared(self, *names):
        """Wait until all these are connected for the last change asked for: it comes with one of the next steps."""
        since, generations = self._since, {}

        def all_are(report):
            if self.reports.index(report) >= since:
                generations.setdefault(report.what.generation, set()).add(report.worker)
            return any(set(names) <= who for who in generations.values())

        self.wait(Prepared, all_are)

    def held(self, step, count):
        """Wait until so many workers are held up in that step."""
        end = time.monotonic() + PATIENCE_S
        while self._waiting[step] < count:
            ready, _, _ = select.select([self._held], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{self._waiting[step]} of {count} workers came to step {step}\n{self.errors()}"
            self._waiting.update(map(int, os.read(self._held, 4096).split()))

    def of(self, kind):
        return [report.what for report in self.reports if isinstance(report.what, kind)]

    def ready(self, *names):
        for name in names:
            self.wait(Ready, lambda report, name=name: report.worker == name)

    def open(self, step):
        (self.folder / f"open-{step}").touch()

    def pid(self, name):
        return self.wait(Ready, lambda report: report.worker == name).what.pid

    def kill(self, name):
        os.kill(self.processes[name].pid, signal.SIGKILL)
        self.wait(Lost, lambda report: report.worker == name)

    def terminate(self, name):
        self._drain()
        os.kill(self.processes[name].pid, signal.SIGTERM)
        self.wait(Leaving, lambda report: report.worker == name)

    def exit_code(self, name):
        self.processes[name].join(PATIENCE_S)
        return self.processes[name].exitcode

    def errors(self, *names):
        files = [self.folder / f"errors-{name}" for name in names or self.processes]
        return "\n".join(f"{path.name}: {path.read_text()}" for path in files if path.exists())

    def noted(self):
        """For each step the lines that its workers wrote of it."""
        steps = {}
        for path in sorted(self.folder.glob("noted-*")):
            for line in path.read_text().splitlines():
                found = json.loads(line)
                steps.setdefault(found["done"], []).append(found)
        return steps

    def close(self):
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
            process.join(PATIENCE_S)
        self.link.close()
        os.close(self._held)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
