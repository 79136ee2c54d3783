"""What is shown of a live cluster: as JSON, and as samples for Prometheus."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from quiltwork.cluster.live.entries import Entry, JobState, Worker
from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.server import Pool
from quiltwork.cluster.state import Cluster
from quiltwork.core.servable import Json, Sample


def shown(worker: Worker) -> dict[str, Json]:
    """One worker."""
    return {
        "id": worker.id,
        "job": worker.job,
        "server": worker.server,
        "gpus": list(worker.order.slots),
        "run": worker.run,
        "leaving": worker.leaving_until is not None,
        "log": worker.order.log,
    }


def servers_shown(cluster: Cluster, workers: Iterable[Worker]) -> list[dict[str, Json]]:
    """Every server: whose it is, what is free, and who is on it."""
    on: dict[str, list[dict[str, Json]]] = {}
    for worker in workers:
        on.setdefault(worker.server, []).append(shown(worker))
    found: list[dict[str, Json]] = []
    for i, server in enumerate(cluster.servers):
        found.append(
            {
                "id": server.id,
                "gpu_type": server.gpu_type,
                "gpus": server.gpus,
                "free": cluster.room.free[i],
                "pool": str(pool_of(cluster, i)),
                "closed": cluster.closed.get(i),
                "jobs": sorted({cluster.jobs[n].id for n in (*cluster.base_on[i], *cluster.flex_on[i])}),
                "workers": on.get(server.id, []),
            }
        )
    return found


def pool_of(cluster: Cluster, server: int) -> Pool:
    """Who has a server now."""
    if server in cluster.returning:
        return Pool.DRAINING
    if server in cluster.lent:
        return Pool.ONLOAN
    return Pool.TRAIN if cluster.servers[server].pool is Pool.TRAIN else Pool.INFER


def gpu_hours(rows: Sequence[Row], teams: Mapping[str, str], now: float) -> dict[str, float]:
    """GPU-hours that each team's jobs held up to now; teams by job."""
    held: dict[str, tuple[float, int]] = {}
    hours: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        if row.action in (Action.START, Action.SCALE_OUT, Action.SCALE_IN, Action.PREEMPT, Action.END):
            since, gpus = held.get(row.job, (row.time, 0))
            hours[teams[row.job]] += gpus * (row.time - since) / 3600
            held[row.job] = (row.time, sum(row.gpus))
    for job, (since, gpus) in held.items():
        hours[teams[job]] += gpus * (now - since) / 3600
    return dict(sorted(hours.items()))


def teams_shown(scheduler: Scheduler, hours: Mapping[str, float]) -> dict[str, dict[str, Json]]:
    """Every team that has a quota or a job: the GPUs that it is guaranteed of training's own (None where it has no
    quota of its own: such teams share the one of ``default``), what its base workers hold of those, how much of that
    jobs have that borrow, GPUs of its flexible workers, jobs that wait, and GPU-hours held so far."""
    cluster, quotas = scheduler.cluster, scheduler.rules.quotas
    borrowed = Counter() if scheduler.borrowing is None else scheduler.borrowing.borrowed()
    held: Counter[str] = Counter()
    flexible: Counter[str] = Counter()
    for run in cluster.runs.values():
        own = sum(gpus for server, gpus in run.base if cluster.servers[server].pool is Pool.TRAIN)
        held[run.job.team] += own
        flexible[run.job.team] += sum(run.flexing) * run.job.gpus_per_worker
    queued = Counter(cluster.jobs[number].team for number in cluster.waiting)
    return {
        team: {
            "quota": quotas.get(team),
            "held": held[team],
            "borrowed": borrowed[team],
            "flexible": flexible[team],
            "queued": queued[team],
            "gpu_hours": hours.get(team, 0.0),
        }
        for team in sorted({*quotas, *hours, *held, *queued})
    }


def samples(cluster: Cluster, entries: Iterable[Entry], teams: Mapping[str, Mapping[str, Json]]) -> list[Sample]:
    """Figures of the cluster as they stand."""
    found: list[Sample] = []

    def add(name: str, kind: Literal["gauge", "counter"], help: str, value: float, **labels: str) -> None:
        found.append(Sample(f"quiltwork:cluster_{name}", kind, help, value, labels))

    states = Counter(entry.state for entry in entries)
    for state in JobState:
        add("jobs", "gauge", "Jobs by state.", states[state], state=str(state))
    pools: Counter[tuple[str, str]] = Counter()
    free: Counter[tuple[str, str]] = Counter()
    for i, server in enumerate(cluster.servers):
        key = (str(pool_of(cluster, i)), server.gpu_type)
        pools[key] += server.gpus
        free[key] += cluster.room.free[i]
    for (pool, gpu_type), gpus in sorted(pools.items()):
        add("gpus", "gauge", "GPUs by pool and type.", gpus, pool=pool, gpu_type=gpu_type)
        add("gpus_free", "gauge", "GPUs without a worker.", free[pool, gpu_type], pool=pool, gpu_type=gpu_type)
    actions = Counter(row.action for row in cluster.log)
    for action in (Action.START, Action.PREEMPT, Action.SCALE_OUT, Action.SCALE_IN, Action.LOAN, Action.RETURN):
        add("decisions_total", "counter", "Decisions by kind.", actions[action], action=str(action))
    for team, told in teams.items():
        add("gpu_hours_total", "counter", "GPU-hours held by a team's jobs.", told["gpu_hours"], team=team)
        add("team_gpus", "gauge", "GPUs of training's own that a team's base workers hold.", told["held"], team=team)
        add("team_gpus_borrowed", "gauge", "Those beyond its quota.", told["borrowed"], team=team)
        if told["quota"] is not None:
            add("team_quota_gpus", "gauge", "GPUs that a team is guaranteed.", told["quota"], team=team)
    return found
