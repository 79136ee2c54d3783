"""What users ask of a running cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from quiltwork.cluster.live.controller import DRAINED, Controller
from quiltwork.cluster.live.entries import ENDED, Entry, JobState
from quiltwork.cluster.live.views import gpu_hours, samples, servers_shown, shown, teams_shown
from quiltwork.cluster.log import Row
from quiltwork.cluster.spec import parse_spec
from quiltwork.cluster.why import history, why_waiting
from quiltwork.core.errors import BadInputError, CapacityError, ConflictError, NotFoundError
from quiltwork.core.servable import Json, Sample


class Desk:
    """Every method may be called from any thread, and waits until the controller is between two steps."""

    def __init__(self, controller: Controller) -> None:
        self._at = controller

    def submit(self, text: str, *, where: str = "job", request: str | None = None) -> str:
        """A job from its YAML or JSON; returns its id. The same ``request`` again is the same job. Raises
        BadInputError."""
        return self._at.turns.ask(lambda: self._submit(text, where, request))

    def _submit(self, text: str, where: str, request: str | None) -> str:
        if request is not None and (found := self._at.memory.job_of(request)) is not None:
            return found
        spec = parse_spec(text, where)
        job_id = f"{spec.name}-{len(self._at.entries) + 1}"
        entry = Entry(job_id, text, spec, self._at.now())
        job = self._at.job_of(entry)
        self._at.scheduler.check(job)
        self._at.entries[job_id] = entry
        self._at.scheduler.submit(entry.submit_s, job)
        if request is not None:
            self._at.memory.remember(request, job_id)
        self._write(where, "it waits, and begins once it can be written down")
        return job_id

    def _write(self, where: str, otherwise: str) -> None:
        """What was asked for is on the disk when this returns."""
        if not self._at.write():
            raise CapacityError(self._at.troubles["memory"], where=where, hint=otherwise)

    def cancel(self, job_id: str) -> None:
        """A job that waits or runs will not run again. Raises NotFoundError, ConflictError where it has ended,
        CapacityError where that cannot be written down yet."""
        self._at.turns.ask(lambda: self._cancel(job_id))

    def _cancel(self, job_id: str) -> None:
        entry = self._entry(job_id)
        if entry.state in ENDED or entry.state is JobState.STOPPING:
            raise ConflictError(f"it has ended: {entry.state}", where=f"job {job_id}")
        self._at.finish(entry, JobState.CANCELLED, self._at.now())
        self._write(f"job {job_id}", "it is cancelled once that can be written down")

    def jobs(self) -> list[dict[str, Json]]:
        """All jobs, in the order of their submission."""
        return self._at.turns.ask(lambda: [self._shown(entry) for entry in self._at.entries.values()])

    def job(self, job_id: str) -> dict[str, Json]:
        """One job, its workers among it. Raises NotFoundError."""
        return self._at.turns.ask(lambda: self._shown(self._entry(job_id)))

    def explain(self, job_id: str) -> dict[str, Json]:
        """Why a job waits, or was stopped; what was decided on it. Raises NotFoundError."""
        return self._at.turns.ask(lambda: self._explain(self._entry(job_id)))

    def _explain(self, entry: Entry) -> dict[str, Json]:
        number = self._at.cluster.numbers[entry.id]
        said: dict[str, Json] = {"id": entry.id, "state": str(entry.state), "error": entry.error}
        if number in self._at.cluster.waiting:
            why = why_waiting(self._at.scheduler, number)
            said |= {"waits": why.binding, "details": list(why.details)}
        elif entry.id in self._at.hands.held_up:
            said |= {"waits": "its GPUs are given to it, and others are still leaving them"}
        return said | {"history": history(self._at.cluster.log, entry.id, [s.id for s in self._at.cluster.servers])}

    def status(self) -> dict[str, Json]:
        """Servers, jobs by state, what is held up, what somebody should look at, and what teams have."""
        return self._at.turns.ask(self._status)

    def _status(self) -> dict[str, Json]:
        states = Counter(str(entry.state) for entry in self._at.entries.values())
        return {
            "servers": servers_shown(self._at.cluster, self._at.hands.all()),
            "jobs": dict(sorted(states.items())),
            "held_up": list(self._at.hands.held_up),
            "troubles": dict(self._at.troubles),
            "teams": self._teams(),
            "now": self._at.now(),
        }

    def samples(self) -> list[Sample]:
        """Figures for Prometheus."""
        return self._at.turns.ask(lambda: samples(self._at.cluster, self._at.entries.values(), self._teams()))

    def _teams(self) -> dict[str, dict[str, Json]]:
        teams = {entry.id: entry.spec.team for entry in self._at.entries.values()}
        hours = gpu_hours(self._at.cluster.log, teams, self._at.now())
        return teams_shown(self._at.scheduler, hours)

    def logs(self, job_id: str) -> dict[str, Path]:
        """Where the output of a job's workers is, by worker, those that are gone included. Raises NotFoundError."""
        return self._at.turns.ask(lambda: self._at.book.logs(self._entry(job_id).id))

    def log(self, after: int = 0) -> list[Row]:
        """Rows of the decision log from the ``after``-th on."""
        return self._at.turns.ask(lambda: self._at.cluster.log[max(after, 0) :])

    def lend(self, count: int) -> None:
        """Lend so many of inference's servers now, whatever it needs. Raises BadInputError."""
        self._at.turns.ask(lambda: self._by_hand(count, self._at.scheduler.lend))

    def reclaim(self, count: int) -> None:
        """Ask so many lent servers back now. Raises BadInputError."""
        self._at.turns.ask(lambda: self._by_hand(count, self._at.scheduler.reclaim))

    def _by_hand(self, count: int, change: Callable[[float, int], None]) -> None:
        if count < 1:
            raise BadInputError(f"{count} servers", where="servers")
        before = set(self._at.cluster.lent)
        change(self._at.now(), count)
        for server in sorted(self._at.cluster.lent - before):
            self._at.memory.move(self._at.cluster.servers[server].id, to_training=True)

    def drain(self, server_id: str, *, empty: bool = False) -> None:
        """Place nothing on a server from now on. empty : whoever is on it goes back into the queue. Raises
        NotFoundError."""
        self._at.turns.ask(lambda: self._drain(self._server(server_id), empty))

    def _drain(self, server: int, empty: bool) -> None:
        self._at.scheduler.close(self._at.now(), server, DRAINED, empty=empty)

    def undrain(self, server_id: str) -> None:
        """Raises NotFoundError, ConflictError where it is not drained."""
        self._at.turns.ask(lambda: self._undrain(self._server(server_id)))

    def _undrain(self, server: int) -> None:
        if self._at.cluster.closed.get(server) != DRAINED:
            raise ConflictError("is not drained", where=f"server {self._at.cluster.servers[server].id}")
        self._at.scheduler.open(self._at.now(), server)

    def _server(self, server_id: str) -> int:
        if server_id not in self._at.index:
            raise NotFoundError("there is no such server", where=f"server {server_id[:80]}")
        return self._at.index[server_id]

    def _entry(self, job_id: str) -> Entry:
        if job_id not in self._at.entries:
            raise NotFoundError("there is no such job", where=f"job {job_id[:80]}")
        return self._at.entries[job_id]

    def _shown(self, entry: Entry) -> dict[str, Json]:
        left_s = self._at.scheduler.left_s(self._at.now(), self._at.cluster.numbers[entry.id])
        return {
            **entry.document(),
            "left_s": left_s,
            "members": [shown(worker) for worker in self._at.hands.of(entry.id)],
        }
