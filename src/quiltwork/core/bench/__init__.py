"""Measuring what the project claims: baseline and ours in one run, a ratio with its spread, a record.

A benchmark is a file in ``benchmarks/`` with ``CLAIMS``, a sequence of Claim, and ``run(context)``, which returns an
Outcome for each of them by name.
"""

from quiltwork.core.bench.claim import Claim, Outcome, Reach, Verdict, at_least, at_most, judge
from quiltwork.core.bench.context import Context, Sample
from quiltwork.core.bench.discover import Benchmark, benchmark_of, discover, find_folder
from quiltwork.core.bench.measure import measure
from quiltwork.core.bench.process import Peak, peak_pss, tree_cpu_seconds, tree_pss_bytes
from quiltwork.core.bench.record import Record, read, write
from quiltwork.core.bench.standing import Standing, standings
from quiltwork.core.bench.statistics import Interval, ratio_of_medians

__all__ = [
    "Benchmark",
    "Claim",
    "Context",
    "Interval",
    "Outcome",
    "Peak",
    "Reach",
    "Record",
    "Sample",
    "Standing",
    "Verdict",
    "at_least",
    "at_most",
    "benchmark_of",
    "discover",
    "find_folder",
    "judge",
    "measure",
    "peak_pss",
    "ratio_of_medians",
    "read",
    "standings",
    "tree_cpu_seconds",
    "tree_pss_bytes",
    "write",
]
