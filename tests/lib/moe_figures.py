"""Figures of a report that no model was needed for."""

from __future__ import annotations

from dataclasses import replace

from quiltwork.moe.report.figures import Course, Figures, Piece

TEXT = 'the cat & the <dog> said: "the end"\n'


def figures(layers: int = 3, **changes: object) -> Figures:
    """Every vowel takes two experts in the last layer, and nothing else does."""
    pieces = tuple(
        Piece(char, tuple(float(1 + (char in "aeiou" and layer == layers - 1)) for layer in range(layers)),
              None if at == 0 else 0.5, begins=at == 0)
        for at, char in enumerate(TEXT)
    )  # fmt: skip
    hard = sum(piece.mean > 1 for piece in pieces) / len(pieces)
    shares = ((0.0, 1.0, 0.0),) * (layers - 1) + ((0.0, 1 - hard, hard),)
    course = Course((1, 2, 3, 4), (3.0, 2.5, 2.25, 2.125), ((2.0,) * layers, (1.5,) * layers, (1.25,) * layers,
                    (1.125,) * layers), (2, 4), (2.75, 2.25))  # fmt: skip
    made = Figures(
        title="a <model>", facts={"gate": "adaptive", "corpus": "a & b.txt"}, most=2, shares=shares,
        load=((10, 20, 30, 0),) * layers, pieces=pieces, tokens=len(pieces), loss=0.5,
        flops={"model": 3e6, "most": 4e6}, course=course, target=1.25,
    )  # fmt: skip
    return replace(made, **changes)
