"""One request about sentences to the demo's server: another kind of model, through the same gateway."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from sides import Quilt

from quiltwork.core.errors import QuiltworkError
from quiltwork.text import default_folder
from quiltwork.zoo import Zoo

MODEL = "all-MiniLM-L6-v2"
PAIRS = (
    ("Mice that lack the repair gene heal their wounds slowly.",
     "Without the repair gene, wounds of mice take longer to close."),
    ("The drug inhibits the growth of the tumour.", "The drug does not inhibit the growth of the tumour."),
)  # fmt: skip


def show_similarity(quilt: Quilt, zoo: Path, console: Console) -> None:
    """Add the encoder that comes as a Python package to the running server's zoo, and ask it about two pairs."""
    try:
        folder = default_folder()
        with Zoo(zoo) as opened:
            opened.add(folder, name=MODEL)
        quilt.post("/models/load", {"model": MODEL})
        said = quilt.post("/v1/similarity", {"model": MODEL, "pairs": PAIRS})["pairs"]
    except QuiltworkError as error:
        console.print(f"sentences are left out: {error}", markup=False, highlight=False, soft_wrap=True)
        return
    head = f"\nThe same server with {MODEL} loaded beside them, asked how alike sentences are (/v1/similarity):"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    for (a, b), pair in zip(PAIRS, said, strict=True):
        rating = pair["rating"]
        told = (
            ""
            if rating is None
            else f", rated {rating['value']:.1f} of 4 ({rating['low']:.1f} to {rating['high']:.1f})"
        )
        lines = f"  {a}\n  {b}\n    cosine {pair['score']:.2f}{told}, polarity: {pair['polarity']['kind']}"
        console.print(lines, markup=False, highlight=False, soft_wrap=True)
