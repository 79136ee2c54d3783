"""Do the runs that the studies' figures come from, one at a time; stop it whenever you like, and start it again.

    python -m work.moe_runs [--until choose|rates|seeds] [--wait-while FILE]

(In benchmarks; needs $QUILTWORK_DATA and $QUILTWORK_BENCH_WORK.) First the gate is chosen on SST-5 and written down,
then each arm's rate on each task, then come the seeds. What is kept is not run again.

    python -m work.moe_runs --list          # what is kept
    python -m work.moe_runs --same          # hold today's sources against those of the kept runs, and go on with them

``--same`` does the first steps of a run of each task and gate again. Where all losses are the kept ones (to three parts
in a thousand), kept runs count as runs of today's sources.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.core.errors import BadInputError, QuiltworkError
from work.moe_arms import SST5, TASKS, Run
from work.moe_kept import FINISHED, KEEP, digest_of_sources, work_folder
from work.moe_sweep import SAME, all_runs, chosen, judged_gates, kept_in, performer, sources

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

CLOSE = 3e-3
"""Sums in another order move a token across a threshold here and there, and losses apart from then on."""


def main(arguments: list[str]) -> None:
    """See above."""
    parser = argparse.ArgumentParser(prog="work.moe_runs")
    parser.add_argument("--until", choices=("choose", "rates", "seeds"), default="seeds")
    parser.add_argument("--wait-while", type=Path, help="wait between two runs while this file is there")
    parser.add_argument("--list", action="store_true", help="say what is kept")
    parser.add_argument("--same", action="store_true", help="whether today's sources do the same")
    told = parser.parse_args(arguments)
    if not os.environ.get(KEEP) or not os.environ.get("QUILTWORK_DATA"):
        raise BadInputError("is not set", where=f"${KEEP} or $QUILTWORK_DATA")
    root, data = work_folder(Path()), Path(os.environ["QUILTWORK_DATA"])
    if told.list:
        for line in listed(root):
            print(line)
        return
    if told.same:
        print(json.dumps(same_as_kept(root, data)))
        return

    def wait() -> None:
        while told.wait_while is not None and told.wait_while.exists():
            time.sleep(5)

    perform = performer(kept_in(root), data, say, wait)
    if told.until == "choose":
        judged_gates(perform)
        return
    choices = chosen(perform, root)
    if told.until == "seeds":
        all_runs(choices, perform)


def say(text: str) -> None:
    """With the time."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def finished(root: Path) -> list[Mapping[str, Any]]:
    """What is kept of the studies, of whatever sources: the folder may hold other benchmarks' runs too."""
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(root.glob(f"*/{FINISHED}"))]
    return [run for run in kept if "settings" in run["settings"]]


def listed(root: Path) -> list[str]:
    """A line for each run, and one for all."""
    lines, total = [], 0.0
    for run in finished(root):
        told, losses = run["settings"], run["curve"]["losses"]
        total += run["cpu_s"][-1]
        lines.append(
            f"{told['task']} {told['arm']} seed {told['seed']}{' (tuning)' if told['tuning'] else ''} "
            f"rate {told['settings']['rate']:g}: least loss {min(losses):.4f}, test {run['tests']}, "
            f"{run['cpu_s'][-1]:.0f} CPU-s, load {run['load']:.1f}"
        )
    return [*lines, f"{len(lines)} runs, {total / 3600:.2f} CPU-hours of training"]


def same_as_kept(root: Path, data: Path) -> dict[str, Json]:
    """Raises QuiltworkError naming the first run that goes otherwise; else notes down that all are as before."""
    from work.moe_run import FIRST, begun

    tasks = {task.name: task for task in (*TASKS, SST5)}
    today, checked = digest_of_sources(sources()), dict[tuple[str, str], float]()
    runs = [run for run in finished(root) if "matched" not in run["settings"]]
    digests = {run["sources"] for run in runs}
    if len(digests) != 1:
        raise QuiltworkError(f"runs of {len(digests)} sources are kept", where=str(root))
    for found in runs:
        told = found["settings"]
        if (told["task"], told["arm"]) in checked:
            continue
        task, settings = tasks[told["task"]], told["settings"]
        gate = {name: value for name, value in settings.items() if name not in ("gate", "rate", "steps")}
        run = replace(Run(task, told["arm"], told["seed"], settings["rate"], settings["steps"]), gate=gate)
        training = begun(run, data, root / "again", validates=False)
        worst = 0.0
        for kept in found["first_losses"][:FIRST]:
            loss = training.step().metrics["loss"]
            worst = max(worst, abs(loss / kept - 1))
        if not worst <= CLOSE or not math.isfinite(worst):
            raise QuiltworkError(f"its losses are {worst:.2%} apart", where=f"{told['task']} {told['arm']}")
        checked[told["task"], told["arm"]] = worst
    path = root / SAME
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**before, today: digests.pop()}, indent=1), encoding="utf-8")
    return {f"{task} {arm}": worst for (task, arm), worst in checked.items()}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except QuiltworkError as error:
        sys.exit(str(error))
