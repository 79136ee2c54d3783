"""Similarity of biomedical sentences (Blagec et al. 2019): so far by their words and letters, without any training.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.polarity.detect import Evidence, Polarity, polarity_of
    from quiltwork.text.polarity.lexicon import Lexicon, read_lexicon
    from quiltwork.text.polarity.scorer import WithPolarity, adjusted
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf

_MODULES = {
    "measure": ("Measure",),
    "measures": ("MEASURES", "measure_named", "similarity"),
    "pipeline": ("PIPELINES", "Pipeline", "Prepared", "pipeline_named"),
    "polarity.detect": ("Evidence", "Polarity", "polarity_of"),
    "polarity.lexicon": ("Lexicon", "read_lexicon"),
    "polarity.scorer": ("WithPolarity", "adjusted"),
    "stops": ("STOP_LISTS", "StopList", "stop_list"),
    "tfidf": ("TfIdf",),
}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "STOP_LISTS",
    "Evidence",
    "Lexicon",
    "Measure",
    "Pipeline",
    "Polarity",
    "Prepared",
    "StopList",
    "TfIdf",
    "WithPolarity",
    "adjusted",
    "measure_named",
    "pipeline_named",
    "polarity_of",
    "read_lexicon",
    "similarity",
    "stop_list",
]

__getattr__, __dir__ = face(__name__, _MODULES)
