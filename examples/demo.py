"""Serves a family of models from shared parts, and the same models one per process, and shows what differs.

    python examples/demo.py [--models DIR]

Adds every model below DIR to a fresh zoo, starts `quiltwork up` on it, sends all models the same prompts at once
through the openai client, then does the same work with one transformers process per model. Last, it measures how many
blocks of one fine-tune others might serve. In between it asks the same server how alike sentences are, trains a small
mixture of experts, and has it answer with one expert, some and two. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil
from adapting import show_substitutions
from experts import show_experts
from find_models import Candidate, find_models
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sentences import show_similarity
from sides import Apart, Quilt, Run, Work

from quiltwork.core.errors import QuiltworkError, UnsupportedError
from quiltwork.zoo import Zoo

PROMPTS = (
    "def __init__(self, name, value=None):\n        ",
    "Once upon a time there was a",
    "The function returns the ",
    "class Reader:\n    def read(self, size",
)
WARM_UP = "It was"
HOW = (
    "Both sides: same prompts, greedy, {tokens} tokens each, float32, warm, not streamed.\n"
    "Ours runs with --max-num-seqs {sequences}, the burst's size; theirs batch what waits.\n"
    "First token: streamed, apart from the burst, a request to every model at once."
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True)
class Taken:
    """A model that the zoo took in and can serve, with the folder its tokenizer was put into."""

    candidate: Candidate
    tokenizer: Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of every answer")
    parser.add_argument("--no-baseline", action="store_true", help="leave the one-model-per-process side out")
    args = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, stop)
    console = Console()
    try:
        with ExitStack() as cleanup:
            demo(args, console, cleanup)
    except KeyboardInterrupt:
        console.print("stopped; nothing is left behind")
        return 130
    except NotADirectoryError as error:
        print(f"demo: {error.args[0]}: no such folder", file=sys.stderr)
        return 2
    except QuiltworkError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def end_children() -> None:
    """End what an interrupt caught between being started and being known."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=10)


def stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def demo(args: argparse.Namespace, console: Console, cleanup: ExitStack) -> None:
    """The whole of it; what has to be undone is handed to ``cleanup``."""
    scratch = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="quiltwork-demo-")))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "torch")  # torch would leave a folder elsewhere
    cleanup.callback(end_children)
    found = find_models(args.models)
    for path in found.skipped:
        console.print(f"  skipped {path}: not part of a model", markup=False, highlight=False, soft_wrap=True)
    began = time.monotonic()
    taken = take_in(found.models, scratch, console)
    if not taken:
        raise QuiltworkError("holds no model that can be served", where=str(args.models))
    with Zoo(scratch / "zoo") as zoo:
        usage = zoo.du()
    console.print(f"{len(taken)} models in the zoo after {time.monotonic() - began:.1f} s; starting the server")
    names = [model.candidate.name for model in taken]
    work = Work(tuple((name, prompt) for prompt in PROMPTS for name in names), WARM_UP, args.tokens)
    with Quilt(scratch / "zoo", scratch / "server.log", len(work.requests)) as quilt:
        served = quilt.models()
        for name in names:
            if name not in served:
                console.print(f"  {name} is not served; see what the server says:\n{quilt.log()}", markup=False)
        work = work.only(served)
        ours = quilt.run(work)
        requests = quilt.tokenized(work)
        show_similarity(quilt, scratch / "zoo", console)
        show_experts(quilt, scratch / "zoo", scratch, console)
    theirs = None
    if not args.no_baseline:
        console.print(f"the same {len(work.requests)} requests with one process per model; starting {len(served)}")
        wanted = [model for model in taken if model.candidate.name in served]
        places = {m.candidate.name: (m.candidate.folder, m.tokenizer, m.candidate.base) for m in wanted}
        short = memory_short(len(places), sum(size(folder) for folder, _, _ in places.values()))
        if short:
            console.print(f"  left out: {short}")
        else:
            with Apart(places, scratch) as apart:
                theirs = apart.run(requests, work.tokens)
    console.print(table(ours, theirs, usage.source_bytes, usage.stored_bytes, len(served), work))
    console.print(HOW.format(sequences=len(work.requests), tokens=work.tokens), highlight=False)
    show_substitutions(scratch / "zoo", [model.candidate.name for model in taken], scratch, console)
    console.print(
        "\nWhere to look next:\n"
        f"  .venv/bin/quiltwork zoo add {escape(str(taken[0].candidate.folder))}   begins a zoo of your own in ./zoo\n"
        "  .venv/bin/quiltwork zoo du; .venv/bin/quiltwork zoo diff A B   who shares what; where two models differ\n"
        "  .venv/bin/quiltwork up   the same server; its page is at http://127.0.0.1:8000/\n"
        "  docs/architecture.md   the life of a request in eight steps",
        highlight=False,
        soft_wrap=True,
    )


