"""Muri's workload for our simulator, and Muri's public simulator as a process of its own.

Of a job of the workload Muri's shortest-remaining-time schedule uses the time of submission, the GPUs, and the
iterations times what one takes (the column of durations is that, rounded). Times are milliseconds. Muri takes every
iteration to be ``ITERATION_FACTOR`` as long; so do we.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from quiltwork.cluster.job import Job
from quiltwork.cluster.speed import linear
from quiltwork.core.errors import NotFoundError, QuiltworkError

VARIABLE, PYTHON = "QUILTWORK_MURI", "QUILTWORK_MURI_PYTHON"
ITERATION_FACTOR = 1.015
NODES, GPUS = 8, 8
GPU_TYPE = "V100"
SPEC = f"num_switch,num_node_p_switch,num_gpu_p_node,num_cpu_p_node,mem_p_node\n1,{NODES},{GPUS},92,520\n"
"""Its cluster n8g8."""
DRIVER = """
import sys, time
sys.path.insert(0, "")
import run_sim
for overheads in run_sim.overhead_dict.values():
    for model in overheads:
        overheads[model] = 0
began = time.perf_counter()
run_sim.main()
print("seconds", time.perf_counter() - began)
"""
"""Nothing of it is changed but the table of start overheads, which is emptied."""


def simulator(environment: Mapping[str, str]) -> Path:
    """Its folder. Raises NotFoundError where the variable names none."""
    named = environment.get(VARIABLE, "")
    for folder in (Path(named), Path(named) / "simulator") if named else ():
        if (folder / "run_sim.py").is_file():
            return folder.resolve()
    raise NotFoundError("no simulator of Muri's to measure against", where=f"{VARIABLE}={named}",
                        hint="set the variable to the folder simulator of Muri's public repository")  # fmt: skip


def identity(folder: Path) -> dict[str, str]:
    """What was run: the first line of its main file, which tells of an excerpt, and a hash of all of them."""
    files = sorted(folder.glob("*.py"))
    digest = hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()
    return {"run_sim.py": (folder / "run_sim.py").read_text().partition("\n")[0], "sha256 of *.py": digest}


def rows(trace: Path) -> list[dict[str, str]]:
    with trace.open(newline="") as file:
        return list(csv.DictReader(file))


def jobs(trace: Path) -> list[Job]:
    """As many workers as GPUs; it takes as long as all its iterations do."""
    found = []
    for row in rows(trace):
        gpus = int(row["num_gpu"])
        seconds = float(row["iterations"]) * float(row["iteration_time"]) * ITERATION_FACTOR / 1000
        work = seconds * gpus
        speed = linear({GPU_TYPE: 1.0}, gpus)
        found.append(
            Job(row["job_id"], float(row["submit_time"]) / 1000, work, speed, w_min=gpus, w_max=gpus, believed=work)
        )
    return found


def completion_times(
    folder: Path, trace: Path, scratch: Path, environment: Mapping[str, str]
) -> tuple[dict[str, float], float]:
    """By its shortest-remaining-time schedule: seconds from submission to the end of each job, and seconds it took.

    Raises QuiltworkError with the last line that it said where it fails.
    """
    spec, log = scratch / "n8g8.csv", scratch / f"muri-{trace.stem}"
    spec.write_text(SPEC)
    asked = [
        f"--cluster_spec={spec}",
        "--scheme=yarn",
        f"--trace_file={trace}",
        "--schedule=shortest",
        f"--log_path={log}",
    ]
    python = environment.get(PYTHON) or sys.executable
    done = subprocess.run([python, "-c", DRIVER, *asked], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise QuiltworkError(f"Muri's simulator failed: {said[-1]}", where=str(folder),
                             hint=f"{PYTHON} names the Python that has numpy and cvxpy")  # fmt: skip
    times = {row["job_id"]: float(row["JCT"]) for row in rows(log / "job.csv")}
    seconds = next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds "))
    return times, seconds
