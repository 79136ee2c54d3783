"""Questions about a cluster, answered by simulating it: policies beside each other, and how many servers it takes.

``compare`` and ``whatif`` are what ``quiltwork cluster simulate`` and ``quiltwork cluster whatif`` do.
"""

from quiltwork.cluster.study.arms import Arm, arm_of, arms_of
from quiltwork.cluster.study.comparison import Comparison, Outcome, compare
from quiltwork.cluster.study.figures import duration, lines_of
from quiltwork.cluster.study.fleet import Fleet, types_of
from quiltwork.cluster.study.results import check_writable
from quiltwork.cluster.study.sizing import Sizing, whatif
from quiltwork.cluster.study.study import Study

__all__ = [
    "Arm",
    "Comparison",
    "Fleet",
    "Outcome",
    "Sizing",
    "Study",
    "arm_of",
    "arms_of",
    "check_writable",
    "compare",
    "duration",
    "lines_of",
    "types_of",
    "whatif",
]
