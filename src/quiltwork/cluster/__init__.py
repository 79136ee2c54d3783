"""Training jobs on shared servers: idle inference servers are lent, elastic jobs grow and shrink.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.cluster.curves import CAPABILITY, read_sia_curves
    from quiltwork.cluster.demand import Demand, read_demand
    from quiltwork.cluster.job import Job
    from quiltwork.cluster.job_trace import JobTrace, TraceJob
    from quiltwork.cluster.labels import LabelRules, Labels, label
    from quiltwork.cluster.policy.rules import POLICIES, Rules, rules_named
    from quiltwork.cluster.server import Pool, Server
    from quiltwork.cluster.spec import JobSpec, parse_spec, read_spec
    from quiltwork.cluster.speed import Speed, linear
    from quiltwork.cluster.study import Arm, Comparison, Fleet, Outcome, Sizing, Study, arm_of, compare, whatif
    from quiltwork.cluster.traces import Columns, read_jobs

_MODULES = {
    "curves": ("CAPABILITY", "read_sia_curves"),
    "demand": ("Demand", "read_demand"),
    "job": ("Job",),
    "job_trace": ("JobTrace", "TraceJob"),
    "labels": ("LabelRules", "Labels", "label"),
    "policy.rules": ("POLICIES", "Rules", "rules_named"),
    "server": ("Pool", "Server"),
    "spec": ("JobSpec", "parse_spec", "read_spec"),
    "speed": ("Speed", "linear"),
    "study": ("Arm", "Comparison", "Fleet", "Outcome", "Sizing", "Study", "arm_of", "compare", "whatif"),
    "traces": ("Columns", "read_jobs"),
}

__all__ = [
    "CAPABILITY",
    "POLICIES",
    "Arm",
    "Columns",
    "Comparison",
    "Demand",
    "Fleet",
    "Job",
    "JobSpec",
    "JobTrace",
    "LabelRules",
    "Labels",
    "Outcome",
    "Pool",
    "Rules",
    "Server",
    "Sizing",
    "Speed",
    "Study",
    "TraceJob",
    "arm_of",
    "compare",
    "label",
    "linear",
    "parse_spec",
    "read_demand",
    "read_jobs",
    "read_sia_curves",
    "read_spec",
    "rules_named",
    "whatif",
]

__getattr__, __dir__ = face(__name__, _MODULES)
