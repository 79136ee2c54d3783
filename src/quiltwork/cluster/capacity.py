"""What servers can hold at all, whatever runs on them: a job that they never can is refused when it comes."""

from __future__ import annotations

from quiltwork.cluster.job import Job, Shape
from quiltwork.cluster.policy.placing import place_gang
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.policy.tiers import Tiers
from quiltwork.cluster.server import Pool
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import BadInputError


class Capacity:
    """Raises BadInputError where training has no server.

    ``reference`` : the GPU type by which running times are told: training's fastest.
    """

    def __init__(self, cluster: Cluster, rules: Rules, tiers: Tiers) -> None:
        training = {cluster.type_of[i] for i, s in enumerate(cluster.servers) if s.pool is Pool.TRAIN}
        if not training:
            raise BadInputError("training has no server", where="servers")
        self.reference = cluster.types[min(training)]
        self._rules, self._tiers = rules, tiers
        self._types = frozenset(cluster.types[t] for t in training)
        self._types_lent = self._types | {cluster.servers[i].gpu_type for i in cluster.inference}
        self._empty = Room(cluster.servers)
        self._fits: dict[Shape, bool] = {}

    def check(self, job: Job) -> None:
        """Raises BadInputError for a job that training's servers can never hold, or that has no speed on them."""
        where = f"job {job.id}"
        shape = job.shape
        if shape not in self._fits:
            training = shape._replace(fungible=False)
            self._fits[shape] = place_gang(self._empty, training, self._tiers.base(training)) is not None
        if not self._fits[shape]:
            raise BadInputError(f"{job.w_min} workers of {job.gpus_per_worker} GPUs are more than training's "
                                "servers hold", where=where)  # fmt: skip
        types = self._types_lent if job.fungible and self._rules.loaning else self._types
        if missing := types - job.speed.curves.keys():
            raise BadInputError(f"no speed on {min(missing)}", where=where)
