"""What a benchmark is handed: nothing it uses comes from anywhere else."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.bench.process import tree_cpu_seconds
from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say, ignore


@dataclass(frozen=True)
class Sample:
    """What one call cost."""

    cpu_s: float
    """User and system time of the whole process tree, in seconds."""
    wall_s: float


@dataclass(frozen=True)
class Context:
    """The conditions of one run.

    Parameters
    ----------
    quick : whether to do the same comparison on less work.
    seed : where all randomness comes from.
    scratch : an empty folder, removed after the run.
    data : the folder of real data, or None where it is not on this machine.
    progress : told what is being done.
    clock, cpu : wall and processor time in seconds.
    """

    quick: bool
    seed: int
    scratch: Path
    data: Path | None = None
    progress: Say = ignore
    clock: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = tree_cpu_seconds

    def interleave(
        self, arms: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1
    ) -> dict[str, list[Sample]]:
        """Call the arms in turn, A B A B, ``warmup`` rounds unmeasured and then ``repeats`` rounds measured.

        What drifts on the machine meanwhile then meets all arms alike. Returns the samples of each arm in order.
        """
        if not arms or repeats < 1 or warmup < 0:
            raise BadInputError(f"{len(arms)} arms, {repeats} repeats, {warmup} for warm-up", where="interleave")
        samples: dict[str, list[Sample]] = {name: [] for name in arms}
        for turn in range(-warmup, repeats):
            self.progress(f"round {turn + 1} of {repeats}" if turn >= 0 else "warm-up")
            for name, run in arms.items():
                gc.collect()  # one arm's garbage is not the next one's cost
                sample = self._measure(run)
                if turn >= 0:
                    samples[name].append(sample)
        return samples

    def _measure(self, run: Callable[[], object]) -> Sample:
        cpu, wall = self.cpu(), self.clock()
        run()
        wall = self.clock() - wall
        return Sample(self.cpu() - cpu, wall)
