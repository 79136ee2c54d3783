"""A cluster's log makes the same cluster again."""

import random

import pytest
from small_clusters import job

from quiltwork.cluster.forecast import persistent
from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.running import Delays
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.simulate.workload import two_clusters
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import BadInputError

TYPES = ("V100", "T4")


def busy(policy, seed, steps=120):
    """A cluster in the middle of a random day."""
    chance = random.Random(seed)
    cluster = Cluster(two_clusters(3, 4), TYPES, Delays(restart_s=5.0, pause_s=1.0))
    scheduler = Scheduler(
        cluster, rules_named(policy), forecast=persistent, share_every_s=0.0, loans_every_s=60.0, progress_every_s=5.0
    )
    now = 0.0
    for step in range(steps):
        now += chance.random() * 30
        what = chance.random()
        if what < 0.5:
            workers = chance.choice((1, 1, 2, 4, 8, 12))
            most = workers * chance.choice((1, 2))
            options = {"fungible": chance.random() < 0.5, "checkpoint_s": chance.choice((None, 20.0))}
            scheduler.submit(now, job(f"j{step}", now, chance.uniform(10, 300), workers, most, hetero=True, **options))
        elif what < 0.7 and cluster.runs:
            scheduler.ended(now, chance.choice(sorted(cluster.runs)))
        elif what < 0.8 and cluster.waiting:
            scheduler.ended(now, chance.choice(sorted(cluster.waiting)), reason="cancelled")
        elif what < 0.9:
            scheduler.loans(now, chance.choice((0.2, 0.5, 0.9)))
        elif what < 0.95:
            server = chance.randrange(7)
            if server in cluster.closed:
                scheduler.open(now, server)
            else:
                scheduler.close(now, server, chance.choice(("drained", "lost")), empty=chance.random() < 0.5)
        elif cluster.returning:
            server = min(cluster.returning)
            if not cluster.base_on[server] and not cluster.flex_on[server]:
                scheduler.returned(now, server)
        for number in sorted(cluster.runs):
            # Some tell lies.
            scheduler.progressed(now, number, chance.randrange(-1, 120), chance.choice((100, 200, None)))
        scheduler.decide(now)
    return cluster, now


@pytest.mark.parametrize("policy", ["fifo", "srtf", "lyra", "lyra-paper", "gandiva"])
@pytest.mark.parametrize("seed", range(4))
def test_a_log_makes_the_same_cluster_again(policy, seed):
    cluster, now = busy(policy, seed)
    again = Cluster(cluster.servers, TYPES, cluster.delays)
    again.replay(cluster.log[len(cluster.servers) :], {job.id: job for job in cluster.jobs})
    assert again.log == cluster.log
    assert again.room.free == cluster.room.free
    assert again.room.reach == cluster.room.reach
    assert again.room.shelf == cluster.room.shelf
    assert again.waiting == cluster.waiting
    assert again.kept == cluster.kept
    assert (again.lent, again.returning, again.closed) == (cluster.lent, cluster.returning, cluster.closed)
    assert again.runs.keys() == cluster.runs.keys()
    assert again.jobs == cluster.jobs
    assert again.heard == cluster.heard
    for number, run in cluster.runs.items():
        same = again.runs[number]
        assert (same.base, same.flex, same.counts, same.rate) == (run.base, run.flex, run.counts, run.rate)
        assert same.done_by(now) == pytest.approx(run.done_by(now))
    # Whoever goes on from there decides the same.
    ahead = [Scheduler(each, rules_named(policy), forecast=persistent, share_every_s=0.0) for each in (cluster, again)]
    for scheduler in ahead:
        scheduler.submit(now + 1, job("next", now + 1, 50, 2))
        scheduler.decide(now + 1)
    started = [[row for row in each.log if row.time == now + 1] for each in (cluster, again)]
    assert started[0] == started[1]


def test_by_its_own_reports_a_job_gives_way_to_a_shorter_one_and_not_for_one_slow_minute():
    cluster = Cluster(two_clusters(1, 0), TYPES, Delays(keep_on_stop=True))
    scheduler = Scheduler(cluster, rules_named("srtf"), forecast=persistent)

    def say(now, steps):
        scheduler.progressed(now, 0, steps, 2000)
        scheduler.decide(now)
        return [row.job for row in cluster.log if row.action is Action.PREEMPT]

    scheduler.submit(0, job("a", 0, 2000, 8))
    scheduler.decide(0)
    for now in range(0, 1000, 10):
        assert say(now, now) == []
    scheduler.submit(1000, job("b", 1000, 1700, 8))
    assert say(1000, 1000) == []
    assert say(1120, 1010) == []
    assert scheduler.left_s(1120, 0) > 1000
    steps = 1010
    for now in range(1240, 3000, 120):
        steps += 10
        if say(now, steps):
            break
    assert cluster.log[-1].job == "b"
    # What waits is ordered by it too.
    assert scheduler.left_s(now, 0) > scheduler.left_s(now, 1)
    assert cluster.heard == {}


def test_nothing_runs_on_a_server_that_is_closed_or_inferences():
    for seed in range(10):
        cluster, _ = busy("lyra", seed)
        for server in range(len(cluster.servers)):
            mine = server < 3 or server in cluster.lent
            if cluster.closed.get(server) != "drained" and (server in cluster.closed or not mine):
                assert not cluster.flex_on[server] or server in cluster.closed
        taken = [0] * len(cluster.servers)
        for number, run in cluster.runs.items():
            for server, gpus in run.base:
                taken[server] += gpus
            for server, workers in run.flex.items():
                taken[server] += workers * cluster.jobs[number].gpus_per_worker
        assert taken == [g - f for g, f in zip(cluster.room.gpus, cluster.room.free, strict=True)]


def test_a_job_on_a_lost_server_waits_again_without_what_it_would_have_saved_on_a_warning():
    cluster = Cluster(two_clusters(2, 0), TYPES, Delays(keep_on_stop=True))
    scheduler = Scheduler(cluster, rules_named("sjf"), forecast=persistent)
    scheduler.submit(0, job("a", 0, 100, 8))
    scheduler.submit(0, job("b", 0, 100, 8))
    scheduler.decide(0)
    scheduler.close(50, 0, "lost", empty=True)
    scheduler.decide(50)
    assert cluster.kept[0] == 0
    assert cluster.waiting == {0}
    scheduler.ended(100, 1)
    scheduler.decide(100)
    assert cluster.log[-1].action is Action.START
    assert cluster.log[-1].reason == "again"
    assert cluster.log[-1].servers == ((1, 8),)


def test_a_log_of_another_cluster_is_refused():
    cluster, _ = busy("lyra", 1)
    with pytest.raises(BadInputError):
        Cluster(two_clusters(1, 0), TYPES).replay(cluster.log, {job.id: job for job in cluster.jobs})
