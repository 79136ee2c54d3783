"""The numbers that a report shows, and nothing of how they look."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.core.servable import Json


@dataclass(frozen=True)
class Piece:
    """A token of the text, or the bytes of one character together."""

    text: str
    experts: tuple[float | None, ...]
    """(L,) taken in each layer; None in one that it does not pass (a translator's other half)."""
    loss: float | None
    """In nats, of telling it from what stands before; None where nothing does, or nothing was to be told."""
    begins: bool = False
    """Whether a text (a sample) begins with it."""

    @property
    def mean(self) -> float:
        """Over the layers that it passes."""
        taken = [k for k in self.experts if k is not None]
        return math.fsum(taken) / len(taken)


@dataclass(frozen=True)
class Course:
    """What was reported of a training, by step."""

    steps: tuple[int, ...]
    loss: tuple[float, ...]
    experts: tuple[tuple[float, ...], ...]
    """(S, L) per token."""
    held_out_steps: tuple[int, ...] = ()
    held_out: tuple[float, ...] = ()


@dataclass(frozen=True)
class Figures:
    """All that the page draws.

    Parameters
    ----------
    title : the model's name. facts : what else is said of it, in words.
    most : candidates of a token. target : the mean number of experts that was asked for, if one was.
    shares : (L, most + 1) of the text's tokens that took 0, 1, ... experts.
    load : (L, E) assignments of each expert.
    """

    title: str
    facts: Mapping[str, str]
    most: int
    shares: tuple[tuple[float, ...], ...]
    load: tuple[tuple[int, ...], ...]
    pieces: tuple[Piece, ...]
    tokens: int
    loss: float | None
    flops: Mapping[str, float] = field(default_factory=dict)
    """Forward, of a token: ``model`` and ``most``, the same with all candidates."""
    course: Course | None = None
    target: float | None = None

    @property
    def layers(self) -> int:
        """L."""
        return len(self.load)

    def experts(self) -> list[float]:
        """(L,) per token."""
        return [math.fsum(k * share for k, share in enumerate(row)) for row in self.shares]

    def mean(self) -> float:
        """Experts per token over all layers."""
        return math.fsum(self.experts()) / self.layers


def skew(load: Sequence[int]) -> float:
    """The busiest expert's assignments against the mean; 1 where all have as many, and where there are none."""
    total = sum(load)
    return max(load) * len(load) / total if total else 1.0


@dataclass(frozen=True)
class Word:
    """A word of the text, wherever it stands."""

    text: str
    count: int
    experts: float
    """Per token of it, over layers and places."""


def words_of(pieces: Sequence[Piece], *, least: int = 2) -> list[Word]:
    """Words that stand at least so often, those with most experts per token first. Letters' case is ignored."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for text, spent in _spelled(pieces):
        found[text].append(spent)
    words = [Word(text, len(all_), math.fsum(all_) / len(all_)) for text, all_ in found.items() if len(all_) >= least]
    return sorted(words, key=lambda word: (-word.experts, -word.count, word.text))


def _spelled(pieces: Sequence[Piece]) -> list[tuple[str, float]]:
    """Each word as it comes, with the mean over its pieces."""
    text, owners = "", []
    for at, piece in enumerate(pieces):
        if piece.begins:
            text += "\n"
            owners.append(at)
        text += piece.text
        owners += [at] * len(piece.text)
    words = []
    for match in re.finditer(r"[^\W_]+(?:['’-][^\W_]+)*", text):
        parts = sorted(set(owners[match.start() : match.end()]))
        words.append((match[0].casefold(), math.fsum(pieces[at].mean for at in parts) / len(parts)))
    return words


def document_of(figures: Figures) -> dict[str, Json]:
    """The same as JSON."""
    document: dict[str, Json] = {
        "model": figures.title,
        "facts": dict(figures.facts),
        "tokens": figures.tokens,
        "loss": figures.loss,
        "experts_per_token": figures.mean(),
        "target": figures.target,
        "flops_per_token": dict(figures.flops),
        "layers": [
            {"layer": at, "experts_per_token": k, "shares": list(shares), "load": list(load), "skew": skew(load)}
            for at, (k, shares, load) in enumerate(
                zip(figures.experts(), figures.shares, figures.load, strict=True), start=1
            )
        ],
        "pieces": [
            {"text": p.text, "experts": list(p.experts), "mean": p.mean, "loss": p.loss, "begins": p.begins}
            for p in figures.pieces
        ],
        "words": [{"text": w.text, "count": w.count, "experts_per_token": w.experts} for w in words_of(figures.pieces)],
    }
    if figures.course is not None:
        course = figures.course
        document["training"] = {
            "steps": list(course.steps),
            "loss": list(course.loss),
            "experts_per_token": [list(row) for row in course.experts],
            "held_out_steps": list(course.held_out_steps),
            "held_out": list(course.held_out),
        }
    return document
