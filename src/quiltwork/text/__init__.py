"""Similarity of biomedical sentences (Blagec et al. 2019): so far by their words and letters, without any training.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.corpus import Document, read_corpus
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.paragraph.embedder import ParagraphVectors
    from quiltwork.text.paragraph.huffman import HuffmanVectors
    from quiltwork.text.paragraph.inference import Inference
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.sent2vec.model import SentenceNgrams
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf
    from quiltwork.text.vectors.model import WordVectors
    from quiltwork.text.vectors.pooling import POOLINGS, PooledVectors, Pooling, load_word_embedder, pooling_named
    from quiltwork.text.vectors.training import text_vectors

_MODULES = {
    "corpus": ("Document", "read_corpus"),
    "measure": ("Measure",),
    "measures": ("MEASURES", "measure_named", "similarity"),
    "paragraph.embedder": ("ParagraphVectors",),
    "paragraph.huffman": ("HuffmanVectors",),
    "paragraph.inference": ("Inference",),
    "pipeline": ("PIPELINES", "Pipeline", "Prepared", "pipeline_named"),
    "sent2vec.model": ("SentenceNgrams",),
    "stops": ("STOP_LISTS", "StopList", "stop_list"),
    "tfidf": ("TfIdf",),
    "vectors.model": ("WordVectors",),
    "vectors.pooling": ("POOLINGS", "PooledVectors", "Pooling", "load_word_embedder", "pooling_named"),
    "vectors.training": ("text_vectors",),
}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "POOLINGS",
    "STOP_LISTS",
    "Document",
    "HuffmanVectors",
    "Inference",
    "Measure",
    "ParagraphVectors",
    "Pipeline",
    "PooledVectors",
    "Pooling",
    "Prepared",
    "SentenceNgrams",
    "StopList",
    "TfIdf",
    "WordVectors",
    "load_word_embedder",
    "measure_named",
    "pipeline_named",
    "pooling_named",
    "read_corpus",
    "similarity",
    "stop_list",
    "text_vectors",
]

__getattr__, __dir__ = face(__name__, _MODULES)
