"""``quiltwork text embed``: vectors of sentences, printed or written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.cli.text_options import JsonOption, ModelOption, ThreadsOption, ZooOption, chosen_model, column
from quiltwork.core.errors import BadInputError

PIECE = 2048
_SUFFIXES = (".npy", ".csv", ".tsv", ".parquet")


def embed(
    sentences: Annotated[list[str] | None, typer.Argument(help="Sentences; or a column, with --table.")] = None,
    tabular: Annotated[
        Path | None, typer.Option("--table", help="Take the sentences from this CSV, TSV or Parquet file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the vectors: .npy (float32), .parquet, .csv or .tsv.")] = None,
    model: ModelOption = None,
    zoo: ZooOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Vectors of sentences by a model; a sentence that says nothing to it has zeros, and is counted."""
    from quiltwork.text.table_out import check_out, write_columns

    if not sentences:
        raise BadInputError("there is none", where="SENTENCES")
    if tabular is not None and len(sentences) > 1:
        raise BadInputError("give the name of one column with --table", where="SENTENCES")
    if out is not None:
        check_out(out, _SUFFIXES)
    texts = list(sentences) if tabular is None else list(column(tabular, sentences[0]))
    embedder = chosen_model(model, zoo, threads)
    pieces = []
    with narration("embedding") as say:
        for start in range(0, len(texts), PIECE):
            pieces.append(embedder.embed(texts[start : start + PIECE]))
            say(f"{min(start + PIECE, len(texts))} of {len(texts)} sentences")
    empty = np.zeros((0, embedder.dimensions), np.float32)
    vectors = np.concatenate([empty, *(piece.vectors for piece in pieces)])
    unknown = sum(int((~piece.known).sum()) for piece in pieces)
    truncated = sum(int(piece.truncated.sum()) for piece in pieces)
    told = {"model": embedder.name, "sentences": len(texts), "dimensions": embedder.dimensions, "unknown": unknown,
            "truncated": truncated}  # fmt: skip
    if out is None:
        shown = table("sentence", "vector")
        for text, vector in zip(texts, vectors, strict=True):
            shown.add_row(text[:60], " ".join(f"{value:.4f}" for value in vector[:6]) + " ...")
        emit({**told, "vectors": vectors.tolist()}, json, shown)
        return
    if out.suffix.lower() == ".npy":
        np.save(out, vectors)
    elif out.suffix.lower() == ".parquet":
        write_columns(out, {"sentence": texts, "vector": [vector.tolist() for vector in vectors]})
    else:
        numbers = {f"v{at}": vectors[:, at].tolist() for at in range(embedder.dimensions)}
        write_columns(out, {"sentence": texts, **numbers})
    emit({**told, "out": str(out)}, json, f"{len(texts)} vectors, {unknown} unknown, {truncated} cut: {out}")
