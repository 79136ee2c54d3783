"""Why a job waits, in words: what it needs, what there is, and who comes before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quiltwork.cluster.borrowing import Borrowing
from quiltwork.cluster.job import Job
from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.policy.placing import Tier, place_gang
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.server import Pool


@dataclass(frozen=True)
class Why:
    """``binding`` : the one constraint that keeps it waiting. ``details`` : the rest of the picture, a line each."""

    binding: str
    details: tuple[str, ...]


def why_waiting(scheduler: Scheduler, number: int) -> Why:
    """Raises KeyError for a job that does not wait."""
    cluster = scheduler.cluster
    job = cluster.jobs[number]
    ahead = scheduler.ahead_of(number)
    tiers = scheduler.tiers.base(job.shape)
    details = [f"needs {_needs(job, cluster.room, tiers)}"]
    for tier in tiers:
        if cluster.room.shelves[tier[0]].gpus == cluster.room.shelves[tier[-1]].gpus:
            details.append(_tier(cluster.room, tier))
    if ahead:
        first = ", ".join(cluster.jobs[n].id for n in ahead[:3])
        details.append(f"{len(ahead)} jobs come before it: {first}{' ...' if len(ahead) > 3 else ''}")
    if scheduler.borrowing is not None:
        details.append(_quota(scheduler.borrowing, number))
    if not job.fungible and cluster.lent:
        details.append(f"may not use the {len(cluster.lent)} servers on loan: it is not fungible")
    if place_gang(cluster.room, job.shape, tiers) is not None:
        if ahead and scheduler.rules.backfill_depth == 0:
            return Why(f"waits its turn behind {cluster.jobs[ahead[0]].id}, which does not fit", tuple(details))
        return Why("has room, and starts with the next decision", tuple(details))
    if place_gang(cluster.room, job.shape, scheduler.tiers.base(job.shape, True), revoking=True) is not None:
        return Why("has room once flexible workers of others have left", tuple(details))
    shelves = {shelf for tier in tiers for shelf in tier}
    free = sum(cluster.room.free[s] for shelf in shelves for s in cluster.room.servers(shelf))
    asked = job.w_min * job.gpus_per_worker
    if free >= asked:
        return Why(f"{free} GPUs are free where it may run, but in pieces that are too small", tuple(details))
    return Why(f"needs {asked} GPUs, and {free} are free where it may run", tuple(details))


def _needs(job: Job, room: Room, tiers: Sequence[Tier]) -> str:
    gpus = job.w_min * job.gpus_per_worker
    sizes = sorted({room.shelves[shelf].gpus for tier in tiers for shelf in tier})
    most = sizes[-1] if sizes else 0
    if job.compact and most and gpus > most:
        return f"{gpus} GPUs at once: {gpus // most} whole servers of {most}"
    each = f" of {job.gpus_per_worker} GPUs" if job.gpus_per_worker > 1 else ""
    return f"{job.w_min} workers{each} at once" if job.w_min > 1 else f"one worker{each or ' of one GPU'}"


def _quota(borrowing: Borrowing, number: int) -> str:
    account = borrowing.account(number)
    within = "the job is within that" if borrowing.covers(number) else "the job would borrow"
    return f"team {account} holds {borrowing.held(account)} of its {borrowing.guaranteed(account)} GPUs: {within}"


def _tier(room: Room, tier: Tier) -> str:
    shelf = room.shelves[tier[0]]
    servers = [s for each in tier for s in room.servers(each)]
    free = sum(room.free[s] for s in servers)
    flexible = sum(room.reach[s] for s in servers) - free
    most = max((room.free[s] for s in servers), default=0)
    whose = "training's" if shelf.pool is Pool.TRAIN else "lent"
    return (
        f"{whose} {shelf.gpu_type} servers of {shelf.gpus}: {len(servers)}, {free} GPUs free (at most {most} on one), "
        f"{flexible} under flexible workers"
    )


def history(log: Sequence[Row], job_id: str, servers: Sequence[str]) -> list[str]:
    """What was decided on a job and why, a line each, the first first. Times since 1970, told by the local clock."""
    said = []
    for row in log:
        usual = row.action is Action.PROGRESS and not row.reason
        if row.job != job_id or row.action not in _SAID or usual:
            continue
        where = ", ".join(f"{abs(gpus)} of {servers[server]}" for server, gpus in row.servers)
        why = f" ({row.reason})" if row.reason and row.action is not Action.SUBMIT else ""
        workers = f", {row.before} -> {row.after} workers" if row.action in (Action.SCALE_IN, Action.SCALE_OUT) else ""
        lost = f", {row.cost:.0f} worker-seconds lost" if row.action is Action.PREEMPT else ""
        when = datetime.fromtimestamp(row.time).isoformat(" ", "seconds")
        said.append(f"{when} {_SAID[row.action]}{workers}{': GPUs ' + where if where else ''}{lost}{why}")
    return said


_SAID = {
    Action.SUBMIT: "submitted",
    Action.START: "started",
    Action.SCALE_OUT: "grew",
    Action.SCALE_IN: "shrank",
    Action.PREEMPT: "stopped",
    Action.PROGRESS: "said what cannot be of its progress",
    Action.END: "ended",
}
