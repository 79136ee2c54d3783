"""All runs in their order: first what is chosen by, then what is reported. What is kept is not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.errors import NotFoundError
from quiltwork.core.progress import Say
from work.moe_arms import ADAPTIVE, SEEDS, SST5, TASKS, TOP2, Run, Task, choice_runs, seed_runs, tuning_runs
from work.moe_choices import Gate, Judged, best_rate, frozen, judge_gates
from work.moe_found import Found, found_of
from work.moe_kept import Kept, digest_of_sources, training_sources
from work.moe_times import Runs

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

Perform = Callable[[Run], Found]
SAME = "same.json"
"""In the folder of runs: digests of sources by those that were found to do the same."""
CHOSEN = "chosen.json"
"""Beside it, what was chosen: with its digest, as ``moe_choices.json`` has it."""


def sources() -> list[Path]:
    """The files that decide how a run goes, this benchmark's own among them."""
    return [*training_sources(), Path(__file__).with_name("moe_run.py")]


def kept_in(root: Path, digest: str | None = None) -> Kept:
    """Finished runs of today's sources, or of those that do the same."""
    today = digest or digest_of_sources(sources())
    same = json.loads((root / SAME).read_text(encoding="utf-8")) if (root / SAME).is_file() else {}
    return Kept(root, same.get(today, today))


@cache
def _digest_of_file(path: Path) -> str:
    if not path.is_file():
        raise NotFoundError("is not there", where=str(path), hint="set QUILTWORK_DATA to the folder of real data")
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def told_of(run: Run, data: Path) -> dict[str, Json]:
    """What decides how a run goes, with digests of its data."""
    files = [data / "moe" / name for names in run.task.files.values() for name in names]
    return {**run.told(), "data": [_digest_of_file(path) for path in files]}


def performer(kept: Kept, data: Path, say: Say, before: Callable[[], None] = lambda: None) -> Perform:
    """What gives what a run found: what is kept of it, or else it is run. before : called before each such run."""

    def perform(run: Run) -> Found:
        from work.moe_run import train

        told = told_of(run, data)
        found = kept.read(told)
        if found is None:
            matched = perform(run.matched).by_layer if run.matched is not None else ()
            before()
            name = f"{run.task.name} {run.arm} seed {run.seed} rate {run.rate:g} {dict(run.gate)}"
            say(f"{name}: {run.steps} steps")
            done = train(run, data, kept.folder(told), matched, say=lambda text: say(f"{name}: {text}"))
            kept.write(told, done)
            found = kept.read(told)
            assert found is not None
        return found_of(found)

    return perform


def rates_of(task: Task, gate: Mapping[str, Json], perform: Perform) -> dict[str, float]:
    """The best rate of each arm."""
    found: dict[str, dict[float, Found]] = {arm: {} for arm in task.arms}
    for run in tuning_runs(task, gate):
        found[run.arm][run.rate] = perform(run)
    return {arm: best_rate(by_rate) for arm, by_rate in found.items()}


PAPER: dict[str, Json] = {"reading": "softmax", "threshold": 0.1}
"""The gate with which the rate for SST-5 is looked for."""


def judged_gates(perform: Perform) -> list[Judged]:
    """The gates on SST-5, the best first."""
    rates = rates_of(SST5, PAPER, perform)
    top2: list[Found] = []
    by_gate: dict[Gate, list[Found]] = {}
    for run in choice_runs(rates):
        if run.arm == TOP2:
            top2.append(perform(run))
        else:
            assert run.arm == ADAPTIVE
            gate = str(run.gate["reading"]), float(str(run.gate["threshold"]))
            by_gate.setdefault(gate, []).append(perform(run))
    return judge_gates(top2, by_gate)


def chosen(perform: Perform, root: Path) -> dict[str, Json]:
    """The gate by SST-5, then each arm's rate on each task; written down as soon as it is known, and not again."""
    told: dict[str, Json] = {}
    path = root / CHOSEN
    if path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
    if "gate" not in told:
        judged = judged_gates(perform)
        reading, threshold = judged[0].gate
        told["gate"] = frozen({"reading": reading, "threshold": threshold})
        told["judged on SST-5"] = [
            {"reading": one.gate[0], "threshold": one.gate[1], "work": round(one.work, 4), "censored": one.censored,
             "least loss": round(one.least, 4)} for one in judged
        ]  # fmt: skip
        _write(path, told)
    if "rates" not in told:
        gate = gate_of(told)
        told["rates"] = {task.name: rates_of(task, gate, perform) for task in TASKS}
        _write(path, told)
    return told


def gate_of(told: Mapping[str, Json]) -> dict[str, Json]:
    """The adaptive gate's settings of what was chosen."""
    gate = told["gate"]
    assert isinstance(gate, dict)
    return {"reading": gate["reading"], "threshold": gate["threshold"]}


def all_runs(
    told: Mapping[str, Json], perform: Perform, tasks: Sequence[Task] = TASKS, seeds: Sequence[int] = SEEDS
) -> dict[str, Runs]:
    """Everything that is reported, by task, by arm, by seed."""
    found: dict[str, dict[str, dict[int, Found]]] = {}
    rates = told["rates"]
    assert isinstance(rates, dict)
    for run in seed_runs(rates, gate_of(told), tasks, seeds):
        found.setdefault(run.task.name, {}).setdefault(run.arm, {})[run.seed] = perform(run)
    return dict(found)


def unchosen(tasks: Sequence[Task]) -> dict[str, Json]:
    """The paper's gate, and the middle of the rates: for a quick look."""
    middle: dict[str, Json] = {task.name: dict.fromkeys(task.arms, task.rates[len(task.rates) // 2]) for task in tasks}
    return {"gate": frozen(PAPER), "rates": middle}


def _write(path: Path, told: Mapping[str, Json]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(json.dumps(frozen(told), indent=1), encoding="utf-8")
    os.replace(fresh, path)
