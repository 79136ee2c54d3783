"""Similarity of biomedical sentences (Blagec et al. 2019): so far by their words and letters, without any training.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.explanation import explain
    from quiltwork.text.factory import text_servable
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.models import default_folder, load, model_at
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf

_MODULES = {
    "explanation": ("explain",),
    "factory": ("text_servable",),
    "measure": ("Measure",),
    "measures": ("MEASURES", "measure_named", "similarity"),
    "models": ("default_folder", "load", "model_at"),
    "pipeline": ("PIPELINES", "Pipeline", "Prepared", "pipeline_named"),
    "stops": ("STOP_LISTS", "StopList", "stop_list"),
    "tfidf": ("TfIdf",),
}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "STOP_LISTS",
    "Measure",
    "Pipeline",
    "Prepared",
    "StopList",
    "TfIdf",
    "default_folder",
    "explain",
    "load",
    "measure_named",
    "model_at",
    "pipeline_named",
    "similarity",
    "stop_list",
    "text_servable",
]

__getattr__, __dir__ = face(__name__, _MODULES)
