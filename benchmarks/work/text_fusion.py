"""The scorers that the room's figures are of: chosen on CTR, and frozen before BIOSSES was looked at.

``text_choices.json`` holds every choice; ``FROZEN`` is its digest. A figure of other choices is another figure. A
recipe is the name of a score or of another recipe, or ``{"mean": [...]}`` of recipes.

The calibration's confidence was chosen later, on CTR's halves (``text_interval.py``), when BIOSSES had been run once
without it and fewer ratings than promised lay in the interval; scores and recipes are those of the first run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.progress import Say, ignore

if TYPE_CHECKING:
    from quiltwork.text.scorer import Scorer

FILE = Path(__file__).with_name("text_choices.json")
FROZEN = "6a13c9feec9f2f642cae7cfb9778ce59bfda0a5834cf59c79ed2d296dc0dc141"
TRAINED = "QUILTWORK_TRAINED"
"""Environment variable: the folder of trained models, in which each seed has one."""
RECIPES = ("unsupervised", "with_encoder")
Choices = Mapping[str, Any]


def frozen() -> tuple[Choices, str]:
    """The choices and their digest. Raises BadInputError where they are not those that were frozen."""
    choices: Choices = json.loads(FILE.read_text(encoding="utf-8"))
    found = digest(choices)
    if found != FROZEN:
        raise BadInputError(f"has the digest {found[:12]}, frozen was {FROZEN[:12]}", where=FILE.name)
    return choices, found[:12]


def digest(choices: Choices) -> str:
    """Of what the file says, however it is laid out."""
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()


def strings(choices: Choices) -> Scorer:
    """The scorer that needs no training."""
    from quiltwork.text.evaluate.candidates import words

    return words(choices["strings"])


def trained_folders(choices: Choices, environment: Mapping[str, str] = os.environ) -> dict[int, Path]:
    """The folder of each seed's word vectors. Raises NotFoundError, which says how they are made, where one is not."""
    root, pattern = environment.get(TRAINED, ""), choices["vectors"]["folder"]
    folders = {seed: Path(root) / pattern.format(seed=seed) for seed in choices["vectors"]["seeds"]}
    absent = next((folder for folder in folders.values() if not root or not folder.is_dir()), None)
    if absent is not None:
        hint = f"train them (docs/text-evaluation.md) and set {TRAINED} to the folder that holds {pattern}"
        raise NotFoundError("needs trained vectors", where=str(absent), hint=hint)
    return folders


def fixed_scorers(choices: Choices, data: Path, say: Say = ignore) -> dict[str, Scorer]:
    """Scorers that hang on no training seed: the measure of words, tf-idf of the corpora, the packaged encoder."""
    from quiltwork.text.evaluate.models import PACKAGED, open_model
    from quiltwork.text.scorer import Cosine

    say("counting the words of the corpora")
    return {
        choices["strings"]: strings(choices),
        "tfidf": tfidf(choices["tfidf"], data),
        "encoder": Cosine(open_model(PACKAGED, name="encoder")),
    }


def tfidf(told: Mapping[str, Any], data: Path) -> Scorer:
    """The cosine of word counts, weighed by how few sentences of the corpora have a word."""
    from quiltwork.text.corpus import read_corpus
    from quiltwork.text.pipeline import pipeline_named
    from quiltwork.text.scorer import Words
    from quiltwork.text.tfidf import TfIdf

    pipeline = pipeline_named(told["pipeline"])
    # Twenty million words, and few different ones.
    quick = pipeline if pipeline.stem is None else replace(pipeline, stem=cache(pipeline.stem))
    paths = [data / "text" / "corpus" / f"{name}.txt.xz" for name in told["corpora"]]
    sentences = (sentence for document in read_corpus(paths) for sentence in document.sentences)
    return Words("tfidf", TfIdf.fit(quick(sentence).tokens for sentence in sentences), pipeline)


def vectors(choices: Choices, folder: Path) -> Scorer:
    """The cosine of one seed's word vectors, pooled as was chosen."""
    from quiltwork.text.evaluate.models import Named
    from quiltwork.text.files import Folder
    from quiltwork.text.scorer import Cosine
    from quiltwork.text.vectors.pooling import load_word_embedder

    return Cosine(Named("vectors", load_word_embedder(Folder(folder), pooling(choices["vectors"]["pooling"]))))


def pooling(told: Any) -> Any:
    """A pooling by its name, or with some of its fields replaced."""
    from quiltwork.text.vectors.pooling import pooling_named

    return pooling_named(told) if isinstance(told, str) else replace(pooling_named(told["name"]), **told["with"])


def with_recipes(choices: Choices, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Scores (n,) by name, and those of the recipes besides."""
    found = dict(parts)
    for recipe in RECIPES:
        found[recipe] = mean_of(choices[recipe], found)
    return found


def mean_of(recipe: Any, parts: Mapping[str, Any]) -> Any:
    """The scores (n,) of a recipe: a plain mean of those that say something."""
    if isinstance(recipe, str):
        return parts[recipe]
    return np.nanmean([mean_of(one, parts) for one in recipe["mean"]], axis=0)
