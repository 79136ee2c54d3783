"""Reading traces of training jobs: CSV in a layout known here, any CSV through ``Columns``, or Slurm's ``sacct``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quiltwork.cluster.demand import Demand, read_demand
from quiltwork.cluster.job_trace import JobTrace, TraceJob, draw
from quiltwork.cluster.sacct import read_sacct
from quiltwork.cluster.trace_rows import DRAWS, Columns, TraceRows
from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import csv_blocks, csv_header

__all__ = ["Columns", "Demand", "JobTrace", "TraceJob", "draw", "read_demand", "read_jobs"]

_HOUSE = Columns(team="vc")
_BARE = Columns()
_MURI = Columns(submit="submit_time", gpus="num_gpu", duration="duration", unit="ms")
_TIRESIAS = replace(_MURI, unit="s")
# Muri's and Tiresias's files name the same columns in other units: only Muri's tell how long an iteration takes.
_LAYOUTS = (
    (_HOUSE, ()),
    (_BARE, ()),
    (_MURI, ("iteration_time",)),
    (_TIRESIAS, ("iterations", "model_name")),
)


def read_jobs(path: str | Path, columns: Columns | None = None) -> JobTrace:
    """The jobs of a trace, ``.csv`` or ``.csv.gz``, in the order of their submission.

    columns : which columns say what. Without it the layout is told from the header: this project's own
    (``job_id, submit_s, num_gpus, duration_s``, perhaps ``vc`` and draws ``u_*``), Muri's (milliseconds), Tiresias's,
    or Slurm's ``sacct --parsable2``.

    Jobs that ran for no time are left out, and rows out of order are sorted; ``notes`` says so. Times that are dates
    are counted from the first. Raises BadInputError naming the file, the line and the field.
    """
    where = Path(path)
    if columns is None:
        piped = csv_header(where, delimiter="|")
        if len(piped) > 1:
            return read_sacct(where, piped)
        columns = _layout(where)
    header = csv_header(where)
    draws = tuple(name for name in DRAWS if name in header)
    built = TraceRows(where)
    for block in csv_blocks(where, (*columns.needed, *draws)):
        built.add_block(block, columns, draws)
    return built.trace()


def _layout(path: Path) -> Columns:
    header = csv_header(path)
    for columns, more in _LAYOUTS:
        if {*columns.needed, *more} <= set(header):
            return columns
    missing = [name for name in _BARE.needed if name not in header]
    hint = "or say which columns mean what: id=...,submit=...,gpus=...,duration=...,team=...,unit=s|ms"
    raise BadInputError(f"has no column {missing[0]!r}", where=f"{path}: line 1", hint=hint)
