"""Similarity of biomedical sentences (Blagec et al. 2019): by words, trained and pretrained vectors; and polarity.

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.text.calibrate import (
        Calibration,
        fit_calibration,
        load_calibration,
        save_calibration,
        shipped_calibration,
    )
    from quiltwork.text.corpus import Document, read_corpus
    from quiltwork.text.evaluate.gold import GoldSet, read_biosses, read_ctr, read_pairs
    from quiltwork.text.evaluate.models import open_model
    from quiltwork.text.evaluate.mteb import MtebEncoder
    from quiltwork.text.evaluate.report import evaluate_scorers
    from quiltwork.text.explanation import explain
    from quiltwork.text.factory import text_servable
    from quiltwork.text.hybrid import Hybrid, fit_hybrid, load_regression, save_regression
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.models import default_folder, load, model_at
    from quiltwork.text.paragraph.embedder import ParagraphVectors
    from quiltwork.text.paragraph.huffman import HuffmanVectors
    from quiltwork.text.paragraph.inference import Inference
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.polarity.detect import Evidence, Polarity, polarity_of
    from quiltwork.text.polarity.lexicon import Lexicon, read_lexicon
    from quiltwork.text.polarity.scorer import WithPolarity, adjusted
    from quiltwork.text.scorer import Cosine, Mean, Words
    from quiltwork.text.sent2vec.model import SentenceNgrams
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf
    from quiltwork.text.tfidf_file import load_tfidf, save_tfidf
    from quiltwork.text.vectors.model import WordVectors
    from quiltwork.text.vectors.pooling import POOLINGS, PooledVectors, Pooling, load_word_embedder, pooling_named
    from quiltwork.text.vectors.training import text_vectors

_MODULES = {
    "calibrate": (
        "Calibration",
        "fit_calibration",
        "load_calibration",
        "save_calibration",
        "shipped_calibration",
    ),
    "corpus": (
        "Document",
        "read_corpus",
    ),
    "evaluate.gold": (
        "GoldSet",
        "read_biosses",
        "read_ctr",
        "read_pairs",
    ),
    "evaluate.models": ("open_model",),
    "evaluate.mteb": ("MtebEncoder",),
    "evaluate.report": ("evaluate_scorers",),
    "explanation": ("explain",),
    "factory": ("text_servable",),
    "hybrid": (
        "Hybrid",
        "fit_hybrid",
        "load_regression",
        "save_regression",
    ),
    "measure": ("Measure",),
    "measures": (
        "MEASURES",
        "measure_named",
        "similarity",
    ),
    "models": (
        "default_folder",
        "load",
        "model_at",
    ),
    "paragraph.embedder": ("ParagraphVectors",),
    "paragraph.huffman": ("HuffmanVectors",),
    "paragraph.inference": ("Inference",),
    "pipeline": (
        "PIPELINES",
        "Pipeline",
        "Prepared",
        "pipeline_named",
    ),
    "polarity.detect": (
        "Evidence",
        "Polarity",
        "polarity_of",
    ),
    "polarity.lexicon": (
        "Lexicon",
        "read_lexicon",
    ),
    "polarity.scorer": (
        "WithPolarity",
        "adjusted",
    ),
    "scorer": (
        "Cosine",
        "Mean",
        "Words",
    ),
    "sent2vec.model": ("SentenceNgrams",),
    "stops": (
        "STOP_LISTS",
        "StopList",
        "stop_list",
    ),
    "tfidf": ("TfIdf",),
    "tfidf_file": (
        "load_tfidf",
        "save_tfidf",
    ),
    "vectors.model": ("WordVectors",),
    "vectors.pooling": (
        "POOLINGS",
        "PooledVectors",
        "Pooling",
        "load_word_embedder",
        "pooling_named",
    ),
    "vectors.training": ("text_vectors",),
}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "POOLINGS",
    "STOP_LISTS",
    "Calibration",
    "Cosine",
    "Document",
    "Evidence",
    "GoldSet",
    "HuffmanVectors",
    "Hybrid",
    "Inference",
    "Lexicon",
    "Mean",
    "Measure",
    "MtebEncoder",
    "ParagraphVectors",
    "Pipeline",
    "Polarity",
    "PooledVectors",
    "Pooling",
    "Prepared",
    "SentenceNgrams",
    "StopList",
    "TfIdf",
    "WithPolarity",
    "WordVectors",
    "Words",
    "adjusted",
    "default_folder",
    "evaluate_scorers",
    "explain",
    "fit_calibration",
    "fit_hybrid",
    "load",
    "load_calibration",
    "load_regression",
    "load_tfidf",
    "load_word_embedder",
    "measure_named",
    "model_at",
    "open_model",
    "pipeline_named",
    "polarity_of",
    "pooling_named",
    "read_biosses",
    "read_corpus",
    "read_ctr",
    "read_lexicon",
    "read_pairs",
    "save_calibration",
    "save_regression",
    "save_tfidf",
    "shipped_calibration",
    "similarity",
    "stop_list",
    "text_servable",
    "text_vectors",
]

__getattr__, __dir__ = face(__name__, _MODULES)
