"""What stopping a running job loses."""

from __future__ import annotations

import math

import pytest
from small_clusters import job

from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.rules import Cost, rules_named
from quiltwork.cluster.running import Delays, Run
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.server import Pool, Server
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import BadInputError


def running(**options):
    """One worker of a job, since time 0."""
    run = Run(job("j", 0, 10_000, **options), ((0, 1),), [1], (True,), 0.0, 0.0)
    run.retime(("V100",), 1)
    return run


@pytest.mark.parametrize(
    ("delays", "job", "kept"),
    [
        (Delays(), {}, 0),
        (Delays(), {"checkpoint_s": 300.0}, 900),
        (Delays(keep_on_stop=True), {}, 1000),
        (Delays(keep_on_stop=True, save_s=31, deadline_s=30), {}, 0),
        (Delays(keep_on_stop=True, save_s=30, deadline_s=30), {}, 1000),
        (Delays(keep_on_stop=True, save_s=31, deadline_s=30), {"checkpoint_s": 300.0}, 900),
        (Delays(keep_on_stop=True, save_s=5, deadline_s=30), {"checkpoint_s": 300.0, "save_s": 60.0}, 900),
        (Delays(keep_on_stop=True, save_s=60, deadline_s=30), {"checkpoint_s": 300.0, "save_s": 5.0}, 1000),
        (Delays(keep_on_stop=True, save_s=60), {"grace_s": 59.0}, 0),
        (Delays(keep_on_stop=True), {"on_warning": False, "checkpoint_s": 300.0}, 900),
        (Delays(save_s=5, deadline_s=30), {"on_warning": True}, 1000),
    ],
)
def test_a_warning_keeps_all_work_only_where_a_checkpoint_is_written_in_time(delays, job, kept):
    run = running(**job)
    assert run.kept(1000, delays) == kept
    assert run.loss(1000, delays) == pytest.approx(1000 - kept + delays.restart_s)
    assert run.kept(1000, delays, warned=False) == (900 if "checkpoint_s" in job else 0)


@pytest.mark.parametrize("wrong", [{"deadline_s": -1}, {"deadline_s": math.nan}, {"save_s": -1}, {"save_s": math.inf}])
def test_delays_that_cannot_be_are_refused(wrong):
    with pytest.raises(BadInputError):
        Delays(**wrong)


@pytest.mark.parametrize(("deadline_s", "stopped"), [(30, "quick"), (120, "slow")])
def test_a_reclaim_stops_whoever_can_save_within_its_deadline(deadline_s, stopped):
    """Of two on lent servers: one has done more and saves in a moment, one has done less, and takes a minute."""
    servers = [Server("t", "V100", 4, Pool.TRAIN), *[Server(f"i{n}", "V100", 4, Pool.INFER) for n in range(2)]]
    delays = Delays(keep_on_stop=True, deadline_s=deadline_s, restart_s=1)
    cluster = Cluster(servers, ("V100",), delays)
    scheduler = Scheduler(
        cluster, rules_named("sjf+loan", reclaim=Cost.WORK), forecast=lambda *needs: 0.0, share_every_s=0.0
    )
    for server in (1, 2):
        cluster.lend(server)
    scheduler.submit(0, job("own", 0, 5000, 4))
    scheduler.decide(0)
    scheduler.submit(0, job("quick", 0, 5000, 1, gpus_per_worker=4, fungible=True, save_s=1.0))
    scheduler.decide(0)
    scheduler.submit(500, job("slow", 500, 5000, 1, gpus_per_worker=3, fungible=True, save_s=60.0))
    scheduler.decide(500)
    assert len(cluster.runs) == 3
    scheduler.reclaim(1000, 1)
    (row,) = [row for row in cluster.log if row.action is Action.PREEMPT]
    assert (row.job, row.cost) == (stopped, 0)
