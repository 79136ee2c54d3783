"""``quiltwork train``: whatever can be trained, on this machine, in this process."""

from __future__ import annotations

import json as json_text
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.registry import TRAINABLES, resolve, spec
from quiltwork.core.servable import Json

if TYPE_CHECKING:
    from quiltwork.core.trainable import StepReport


def train(
    trainable: Annotated[str, typer.Option(help="What is registered by this name, or module:factory.")],
    config: Annotated[Path, typer.Option(help="Its settings, YAML or JSON; paths in it are from here.")],
    steps: Annotated[int | None, typer.Option(min=1, help="In all, instead of the setting `steps`.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Where its state is kept, and taken from if it is there; beside CONFIG if not given."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train in steps, and go on where it was stopped. Ctrl-C stops after the step under way. Exits with 1 then."""
    from quiltwork.core.checkpoint import CheckpointFile
    from quiltwork.core.run_training import run_training
    from quiltwork.core.trainable import Setup, Trainable

    settings = _settings(config)
    if steps is not None:
        settings["steps"] = steps
    place = CheckpointFile(checkpoint or config.with_name(f"{config.stem}.checkpoint.safetensors"))
    made = resolve(trainable if ":" in trainable else spec(TRAINABLES, trainable))()
    if not isinstance(made, Trainable):
        raise BadInputError(f"makes a {type(made).__name__}, which cannot be trained", where=trainable)

    with tempfile.TemporaryDirectory(prefix="quiltwork-train-") as scratch, narration(f"training {trainable}") as say:
        say("setting up")
        made.setup(Setup(settings, seed, device, scratch))

        def tell(report: StepReport) -> None:
            figures = "".join(f", {name} {value:.4g}" for name, value in report.metrics.items())
            say(f"{_so_far(report.done, report.total)}{figures}")

        with asked_to_stop() as stop:
            ran = run_training(made, place, every=every, stop=stop, tell=tell)
    done, total = (ran.report.done, ran.report.total) if ran.report else (None, None)
    metrics = dict(ran.report.metrics) if ran.report else {}
    document = {
        "trainable": trainable,
        "done": done,
        "total": total,
        "finished": ran.finished,
        "resumed": ran.resumed,
        "checkpoint": str(place.path),
        "metrics": metrics,
    }
    shown = table("figure", "value", numbers=("value",), title=None if done is None else _so_far(done, total))
    for name, value in metrics.items():
        shown.add_row(name.replace("_", " "), f"{value:.4g}")
    emit(document, json, shown)
    if not ran.finished:
        words = ["quiltwork", "train", "--trainable", trainable, "--config", str(config), "--checkpoint"]
        words += [str(place.path), "--seed", str(seed), "--device", device, "--every", str(every)]
        words += [] if steps is None else ["--steps", str(steps)]
        stopped_early(ran.report, words)


def stopped_early(report: StepReport | None, words: list[str]) -> NoReturn:
    """Say how far a training came that was asked to stop, and the command that goes on. Exits with 1."""
    so_far = "before the first step" if report is None else f"after {_so_far(report.done, report.total)}"
    typer.echo(f"quiltwork: stopped {so_far}; go on with: {shlex.join(words)}", err=True)
    raise typer.Exit(1)


def _so_far(done: int, total: int | None) -> str:
    return f"step {done}" if total is None else f"step {done} of {total}"


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came, instead of what they do; the second one does it."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(path: Path) -> dict[str, Json]:
    """The named fields of a YAML or JSON file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=str(path)) from error
    if path.suffix == ".json":
        try:
            settings = json_text.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"is not JSON: {error}", where=str(path)) from error
    else:
        from quiltwork.cluster.yaml_fields import parse_yaml

        settings = parse_yaml(text, str(path)).json()
    if not isinstance(settings, dict):
        raise BadInputError("must be a set of named fields", where=str(path))
    return settings
