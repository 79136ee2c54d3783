"""``quiltwork text train``: vectors of a corpus's words, on this machine, stopped and gone on with at will."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from quiltwork.cli.named_settings import read_settings, words_of
from quiltwork.cli.output import emit, table, training_progress
from quiltwork.cli.train import asked_to_stop, stopped_early
from quiltwork.core.servable import Json


def train(
    corpus: Annotated[
        list[Path],
        typer.Option(
            "--corpus", help="A file or a folder: .txt, also .xz or .gz, or articles in JATS XML; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the finished model.")],
    model: Annotated[str, typer.Option(help="fasttext, word2vec ...: what there is, a wrong name tells.")] = "fasttext",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of any other setting, as in window=5; repeatable. See the docs."),
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Length of a vector.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often the corpus is gone through.")] = None,
    min_count: Annotated[int | None, typer.Option(help="Words that occur less often are not learnt.")] = None,
    words: Annotated[
        float | None, typer.Option(help="How much of the corpus: at most 1, a share; else tokens. Documents are drawn.")
    ] = None,
    split: Annotated[bool, typer.Option("--split", help="Running text: find the sentences.")] = False,
    tokens: Annotated[
        Path | None, typer.Option(help="A folder that keeps the corpus cut into tokens, for the next run.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Where its state is kept, and taken from if it is there; beside OUT if not given."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train vectors on a corpus, and go on where it was stopped. Ctrl-C stops after the step under way. Exits with 1
    then."""
    from quiltwork.core.checkpoint import CheckpointFile
    from quiltwork.core.run_training import run_training
    from quiltwork.core.trainable import Setup, StepReport
    from quiltwork.text.vectors.training import text_vectors

    config: dict[str, Json] = {
        "corpus": [str(path) for path in corpus],
        "out": str(out),
        "model": model,
        "split": split,
        "tokens": None if tokens is None else str(tokens),
    }
    given = {"dimensions": dimensions, "epochs": epochs, "min_count": min_count, "words": words}
    config |= {name: value for name, value in given.items() if value is not None}
    config |= read_settings(setting or [])
    place = CheckpointFile(checkpoint or out.with_name(f"{out.name}.checkpoint.safetensors"))
    made = text_vectors()
    with training_progress() as progress:
        task = progress.add_task("reading the corpus", total=None)
        made.setup(Setup(config, seed))

        def tell(report: StepReport) -> None:
            said = f"epoch {report.metrics['epoch']:.2f}, rate {report.metrics['rate']:.4f}"
            progress.update(task, description=escape(f"{model}: {said}"), completed=report.done, total=report.total)

        with asked_to_stop() as stop:
            ran = run_training(made, place, every=every, stop=stop, tell=tell)
    vocabulary = made.text.vocabulary
    done = None if ran.report is None else ran.report.done
    document = {
        "model": model,
        "out": str(out) if ran.finished else None,
        "done": done,
        "total": None if ran.report is None else ran.report.total,
        "finished": ran.finished,
        "resumed": ran.resumed,
        "checkpoint": str(place.path),
        "sentences": vocabulary.sentences,
        "tokens": vocabulary.tokens,
        "words": len(vocabulary.words),
    }
    shown = table("figure", "value", numbers=("value",))
    for name in ("sentences", "tokens", "words"):
        shown.add_row(name, f"{document[name]:,}")
    if ran.finished:
        shown.caption = f"written to {out}"
    emit(document, json, shown)
    if not ran.finished:
        stopped_early(ran.report, _again(config, place.path, every, seed))


def _again(config: dict[str, Json], checkpoint: Path, every: int, seed: int) -> list[str]:
    words = ["quiltwork", "text", "train", "--out", str(config["out"]), "--model", str(config["model"])]
    corpus = config["corpus"]
    assert isinstance(corpus, list)
    for path in corpus:
        words += ["--corpus", str(path)]
    words += ["--split"] if config["split"] else []
    words += [] if config["tokens"] is None else ["--tokens", str(config["tokens"])]
    named = ("corpus", "out", "model", "split", "tokens")
    words += words_of({name: value for name, value in config.items() if name not in named})
    return [*words, "--checkpoint", str(checkpoint), "--every", str(every), "--seed", str(seed)]
