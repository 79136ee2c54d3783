"""``quiltwork text similarity`` and ``quiltwork text explain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.cli.text_options import JsonOption, ModelOption, ThreadsOption, ZooOption, chosen_model
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json


def similarity(
    a: Annotated[str | None, typer.Argument(help="A sentence; or the name of a column, with --table.")] = None,
    b: Annotated[str | None, typer.Argument(help="Another.")] = None,
    tabular: Annotated[
        Path | None, typer.Option("--table", help="Compare the columns A and B of this CSV, TSV or Parquet file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --table: write a CSV, TSV or Parquet file.")] = None,
    model: ModelOption = None,
    zoo: ZooOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """How alike two sentences are: a model's score, what people would likely say (0 to 4), and whether one denies the
    other."""
    from quiltwork.text.compare import compare
    from quiltwork.text.table_out import check_out, write_columns

    if a is None or b is None:
        raise BadInputError("two are needed", where="A B", hint="quiltwork text similarity --help")
    if out is not None and tabular is None:
        raise BadInputError("is for --table", where="--out")
    if out is not None:
        check_out(out)
    pairs = [(a, b)] if tabular is None else _pairs(tabular, a, b)
    embedder = chosen_model(model, zoo, threads)
    with narration("comparing") as say:
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            say(f"{done} of {len(pairs)} pairs")

        said = compare(pairs, embedder, progress=progress)
    if out is not None:
        write_columns(out, {a: [pair[0] for pair in pairs], b: [pair[1] for pair in pairs], **_columns(said)})
        told = {"pairs": len(said), "out": str(out), "model": embedder.name,
                "truncated": sum(pair["truncated"] for pair in said)}  # fmt: skip
        cut = f", {told['truncated']} cut at the model's longest" if told["truncated"] else ""
        emit(told, json, f"{len(said)} pairs{cut}: {out}")
        return
    document: Json = {"model": embedder.name, "pairs": said}
    emit(document if tabular is not None else {"model": embedder.name, **said[0]}, json, _shown(said))


def explain(
    a: Annotated[str, typer.Argument(help="A sentence.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    json: JsonOption = False,
) -> None:
    """Which words of two sentences answer to each other, which have no answer, which deny; and what follows from it."""
    from quiltwork.text.opinions import Shipped

    opinions = Shipped()
    (told,), (polarity,) = opinions.explanations([(a, b)]), opinions.polarities([(a, b)])
    shown = table("", "first", "second", "")
    for pair in told["aligned"]:
        shown.add_row("same", pair["a"]["text"], pair["b"]["text"], "")
    for pair in told["opposed"]:
        shown.add_row("antonyms", pair["a"]["text"], pair["b"]["text"], pair["why"])
    for kind in ("missing", "denials"):
        for side in "ab":
            for span in told[kind][side]:
                words = (span["text"], "") if side == "a" else ("", span["text"])
                shown.add_row({"missing": "no answer", "denials": "denies"}[kind], *words, "")
    line = f"{polarity['kind']}, {told['overlap']:.0%} of the shorter one's words have an answer"
    emit({**told, "polarity": polarity}, json, shown, line)


def _pairs(path: Path, a: str, b: str) -> list[tuple[str, str]]:
    from quiltwork.text.columns import read_columns

    found = read_columns(path, [a, b])
    return list(zip(found.texts[a], found.texts[b], strict=True))


def _columns(said: Sequence[Mapping[str, Json]]) -> dict[str, list[Json]]:
    def rating(name: str) -> list[Json]:
        return [pair["rating"][name] if pair["rating"] is not None else None for pair in said]

    return {
        "score": [pair["score"] for pair in said],
        "rating": rating("value"),
        "rating_low": rating("low"),
        "rating_high": rating("high"),
        "polarity": [pair["polarity"]["kind"] for pair in said],
        "evidence": ["; ".join(f"{e['text']} ({e['why']})" for e in pair["polarity"]["evidence"]) for pair in said],
        "truncated": [pair["truncated"] for pair in said],
    }


def _shown(said: Sequence[Mapping[str, Json]]) -> Json:
    columns = _columns(said)
    shown = table("score", "rating", "interval", "polarity", "evidence", numbers=("score", "rating"))
    for score, value, low, high, polarity, evidence, truncated in zip(*columns.values(), strict=True):
        shown.add_row(
            "none" if score is None else f"{score:.4f}",
            "" if value is None else f"{value:.2f}",
            "" if value is None else f"{low:.2f} to {high:.2f}",
            polarity,
            f"{evidence}{' (cut at the longest)' if truncated else ''}",
        )
    return shown
