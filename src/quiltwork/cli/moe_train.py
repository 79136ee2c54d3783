"""``quiltwork moe train``: a small model of experts, on this machine, stopped and gone on with at will."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from quiltwork.cli.named_settings import read_settings, words_of
from quiltwork.cli.output import emit, table, training_progress
from quiltwork.cli.train import asked_to_stop, stopped_early
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

_Files = typer.Option("--corpus", help="What to learn from; twice for a source and its translation. Plain or .gz.")


def train(
    task: Annotated[str, typer.Option(help="lm: running text. classify: texts and labels. translate: pairs.")],
    corpus: Annotated[list[Path], _Files],
    out: Annotated[Path, typer.Option(help="The folder of the finished model.")],
    steps: Annotated[int, typer.Option(min=1, help="In all.")],
    gate: Annotated[str, typer.Option(help="adaptive, top1, top2, dense ...: a wrong name tells what there is.")] = (
        "adaptive"
    ),
    valid: Annotated[
        list[Path] | None, typer.Option("--valid", help="As --corpus, to validate on; else a share of it.")
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option("--test", help="As --corpus, to test on; else a share of it.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of any other setting, as in threshold=0.2; repeatable. See the docs."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Where its state is kept, and taken from if it is there; beside OUT if not given."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a model of experts, and go on where it was stopped. Ctrl-C stops after the step under way. Exits with 1
    then."""
    from quiltwork.core.checkpoint import CheckpointFile
    from quiltwork.core.run_training import run_training
    from quiltwork.core.trainable import Setup, StepReport
    from quiltwork.moe import moe_trainable

    config: dict[str, Json] = {"task": task, "corpus": [str(path) for path in corpus], "out": str(out), "steps": steps}
    config |= {name: [str(path) for path in given] for name, given in (("valid", valid), ("test", test)) if given}
    config |= {"gate": gate, **read_settings(setting or [])}
    place = CheckpointFile(checkpoint or _beside(out))
    made = moe_trainable()
    with training_progress() as progress:
        bar = progress.add_task("reading the corpus", total=None)
        made.setup(Setup(config, seed, device))

        def tell(report: StepReport) -> None:
            said = ", ".join(
                f"{called} {report.metrics[name]:.3f}"
                for called, name in (("loss", "loss"), ("experts", "experts_per_token"), ("validation", "valid_loss"))
                if name in report.metrics
            )
            progress.update(bar, description=escape(f"{gate}: {said}"), completed=report.done, total=report.total)

        with asked_to_stop() as stop:
            ran = run_training(made, place, every=every, stop=stop, tell=tell)
    told = json_text.loads((out / "training.json").read_text(encoding="utf-8")) if ran.finished else {}
    document: dict[str, Json] = {
        "task": task,
        "gate": gate,
        "out": str(out) if ran.finished else None,
        "done": None if ran.report is None else ran.report.done,
        "total": None if ran.report is None else ran.report.total,
        "finished": ran.finished,
        "resumed": ran.resumed,
        "checkpoint": str(place.path),
        "metrics": dict(ran.report.metrics) if ran.report else {},
        "test": told.get("test"),
        "expert_share_of_flops": made.expert_share(),
    }
    shown = table("figure", "value", numbers=("value",), title=f"{task}, {gate}")
    for name, value in [*document["metrics"].items(), *((f"test: {a}", b) for a, b in told.get("test", {}).items())]:
        shown.add_row(name.replace("_", " "), f"{value:.4g}")
    most = made.settings.most
    shown.add_row(f"experts' share of FLOPs, {most} for each token", f"{made.expert_share():.1%}")
    if ran.finished:
        shown.caption = f"written to {out}"
    emit(document, json, shown)
    if not ran.finished:
        stopped_early(ran.report, _again(config, place.path, every, seed, device))


def _beside(out: Path) -> Path:
    named = out if out.name else out.absolute()
    if not named.name:
        raise BadInputError(f"{out} is no folder that can be made", where="--out")
    return named.with_name(f"{named.name}.checkpoint.safetensors")


def _again(config: dict[str, Json], checkpoint: Path, every: int, seed: int, device: str) -> list[str]:
    """The words of the command that goes on."""
    words = ["quiltwork", "moe", "train"]
    for name, value in config.items():
        if name in ("corpus", "valid", "test"):
            words += [word for path in value for word in (f"--{name}", str(path))]
        elif name in ("task", "out", "steps", "gate"):
            words += [f"--{name}", str(value)]
        else:
            words += words_of({name: value})
    told = ["--checkpoint", str(checkpoint), "--every", str(every), "--seed", str(seed), "--device", device]
    return [*words, *told]
