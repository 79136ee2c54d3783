"""Small clusters and jobs for the simulator's tests, and what their logs say."""

from __future__ import annotations

from quiltwork.cluster.job import Job
from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.cluster.simulate.simulation import simulate
from quiltwork.cluster.simulate.workload import two_clusters
from quiltwork.cluster.speed import linear

LINE = linear({"V100": 1.0, "T4": 1 / 3}, 64, mixing=1.0)
OCCUPYING = (Action.START, Action.SCALE_OUT, Action.SCALE_IN, Action.PREEMPT, Action.END)


def job(name, submit_s, seconds, w_min=1, w_max=None, **options):
    """A job that takes so many seconds with ``w_min`` workers on the reference type, and is believed to."""
    work = seconds * w_min
    options.setdefault("believed", work)
    return Job(name, submit_s, work, LINE, w_min=w_min, w_max=w_max or w_min, **options)


def run(jobs, policy, *, train=1, infer=0, need=None, settings=None, **rules):
    return simulate(
        two_clusters(train, infer),
        jobs,
        rules_named(policy, **rules),
        need=need,
        settings=settings or Settings(share_every_s=0.0),
    )


def of(log, name, *actions):
    """The rows of one job, or of some of its actions."""
    return [row for row in log if row.job == name and (not actions or row.action in actions)]


def times(log, action):
    """When each job did something first."""
    found: dict[str, float] = {}
    for row in log:
        if row.action is action:
            found.setdefault(row.job, row.time)
    return found


def check_occupancy(log):
    """GPUs taken on each server, as the log tells: never more than it has, none at the end, none while it is
    inference's. Returns the server-times at which something ran on a lent server."""
    gpus = {row.servers[0][0]: row.after for row in log if row.action is Action.SERVER}
    inference = {row.servers[0][0] for row in log if row.action is Action.SERVER and row.reason == "infer"}
    lent: set[int] = set()
    taken = dict.fromkeys(gpus, 0)
    held: dict[str, int] = {}
    on_lent = 0
    for row in log:
        if row.action is Action.LOAN:
            lent.add(row.servers[0][0])
            assert taken[row.servers[0][0]] == 0
        elif row.action is Action.RETURN:
            lent.discard(row.servers[0][0])
            assert taken[row.servers[0][0]] == 0
        elif row.action in OCCUPYING:
            for server, change in row.servers:
                taken[server] += change
                assert 0 <= taken[server] <= gpus[server]
                assert server not in inference or server in lent
                on_lent += server in lent
            held[row.job] = held.get(row.job, 0) + sum(change for _, change in row.servers)
            assert held[row.job] == sum(row.gpus)
    assert not any(taken.values())
    return on_lent
