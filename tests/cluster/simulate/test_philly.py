"""The 15-day trace: figures that an independent simulator found on it, within what ties and placement change."""

import pytest
from philly import CAPABILITY, label, read_need, read_philly

from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.simulate.metrics import metrics
from quiltwork.cluster.simulate.simulation import simulate
from quiltwork.cluster.simulate.workload import jobs_of, two_clusters


def figures(data_dir, policy, count=None):
    trace = read_philly(data_dir, count)
    jobs = jobs_of(trace, label(trace), CAPABILITY, mixing=1.0)
    return metrics(simulate(two_clusters(172, 202), jobs, rules_named(policy), need=read_need(data_dir)))


@pytest.mark.realdata
def test_on_the_first_jobs_elasticity_shortens_and_loaning_harms_nobody(data_dir):
    found = {policy: figures(data_dir, policy, 3000) for policy in ("fifo", "sjf", "elastic", "lyra")}
    assert all(each.jobs == 3000 for each in found.values())
    assert found["sjf"].queue_mean_s <= found["fifo"].queue_mean_s
    assert found["elastic"].jct_mean_s < 0.8 * found["sjf"].jct_mean_s
    assert found["lyra"].loans > 0
    assert found["lyra"].shortfall <= 1e-3


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("policy", "queue_s", "jct_s"), [("fifo", 3082, 14_997), ("sjf", 375, 12_289), ("sjf+loan", 160, 12_575)]
)
def test_the_whole_trace(data_dir, policy, queue_s, jct_s):
    found = figures(data_dir, policy)
    assert found.jobs == 50_390
    assert found.queue_mean_s == pytest.approx(queue_s, rel=0.15)
    assert found.jct_mean_s == pytest.approx(jct_s, rel=0.05)
