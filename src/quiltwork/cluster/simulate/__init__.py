"""A cluster under virtual time, run by the policies that a live controller runs by.

``simulate`` gives the decision log of a run; ``metrics`` computes every figure from that log alone.
"""

from quiltwork.cluster.log import Action, Row, digest
from quiltwork.cluster.simulate.metrics import Metrics, metrics
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.cluster.simulate.simulation import Simulation, simulate
from quiltwork.cluster.simulate.workload import jobs_of, two_clusters

__all__ = [
    "Action",
    "Metrics",
    "Row",
    "Settings",
    "Simulation",
    "digest",
    "jobs_of",
    "metrics",
    "simulate",
    "two_clusters",
]
