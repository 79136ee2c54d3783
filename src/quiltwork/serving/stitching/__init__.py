"""Making models out of others of a zoo: stitches between two, and smaller surrogates of one, trained and measured."""

from quiltwork.serving.stitching.distil import Recipe, Scores
from quiltwork.serving.stitching.prune import DISTILLATION, PruneReport, Smaller, prune
from quiltwork.serving.stitching.stitch import Cut, CutReport, StitchReport, stitch

__all__ = [
    "DISTILLATION",
    "Cut",
    "CutReport",
    "PruneReport",
    "Recipe",
    "Scores",
    "Smaller",
    "StitchReport",
    "prune",
    "stitch",
]