def take_in(models: tuple[Candidate, ...], scratch: Path, console: Console) -> list[Taken]:
    """Add models to a fresh zoo; what cannot be added or served is said and left out."""
    taken = []
    with Zoo(scratch / "zoo") as zoo:
        for candidate in models:
            try:
                added = zoo.add(candidate.folder, name=candidate.name)
            except QuiltworkError as error:
                console.print(f"  {candidate.name} is left out: {error}", markup=False, highlight=False, soft_wrap=True)
                continue
            model = added.model
            try:
                zoo.chain(model.ref)
            except UnsupportedError as error:
                console.print(
                    f"  {candidate.name} is stored, not served: {error.what}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
                continue
            names = [name for name in TOKENIZER_FILES if name in model.files]
            if "tokenizer.json" not in names:
                console.print(f"  {candidate.name} is stored, not served: no tokenizer.json", markup=False)
                continue
            folder = scratch / "tokenizers" / candidate.name
            folder.mkdir(parents=True)
            for name in names:
                (folder / name).write_bytes(zoo.read_file(model, name))
            taken.append(Taken(candidate, folder))
            notes = f": {'; '.join(added.notes)}" if added.notes else ""
            console.print(f"  added {candidate.name}{notes}", markup=False, highlight=False, soft_wrap=True)
    return taken


def table(ours: Run, theirs: Run | None, source: int, stored: int, models: int, work: Work) -> Table:
    """What both sides took, side by side."""
    shown = Table(
        title=f"{models} models, {len(work.requests)} requests at once, {work.tokens} tokens each, "
        f"{os.cpu_count()} cores",
        title_justify="left",
    )
    shown.add_column("", no_wrap=True)
    shown.add_column("Quiltwork,\none process", justify="right", no_wrap=True)
    shown.add_column(f"{models} processes,\none per model", justify="right", no_wrap=True)
    shown.add_column("ours /\ntheirs", justify="right", no_wrap=True)

    def row(what: str, a: float, b: float | None, unit: str, digits: int = 1) -> None:
        other = "not run" if b is None else f"{b:,.{digits}f} {unit}"
        shown.add_row(what, f"{a:,.{digits}f} {unit}", other, f"{a / b:.2f}" if b else "")

    def of(name: str) -> float | None:
        return None if theirs is None else getattr(theirs, name) / 1e6

    row("storage, of the folders", stored / 1e6, source / 1e6, "MB", 2)
    shown.add_section()
    row("memory: weights", ours.weight_bytes / 1e6, of("weight_bytes"), "MB", 2)
    row("memory: KV cache", ours.kv_bytes / 1e6, of("kv_bytes"), "MB", 2)
    row("memory: everything else", ours.rest_bytes / 1e6, of("rest_bytes"), "MB", 0)
    row("memory: all (peak PSS)", ours.pss_bytes / 1e6, of("pss_bytes"), "MB", 0)
    shown.add_section()
    row("latency p50", ours.latency(0.5), of_latency(theirs, 0.5), "s", 2)
    row("latency p95", ours.latency(0.95), of_latency(theirs, 0.95), "s", 2)
    if ours.first_token is not None:
        shown.add_row("first token p50", f"{ours.first_token:.2f} s", "no streaming", "")
    row("throughput", ours.throughput(work.tokens), of_throughput(theirs, work.tokens), "tokens/s", 0)
    if theirs is not None:
        same = sum(a == b for a, b in zip(ours.texts, theirs.texts, strict=True))
        shown.add_section()
        shown.add_row("equal answers", f"{same} of {len(ours.texts)}", "", "")
    return shown


def of_latency(run: Run | None, share: float) -> float | None:
    return None if run is None else run.latency(share)


def of_throughput(run: Run | None, tokens: int) -> float | None:
    return None if run is None else run.throughput(tokens)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory_short(processes: int, weights: int) -> str | None:
    """Why so many processes would not fit into this machine's memory, if they would not."""
    needed = processes * 350_000_000 + 3 * weights  # an interpreter with torch; halves widened to float32, and loading
    free = psutil.virtual_memory().available
    if needed < free:
        return None
    return f"{processes} processes need about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"


if __name__ == "__main__":
    sys.exit(main())
