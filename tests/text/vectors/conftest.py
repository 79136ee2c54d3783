"""Small corpora and trainings that take less than a second."""

from __future__ import annotations

import random

import pytest

from quiltwork.core.trainable import Setup
from quiltwork.text.vectors.training import text_vectors

TOPICS = (
    ("kinase", "phosphorylates", "substrate", "receptor", "signalling", "pathway", "activates"),
    ("patients", "received", "placebo", "trial", "randomised", "dose", "outcome"),
)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory):
    """40 documents of two topics; the words of one never stand beside those of the other."""
    generator = random.Random(0)
    lines = []
    for number in range(40):
        lines.append(f"# document {number}")
        for _ in range(12):
            words = generator.choices(TOPICS[number % 2], k=8)
            lines.append(" ".join(["the", *words, "of", "the", generator.choice(TOPICS[number % 2]), "."]))
    path = tmp_path_factory.mktemp("corpus") / "small.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def train(small_corpus, tmp_path):
    """Set up a training of the small corpus; ``out`` is a folder of that name."""

    def call(out="model", seed=0, **config):
        settings = {
            "corpus": str(small_corpus), "out": str(tmp_path / out), "dimensions": 12, "epochs": 2, "min_count": 1,
            "step_tokens": 1, "sample": 0.01, **config,
        }  # fmt: skip
        if settings.get("model", "fasttext") == "fasttext":
            settings = {"buckets": 500, **settings}
        made = text_vectors()
        made.setup(Setup(settings, seed))
        return made

    return call


@pytest.fixture
def to_the_end():
    """Step until it is finished; gives the last report."""

    def call(made):
        while not (report := made.step()).finished:
            pass
        return report

    return call
