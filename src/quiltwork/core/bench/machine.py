"""The circumstances of a run: machine, versions, load, commit. Recorded so that figures can be read, never judged."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from quiltwork.core.memory import physical_bytes
from quiltwork.core.servable import Json

_TICKS = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Json]:
    """Processor, cores that this process may use, memory in bytes, system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": physical_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages that Quiltwork or one of its extras asks for."""
    found = {"python": platform.python_version()}
    for name in ["quiltwork", *sorted({_package(text) for text in _requirements()} - {"quiltwork"})]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
    return found


@dataclass(frozen=True)
class Load:
    """How busy the machine was at a moment."""

    average: tuple[float, float, float]
    """Processes that ran or waited to, over 1, 5 and 15 minutes."""
    busy_s: float
    """Processor time spent by anyone since the machine started, in seconds."""


def load() -> Load:
    """The machine's load now."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    # user, nice, system, irq, softirq, steal (proc(5)): everything but idle and waiting for disks.
    busy = sum(fields[i] for i in (0, 1, 2, 5, 6, 7) if i < len(fields))
    return Load(os.getloadavg(), busy / _TICKS)


def load_between(before: Load, after: Load, *, own_s: float, wall_s: float) -> dict[str, Json]:
    """What to record of the load during a run that itself took ``own_s`` of processor time in ``wall_s``.

    ``others_cores`` is how many cores were busy with something else, on average.
    """
    others = max(after.busy_s - before.busy_s - own_s, 0.0)
    return {
        "average_before": [round(x, 2) for x in before.average],
        "average_after": [round(x, 2) for x in after.average],
        "others_cores": round(others / wall_s, 3) if wall_s > 0 else 0.0,
    }


def commit(project: Path) -> dict[str, Json]:
    """The commit of the project's folder and whether code or benchmarks differ from it; nulls outside of git."""
    head = _git(project, "rev-parse", "HEAD")
    if head is None:
        return {"commit": None, "dirty": None}
    changed = _git(project, "status", "--porcelain", "--", ".", ":!benchmarks/records", ":!docs", ":!*.md")
    return {"commit": head, "dirty": None if changed is None else bool(changed)}


def _git(project: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _requirements() -> list[str]:
    try:
        return requires("quiltwork") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        return []


def _package(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match[0] if match else requirement
