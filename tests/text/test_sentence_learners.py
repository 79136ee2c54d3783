"""Training paragraph vectors and sent2vec: by the seed alone, interrupted or not, to a folder that can be used."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import Setup
from quiltwork.text.files import Folder
from quiltwork.text.paragraph.folder import load as load_paragraph
from quiltwork.text.sent2vec.folder import load as load_sent2vec
from quiltwork.text.token_corpus import word_tokens
from quiltwork.text.vectors.training import text_vectors

SMALL = {
    "pv": {"model": "pv", "dimensions": 8},
    "sent2vec": {"model": "sent2vec", "dimensions": 8, "buckets": 50, "negative": 3, "sample": 1.0},
}
LOADERS = {"pv": load_paragraph, "sent2vec": load_sent2vec}
every_kind = pytest.mark.parametrize("kind", SMALL)


@pytest.fixture
def corpus(tmp_path):
    """2,000 sentences that say one of two things."""
    rng = np.random.default_rng(4)
    topics = [
        word_tokens("gene binds protein kinase cells in dna of the enzyme promoter site"),
        word_tokens("patients had pain after surgery in years of the hospital care trial"),
    ]
    lines = [" ".join(rng.permutation(topics[i % 2])[:5]) for i in range(2000)]
    (tmp_path / "corpus.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "corpus.txt"


def training(kind, corpus, out, *, seed=1, **settings):
    made = text_vectors()
    told = {**SMALL[kind], "corpus": str(corpus), "out": str(out), "epochs": 2, "step_tokens": 3000, **settings}
    made.setup(Setup(told, seed))
    return made


def finish(trainable):
    while not trainable.step().finished:
        pass
    return trainable.state_dict()


@every_kind
def test_a_training_goes_on_bit_by_bit_where_it_was_stopped(kind, corpus, tmp_path):
    whole = finish(training(kind, corpus, tmp_path / "a"))
    stopped = training(kind, corpus, tmp_path / "b")
    stopped.step()
    state = stopped.state_dict()
    stopped.step()  # what comes after the state was taken is not in it
    resumed = training(kind, corpus, tmp_path / "b")
    resumed.load_state_dict(state)
    again = finish(resumed)
    assert set(again.arrays) == set(whole.arrays)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@every_kind
def test_another_seed_is_another_model(kind, corpus, tmp_path):
    one, other = (finish(training(kind, corpus, tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    assert any(not np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


@every_kind
def test_what_was_trained_tells_topics_apart(kind, corpus, tmp_path):
    more = {"epochs": 20, "rate": 0.2} if kind == "sent2vec" else {"epochs": 5, "rate": 0.05}
    finish(training(kind, corpus, tmp_path / "out", **more))
    embedder = LOADERS[kind](Folder(tmp_path / "out"))
    a, same, other = embedder.embed(["gene binds protein", "kinase in cells", "patients had surgery"]).vectors
    assert cosine(a, same) > cosine(a, other) + 0.2


@every_kind
def test_a_state_of_another_size_is_refused(kind, corpus, tmp_path):
    state = training(kind, corpus, tmp_path / "a").state_dict()
    with pytest.raises(BadInputError):
        training(kind, corpus, tmp_path / "b", dimensions=6).load_state_dict(state)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("pv", "method", "glove"), ("pv", "window", 0), ("pv", "predicts", "dm"), ("pv", "how", 3), ("pv", "passes", 0),
        ("pv", "dimensions", 10**6), ("pv", "negative", 5),
        ("sent2vec", "longest", 0), ("sent2vec", "buckets", -1), ("sent2vec", "negative", 0), ("sent2vec", "sample", 0),
        ("sent2vec", "dropped", "four"), ("sent2vec", "dimensions", 2.5),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(kind, setting, value, corpus, tmp_path):
    with pytest.raises(BadInputError, match=setting):
        training(kind, corpus, tmp_path / "out", **{setting: value})


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
