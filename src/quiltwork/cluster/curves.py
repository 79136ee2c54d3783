"""Measured speeds: how fast jobs of five models run on so many GPUs of a type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quiltwork.cluster.job_trace import Floats, draw
from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import csv_rows

V100, T4 = "V100", "T4"
CAPABILITY: Mapping[str, float] = {V100: 1.0, T4: 1 / 3}
"""The speed of one worker by GPU type, where nothing was measured."""
Curve = Mapping[str, tuple[float, ...]]
"""By GPU type, what 1, 2, 3 ... workers do together, relative to one V100 worker; more are as good as the last."""
MODELS = ("bert", "cifar10", "deepspeech2", "imagenet", "yolov3")
"""The measured models whose curves stand in for those of a trace's jobs."""
MEASURED = 16
"""Workers up to which they were measured; more are no faster."""
# The machines on which Sia's authors measured a type (their artifact: sia-simulator/traces).
_MACHINES = {V100: "azure", T4: "aws", "A100": "dgx-ext", "RTX2080Ti": "rtx", "RTX6000": "quad"}


def model_of(job_id: str) -> str:
    """The model whose curve stands in for a job's: one of ``MODELS``, the same everywhere."""
    return MODELS[int(draw("curve", job_id) * len(MODELS))]


def read_sia_curves(folder: str | Path, gpu_types: tuple[str, ...] = (V100, T4)) -> dict[str, Curve]:
    """Speed curves of ``MODELS`` from Sia's measurements (SOSP '23): ``MODEL/placements-MACHINE.csv`` in ``folder``.

    A speed is the best throughput measured with so many workers, whatever the batch and the placement; numbers of
    workers between measured ones lie on a line. Raises BadInputError naming the file, the line and the field.
    """
    unknown = [gpu_type for gpu_type in gpu_types if gpu_type not in _MACHINES]
    if unknown:
        known = ", ".join(_MACHINES)
        raise BadInputError(f"{unknown[0]!r} was not measured", where="gpu_types", hint=f"known: {known}")
    return {model: _curve(Path(folder) / model, gpu_types) for model in MODELS}


def _curve(folder: Path, gpu_types: tuple[str, ...]) -> Curve:
    needed = dict.fromkeys((V100, *gpu_types))
    best = {gpu_type: _throughputs(folder / f"placements-{_MACHINES[gpu_type]}.csv") for gpu_type in needed}
    one = best[V100][0]
    return {gpu_type: tuple((best[gpu_type] / one).tolist()) for gpu_type in gpu_types}


def _throughputs(path: Path) -> Floats:
    """The best samples per second with 1 to ``MEASURED`` workers."""
    best: dict[int, float] = {}
    for row, where in csv_rows(path, ("placement", "local_bsz", "step_time")):
        workers = sum(map(int, row["placement"])) if row["placement"].isdecimal() else 0
        if workers == 0:
            raise BadInputError(f"{row['placement'][:40]!r} places no workers", where=f"{where}: placement")
        batch, seconds = (_positive(row[name], f"{where}: {name}") for name in ("local_bsz", "step_time"))
        best[workers] = max(best.get(workers, 0.0), workers * batch / seconds)
    if 1 not in best:
        raise BadInputError("has no measurement of one worker", where=str(path))
    counts = sorted(best)
    return np.interp(np.arange(1, MEASURED + 1), counts, [best[count] for count in counts])


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadInputError(f"{text[:40]!r} is not a positive number", where=where)
    return value
