"""Running a benchmark under recorded circumstances."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from quiltwork.core.bench.claim import Outcome
from quiltwork.core.bench.context import Context
from quiltwork.core.bench.discover import Benchmark
from quiltwork.core.bench.machine import commit, load, load_between, machine, versions
from quiltwork.core.bench.process import tree_cpu_seconds
from quiltwork.core.bench.record import Record
from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.progress import Say, ignore
from quiltwork.core.registry import missing_package
from quiltwork.core.servable import Json


def measure(
    benchmark: Benchmark,
    *,
    quick: bool,
    seed: int,
    data: Path | None,
    command: str,
    progress: Say = ignore,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[Record, ...]:
    """Run a benchmark and return a record for each of its claims, in the order of their declaration.

    Records are not written. Raises QuiltworkError where the benchmark cannot run or settles other claims than it
    declares.
    """
    started, before = now(), load()
    wall, cpu = time.perf_counter(), tree_cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="quiltwork-bench-") as scratch:
        context = Context(quick=quick, seed=seed, scratch=Path(scratch), data=data, progress=progress)
        try:
            outcomes = benchmark.run(context)
        except ModuleNotFoundError as error:
            raise missing_package(error, where=str(benchmark.path)) from error
        except BadInputError as error:
            # What it was given is fine; that it handed on something wrong is a failure of the benchmark.
            raise QuiltworkError(str(error), where=str(benchmark.path)) from error
    wall, cpu = time.perf_counter() - wall, tree_cpu_seconds() - cpu
    _check_settled(benchmark, outcomes)
    circumstances: dict[str, Json] = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(wall, 1),
        "machine": machine(),
        "versions": versions(),
        "load": load_between(before, load(), own_s=cpu, wall_s=wall),
        "git": commit(benchmark.path.parent.parent),
    }
    return tuple(
        Record(claim, replace(outcomes[claim.name]), quick=quick, seed=seed, command=command, **circumstances)
        for claim in benchmark.claims
    )


def _check_settled(benchmark: Benchmark, outcomes: Mapping[str, Outcome]) -> None:
    declared = {claim.name for claim in benchmark.claims}
    if set(outcomes) != declared:
        wrong = ", ".join(sorted(declared ^ set(outcomes)))
        raise QuiltworkError(f"run() settles other claims than CLAIMS declares: {wrong}", where=str(benchmark.path))
