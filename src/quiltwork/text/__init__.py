"""Similarity of biomedical sentences (Blagec et al. 2019): so far by their words and letters, without any training.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.paragraph.embedder import ParagraphVectors
    from quiltwork.text.paragraph.huffman import HuffmanVectors
    from quiltwork.text.paragraph.inference import Inference
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.sent2vec.model import SentenceNgrams
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf

_MODULES = {
    "measure": ("Measure",),
    "measures": ("MEASURES", "measure_named", "similarity"),
    "paragraph.embedder": ("ParagraphVectors",),
    "paragraph.huffman": ("HuffmanVectors",),
    "paragraph.inference": ("Inference",),
    "pipeline": ("PIPELINES", "Pipeline", "Prepared", "pipeline_named"),
    "sent2vec.model": ("SentenceNgrams",),
    "stops": ("STOP_LISTS", "StopList", "stop_list"),
    "tfidf": ("TfIdf",),
}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "STOP_LISTS",
    "HuffmanVectors",
    "Inference",
    "Measure",
    "ParagraphVectors",
    "Pipeline",
    "Prepared",
    "SentenceNgrams",
    "StopList",
    "TfIdf",
    "measure_named",
    "pipeline_named",
    "similarity",
    "stop_list",
]

__getattr__, __dir__ = face(__name__, _MODULES)
