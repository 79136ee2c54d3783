"""The 15-day trace: figures that an independent simulator found on it, within what ties and placement change."""

import pytest

from quiltwork.cluster.curves import CAPABILITY
from quiltwork.cluster.demand import read_demand
from quiltwork.cluster.labels import label
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.simulate.metrics import metrics
from quiltwork.cluster.simulate.simulation import simulate
from quiltwork.cluster.simulate.workload import jobs_of, two_clusters
from quiltwork.cluster.traces import read_jobs


@pytest.fixture(scope="module")
def need(data_dir):
    demand = read_demand(data_dir / "cluster/inference/inference_demand_5min_15d.csv.gz", "m-small")
    assert (len(demand), demand.step_s) == (4320, 300)
    return demand.share.tolist()


@pytest.fixture(scope="module")
def trace(data_dir):
    return read_jobs(data_dir / "cluster/jobs/trace15d_50390.csv.gz")


def figures(trace, need, policy):
    jobs = jobs_of(trace, label(trace), CAPABILITY, mixing=1.0)
    return metrics(simulate(two_clusters(172, 202), jobs, rules_named(policy), need=need))


@pytest.mark.slow
@pytest.mark.realdata
def test_on_the_first_jobs_elasticity_shortens_and_loaning_harms_nobody(trace, need):
    found = {policy: figures(trace[:3000], need, policy) for policy in ("fifo", "sjf", "elastic", "lyra")}
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
def test_the_whole_trace(trace, need, policy, queue_s, jct_s):
    found = figures(trace, need, policy)
    assert found.jobs == 50_390
    assert found.queue_mean_s == pytest.approx(queue_s, rel=0.15)
    assert found.jct_mean_s == pytest.approx(jct_s, rel=0.05)
