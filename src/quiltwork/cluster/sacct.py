"""Jobs of a Slurm cluster, from what ``sacct --parsable2`` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quiltwork.cluster.job_trace import JobTrace
from quiltwork.cluster.trace_rows import MOST_GPUS, TraceRows, date
from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import Block, csv_blocks

_TRES = re.compile(r"gres/gpu(:[^=,]+)?=([0-9]+)", re.ASCII)
_ELAPSED = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)", re.ASCII)
_NEVER = frozenset({"", "None", "Unknown", "N/A"})


def read_sacct(path: Path, header: Sequence[str]) -> JobTrace:
    """The finished GPU jobs of ``sacct --parsable2 --format=JobID,Submit,Start,End,Elapsed,AllocTRES,...``."""
    tres = [name for name in ("AllocTRES", "ReqTRES") if name in header]
    spent = ["Elapsed"] if "Elapsed" in header else ["Start", "End"]
    missing = [name for name in ("JobID", "Submit", *spent) if name not in header] + ([] if tres else ["AllocTRES"])
    if missing:
        hint = "sacct --parsable2 --allusers --format=JobID,Account,Submit,Start,End,Elapsed,AllocTRES"
        raise BadInputError(f"has no column {missing[0]!r}", where=f"{path}: line 1", hint=hint)
    team = next((name for name in ("Account", "User", "Partition") if name in header), None)
    extra = [name for name in ("Start", "End") if name in header and name not in spent]
    built = TraceRows(path)
    for block in csv_blocks(path, ("JobID", "Submit", *spent, *tres, *extra, *filter(None, [team])), delimiter="|"):
        _add_sacct(built, block, path, tres, team)
    return built.trace()


def _add_sacct(built: TraceRows, block: Block, path: Path, tres: Sequence[str], team: str | None) -> None:
    kept: list[tuple[str, str, int, float, str, int]] = []
    for index, number in enumerate(block.numbers):
        row = {name: values[index].strip() for name, values in block.columns.items()}
        gpus = next((count for name in tres if (count := _gpus_of(row[name]))), 0)
        if "." in row["JobID"]:
            built.left_out["job steps"] += 1
        elif row.get("Start", "-") in _NEVER or row["Submit"] in _NEVER:
            built.left_out["jobs that never started"] += 1
        elif row.get("End", "-") in _NEVER:
            built.left_out["jobs that had not ended"] += 1
        elif gpus == 0:
            built.left_out["jobs without whole GPUs"] += 1
        elif gpus > MOST_GPUS:
            raise BadInputError(f"asks for {gpus:,} GPUs", where=f"{path}: line {number}: {tres[0]}")
        else:
            length = _elapsed(row, f"{path}: line {number}")
            kept.append((row["JobID"], row["Submit"], gpus, length, row[team] if team else "", number))
    if not kept:
        return
    ids, submit, counts, lengths, teams, numbers = zip(*kept, strict=True)
    # SLURM_TIME_FORMAT=%s prints seconds since 1970.
    times = np.array(submit, dtype=float) if all(map(str.isdecimal, submit)) else built.dates(submit, numbers, "Submit")
    built.add(ids, times, np.array(counts, dtype=float), np.array(lengths), teams, numbers, "JobID")


def _gpus_of(tres: str) -> int:
    """``billing=8,gres/gpu=4,gres/gpu:a100=4``: the whole count, or the sum over types where only those are told."""
    counts = _TRES.findall(tres)
    whole = [int(count) for kind, count in counts if not kind]
    return whole[0] if whole else sum(int(count) for _, count in counts)


def _elapsed(row: Mapping[str, str], where: str) -> float:
    if "Elapsed" not in row:
        length = date(row["End"], f"{where}: End") - date(row["Start"], f"{where}: Start")
        if length < 0:
            raise BadInputError(f"ends {-length:g} s before it starts", where=f"{where}: End")
        return length
    match = _ELAPSED.fullmatch(row["Elapsed"])
    if match is None:
        raise BadInputError(f"{row['Elapsed'][:40]!r} is not a length of time", where=f"{where}: Elapsed")
    days, hours, minutes, seconds = match.groups(default="0")
    return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
