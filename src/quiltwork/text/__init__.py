"""Similarity of biomedical sentences (Blagec et al. 2019): so far by their words and letters, without any training.

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
    from quiltwork.text.evaluate.gold import GoldSet, read_biosses, read_ctr, read_pairs
    from quiltwork.text.evaluate.models import open_model
    from quiltwork.text.evaluate.mteb import MtebEncoder
    from quiltwork.text.evaluate.report import evaluate_scorers
    from quiltwork.text.hybrid import Hybrid, fit_hybrid, load_regression, save_regression
    from quiltwork.text.measure import Measure
    from quiltwork.text.measures import MEASURES, measure_named, similarity
    from quiltwork.text.pipeline import PIPELINES, Pipeline, Prepared, pipeline_named
    from quiltwork.text.scorer import Cosine, Mean, Words
    from quiltwork.text.stops import STOP_LISTS, StopList, stop_list
    from quiltwork.text.tfidf import TfIdf
    from quiltwork.text.tfidf_file import load_tfidf, save_tfidf

_MODULES = {
    "calibrate": ("Calibration", "fit_calibration", "load_calibration", "save_calibration", "shipped_calibration"),
    "evaluate.gold": ("GoldSet", "read_biosses", "read_ctr", "read_pairs"),
    "evaluate.models": ("open_model",),
    "evaluate.mteb": ("MtebEncoder",),
    "evaluate.report": ("evaluate_scorers",),
    "hybrid": ("Hybrid", "fit_hybrid", "load_regression", "save_regression"),
    "measure": ("Measure",),
    "measures": ("MEASURES", "measure_named", "similarity"),
    "pipeline": ("PIPELINES", "Pipeline", "Prepared", "pipeline_named"),
    "scorer": ("Cosine", "Mean", "Words"),
    "stops": ("STOP_LISTS", "StopList", "stop_list"),
    "tfidf": ("TfIdf",),
    "tfidf_file": ("load_tfidf", "save_tfidf"),
}

__all__ = [
    "MEASURES",
    "PIPELINES",
    "STOP_LISTS",
    "Calibration",
    "Cosine",
    "GoldSet",
    "Hybrid",
    "Mean",
    "Measure",
    "MtebEncoder",
    "Pipeline",
    "Prepared",
    "StopList",
    "TfIdf",
    "Words",
    "evaluate_scorers",
    "fit_calibration",
    "fit_hybrid",
    "load_calibration",
    "load_regression",
    "load_tfidf",
    "measure_named",
    "open_model",
    "pipeline_named",
    "read_biosses",
    "read_ctr",
    "read_pairs",
    "save_calibration",
    "save_regression",
    "save_tfidf",
    "shipped_calibration",
    "similarity",
    "stop_list",
]

__getattr__, __dir__ = face(__name__, _MODULES)
