"""Sentences found again by their meaning, a million and more; and those that are near and say the opposite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.search.building import Graph, build
    from quiltwork.text.search.index import Hit, Index
    from quiltwork.text.search.mining import Opposite, opposites

_MODULES = {
    "building": ("Graph", "build"),
    "index": ("Hit", "Index"),
    "mining": ("Opposite", "opposites"),
}

__all__ = ["Graph", "Hit", "Index", "Opposite", "build", "opposites"]

__getattr__, __dir__ = face(__name__, _MODULES)
