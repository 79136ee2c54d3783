"""``quiltwork text lexicon``: make the lexicon of antonyms anew, of WordNet's files and a corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError


def lexicon(
    wordnet: Annotated[
        Path, typer.Option("--wordnet", help="Folder of WordNet's files; Debian's wordnet-base: /usr/share/wordnet.")
    ],
    corpus: Annotated[
        list[Path], typer.Option("--corpus", help="Text, a sentence a line, plain or .xz. Repeat it for more.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a lexicon of antonyms: every line of it with where it comes from. The same files give the same lexicon."""
    from quiltwork.text.polarity.lexicon import printed
    from quiltwork.text.polarity.recipe import made_lexicon

    with narration("lexicon") as say:
        entries = made_lexicon(wordnet, corpus, say)
    try:
        out.write_text(printed(entries), encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"cannot be written: {error.strerror}", where=str(out)) from error
    counts = Counter((entry.kind, entry.source) for entry in entries)
    shown = table("kind", "source", "lines", numbers=("lines",))
    for (kind, source), n in sorted(counts.items()):
        shown.add_row(kind, source, f"{n:,}")
    rows = [{"kind": kind, "source": source, "lines": n} for (kind, source), n in sorted(counts.items())]
    emit({"out": str(out), "lines": rows}, json, shown)
