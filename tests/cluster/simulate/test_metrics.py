import pytest
from small_clusters import job, run

from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.simulate.metrics import lives, metrics, shortfall
from quiltwork.core.errors import BadInputError

DAY = 86_400.0


def test_queue_completion_and_usage_of_two_jobs():
    found = metrics(run([job("a", 0, 100, 8), job("b", 50, 100, 4)], "fifo"), days=150 / DAY)
    assert (found.jobs, found.seconds) == (2, 200)
    assert (found.queue_mean_s, found.jct_mean_s) == (25, 125)
    assert found.slowdown_max == 1.5
    # 8 GPUs for 100 s and 4 for 50, of 8 for 150.
    assert found.usage_train == pytest.approx(1000 / 1200)
    assert found.useful_worker_s == 1200
    assert found.goodput == pytest.approx(1200 / 1600)


def test_what_was_lost_is_not_useful():
    log = run([job("long", 0, 1000, 8), job("short", 100, 50, 8)], "srtf")
    found = metrics(log)
    assert (found.preemptions, found.preempted_jobs, found.lost_worker_s) == (1, 1, 800)
    assert found.useful_worker_s == 8400
    assert (found.queue_mean_s, found.wait_mean_s) == (0, 25)


def test_work_that_is_thrown_away_raises_usage_and_not_goodput():
    jobs = [job("long", 0, 1000, 8), job("short", 100, 50, 4), job("last", 1100, 900, 4)]
    calm, busy = (metrics(run(jobs, policy), days=1200 / DAY) for policy in ("fifo", "srtf"))
    assert busy.lost_worker_s > 0
    assert busy.usage_train > calm.usage_train
    assert busy.useful_worker_s == calm.useful_worker_s == sum(each.work for each in jobs)
    assert busy.goodput < calm.goodput


def test_usage_counts_lent_servers_where_it_says_so():
    log = run([job("own", 0, 900, 8), job("f", 0, 300, 8, fungible=True)], "fifo+loan", infer=2, need=[0.5],
              headroom=0.0, hysteresis=0.0, min_lease_s=0.0)  # fmt: skip
    found = metrics(log)
    assert found.seconds == 900
    assert found.usage_train == pytest.approx(1.0)
    assert found.usage_whitelist == pytest.approx(1.0)
    # 8 own, 8 lent and 8 needed by inference, of 24.
    assert found.usage_all == pytest.approx(1.0)


def row(time, action, **fields):
    return Row(time, action, **fields)


def test_need_that_servers_on_loan_leave_unmet():
    servers = [row(0.0, Action.SERVER, servers=((i, 0),), after=8, reason="infer") for i in range(4)]
    loans = [row(0.0, Action.LOAN, servers=((i, 0),)) for i in range(2)]
    log = [
        *servers,
        *loans,
        row(0.0, Action.NEED, cost=1.0, gain=3.0),
        row(300.0, Action.RETURN, servers=((0, 0),)),
        row(300.0, Action.NEED, cost=3.0, gain=3.0),
        row(600.0, Action.NEED, cost=3.0, gain=3.0),
    ]
    # The need passes the two that are there after 150 s, and is one above them after 300.
    assert shortfall(log) == pytest.approx(75 / (600 + 900))
    assert shortfall(servers) == 0


def test_a_log_that_ends_too_early_is_no_result():
    log = [line for line in run([job("a", 0, 100)], "fifo") if line.action is not Action.END]
    with pytest.raises(BadInputError, match="job a: the log ends before the job does"):
        lives(log)
