"""The text, each token coloured by how many experts it took."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from quiltwork.moe.report.charts import strength
from quiltwork.moe.report.figures import Figures, Piece, Word, words_of

WORDS = 18
"""Of the hardest and of the easiest, shown."""
STEPS = 12
"""Shades that the mean over layers is told apart in."""


def text_view(figures: Figures) -> str:
    """Every piece is an ``<i>`` whose ``data-k`` has its experts by layer, and whose shade is that of the mean."""
    return "".join(_piece(piece, figures.most, first=at == 0) for at, piece in enumerate(figures.pieces))


def _piece(piece: Piece, most: int, *, first: bool) -> str:
    shade = round(strength(piece.mean, most) * STEPS)
    loss = "" if piece.loss is None else f' data-l="{piece.loss:.3f}"'
    data = ",".join("" if k is None else f"{round(k, 2):g}" for k in piece.experts)
    before = '<hr class="sample">' if piece.begins and not first else ""
    return f'{before}<i class="s{shade}" data-k="{data}"{loss}>{_shown(piece.text)}</i>'


def _shown(text: str) -> str:
    """Line ends stay, with a mark, so that their colour has a place to be seen at."""
    said = "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
    return escape(said).replace("\n", "<u>↵</u>\n")


def layer_choice(layers: int) -> str:
    """Buttons for the mean and each layer."""
    names = ["all layers", *(str(at + 1) for at in range(layers))]
    return "".join(
        f'<label><input type="radio" name="layer" value="{at - 1}"{"" if at else " checked"}>{escape(name)}</label>'
        for at, name in enumerate(names)
    )


def legend(most: int) -> str:
    """The shades, from one expert to ``most``."""
    return "".join(f'<span><i class="s{round(strength(k, most) * STEPS)}">{k}</i></span>' for k in range(1, most + 1))


def word_lists(figures: Figures) -> str:
    """Words on which most and fewest experts were spent; empty where no word comes twice."""
    least = 3 if figures.tokens >= 2000 else 2
    words = words_of(figures.pieces, least=least)
    if len(words) < 4:
        return ""
    half = min(WORDS, len(words) // 2)
    lists = (("Most experts", words[:half]), ("Fewest experts", words[: -half - 1 : -1]))
    return "".join(_words(title, some, figures.most) for title, some in lists)


def _words(title: str, words: Sequence[Word], most: int) -> str:
    items = "".join(
        f'<li><i class="s{round(strength(word.experts, most) * STEPS)}">{escape(word.text)}</i>'
        f"<b>{word.experts:.2f}</b><small>{word.count}×</small></li>"
        for word in words
    )
    return f'<div><h3>{escape(title)}</h3><ol class="words">{items}</ol></div>'
