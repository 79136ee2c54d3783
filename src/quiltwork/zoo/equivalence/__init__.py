"""Which blocks of other models might stand in a model's place, and which may: filters propose, measurements decide."""

from quiltwork.zoo.equivalence.candidates import LEAST_COSINE, PartCandidates, find_candidates
from quiltwork.zoo.equivalence.decision import UNCHANGED, Budget, Decision, Measure, Quality, Taken, decide
from quiltwork.zoo.equivalence.swap import Swap, substituted

__all__ = [
    "LEAST_COSINE",
    "UNCHANGED",
    "Budget",
    "Decision",
    "Measure",
    "PartCandidates",
    "Quality",
    "Swap",
    "Taken",
    "decide",
    "find_candidates",
    "substituted",
]
