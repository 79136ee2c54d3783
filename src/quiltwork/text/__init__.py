"""Similarity of biomedical sentences (Blagec et al. 2019): so far by their words and letters, without any training.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf

_MODULES = {
    "measure": ("Measure",),
    "measures": ("MEASURES", "measure_named", "similarity"),
    "pipeline": ("PIPELINES", "Pipeline", "Prepared", "pipeline_named"),
    "stops": ("STOP_LISTS", "StopList", "stop_list"),
    "tfidf": ("TfIdf",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "STOP_LISTS",
    "Measure",
    "Pipeline",
    "Prepared",
    "StopList",
    "TfIdf",
    "measure_named",
    "pipeline_named",
    "similarity",
    "stop_list",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
