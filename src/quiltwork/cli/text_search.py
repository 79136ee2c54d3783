"""``quiltwork text search``: an index of sentences, and what is found in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quiltwork.cli.output import emit, narration, table
from quiltwork.cli.text_options import JsonOption, ModelOption, ThreadsOption, ZooOption, chosen_model, column
from quiltwork.core.errors import BadInputError
from quiltwork.core.units import format_bytes


class _QueryUnlessNamed(TyperGroup):
    """``search INDEX QUERY`` is ``search query INDEX QUERY``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        named = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if named else ["query", *args])


app = typer.Typer(cls=_QueryUnlessNamed, no_args_is_help=True, add_completion=False)

IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="The index's folder.")]


@app.callback(help="Find sentences by what they mean: `search INDEX QUERY`, after `search build`.")
def search() -> None:
    """Only groups the commands."""


@app.command()
def build(
    index: IndexArgument,
    source: Annotated[
        list[Path], typer.Option("--from", help="A text with a sentence a line, a corpus, or a table with --column.")
    ],
    column_name: Annotated[str | None, typer.Option("--column", help="Of the CSV, TSV or Parquet file.")] = None,
    model: ModelOption = None,
    zoo: ZooOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Embed sentences and index them. A sentence that the model has no vector for is left out and counted."""
    from quiltwork.text.models import DEFAULT
    from quiltwork.text.search import build as build_index
    from quiltwork.text.search.folder import free_place, shown

    free_place(index)
    sentences = _sentences(source, column_name)
    embedder = chosen_model(model, zoo, threads)
    named = DEFAULT if model is None else model if zoo is None else f"{zoo}#{model}"
    done = 0
    with narration("building") as say:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            say(f"{done} of {len(sentences)} sentences")

        meta = build_index(index, sentences, embedder, model=named, threads=threads or 0, progress=progress)
    told = shown(meta)
    left = f", {meta.left_out} left out" if meta.left_out else ""
    emit({**told, "index": str(index)}, json, f"{meta.count} sentences{left}, {format_bytes(told['bytes'])}: {index}")


@app.command()
def query(
    index: IndexArgument,
    texts: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many to find.")] = 10,
    model: ModelOption = None,
    zoo: ZooOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """The sentences nearest to a query, by the model that the index was built with (--model where it has moved)."""
    from quiltwork.text.search import Index

    with Index(index) as opened:
        named, kept = _kept_model(opened.meta.model) if model is None else (model, zoo)
        hits = opened.search(texts, chosen_model(named, kept, threads), k)
    shown = []
    for text, found in zip(texts, hits, strict=True):
        rows = table("score", "row", "sentence", numbers=("score", "row"), title=text if len(texts) > 1 else None)
        for hit in found:
            rows.add_row(f"{hit.score:.4f}", str(hit.row), hit.text)
        shown.append(rows if found else f"the model has no vector for {text[:60]!r}")
    found_all = zip(texts, hits, strict=True)
    emit([{"query": text, "hits": [asdict(hit) for hit in found]} for text, found in found_all], json, *shown)


@app.command()
def opposites(
    index: IndexArgument,
    least: Annotated[float, typer.Option(help="Cosine that two sentences have at least.")] = 0.75,
    neighbours: Annotated[int, typer.Option(min=1, max=1000, help="Of each sentence, that are looked at.")] = 10,
    json: JsonOption = False,
) -> None:
    """Pairs of near sentences of which one says the opposite of the other."""
    from quiltwork.text.search import Index, Opposite
    from quiltwork.text.search import opposites as opposite_pairs

    found: list[Opposite] = []
    done = 0
    with Index(index) as opened, narration("looking") as say:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            say(f"{done} of {len(opened)} sentences, {len(found)} pairs")

        for pair in opposite_pairs(opened, least=least, neighbours=neighbours, progress=progress):
            found.append(pair)
    found.sort(key=lambda pair: (-pair.score, pair.rows))
    rows = table("score", "first", "second", "because", numbers=("score",))
    for pair in found:
        because = "; ".join(f"{evidence.text}: {evidence.why}" for evidence in pair.polarity.evidence)
        rows.add_row(f"{pair.score:.4f}", pair.texts[0], pair.texts[1], because)
    emit([asdict(pair) for pair in found], json, rows if found else "none")


def _sentences(sources: list[Path], name: str | None) -> list[str]:
    if name is not None:
        found: list[str] = [text for path in sources for text in column(path, name)]
    else:
        from quiltwork.text.corpus import read_corpus

        if wrong := next((path for path in sources if path.suffix.lower() in (".csv", ".tsv", ".parquet")), None):
            raise BadInputError("is a table", where=str(wrong), hint="--column names where its sentences are")
        found = [sentence for document in read_corpus(sources) for sentence in document.sentences]
    return found


def _kept_model(named: str) -> tuple[str, Path | None]:
    """A model as an index names it: a folder, the default's name, or ``ZOO#MODEL``."""
    zoo, separator, model = named.rpartition("#")
    return (model, Path(zoo)) if separator else (named, None)
