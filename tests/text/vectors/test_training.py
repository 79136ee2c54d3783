"""Training is the same wherever it is stopped, in whichever process; it learns what gensim's own training learns."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

import quiltwork.text.vectors.training as training_module
from quiltwork.core.checkpoint import CheckpointFile
from quiltwork.core.errors import BadInputError, ConflictError, QuiltworkError
from quiltwork.core.trainable import Setup, State, Trainable
from quiltwork.text.files import Folder
from quiltwork.text.vectors.model import WordVectors
from quiltwork.text.vectors.training import text_vectors

MODELS = {
    "fasttext": {"model": "fasttext"},
    "fasttext cbow hs": {"model": "fasttext", "method": "cbow", "hierarchical": True, "negative": 0},
    "word2vec": {"model": "word2vec"},
    "word2vec cbow": {"model": "word2vec", "method": "cbow"},
    "word2vec hs": {"model": "word2vec", "hierarchical": True, "negative": 0},
}


@pytest.fixture
def short_stretches(monkeypatch):
    """So that a small corpus has many of them."""
    monkeypatch.setattr(training_module, "MOST_TOKENS", 300)


def arrays(made):
    return {name: array.tobytes() for name, array in made.state_dict().arrays.items()}


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_what_is_stopped_and_gone_on_with_is_bit_for_bit_what_is_not(
    train, to_the_end, settings, short_stretches, tmp_path
):
    whole = train("whole", **settings)
    to_the_end(whole)
    file = CheckpointFile(tmp_path / "state.safetensors")
    stopped = train("parts", **settings)
    for _ in range(3):
        for _ in range(5):
            stopped.step()
        file.write(stopped.state_dict())
        stopped = train("parts", **settings)
        stopped.load_state_dict(file.read())
    report = to_the_end(stopped)
    assert report.total > 20
    assert arrays(stopped) == arrays(whole)
    names = ("model.safetensors", "config.json", "vocabulary.txt")
    assert [(tmp_path / "parts" / name).read_bytes() for name in names] == [
        (tmp_path / "whole" / name).read_bytes() for name in names
    ]


def test_a_state_is_a_copy(train, short_stretches):
    made = train()
    made.step()
    state = made.state_dict()
    before = {name: array.copy() for name, array in state.arrays.items()}
    made.step()
    assert all(np.array_equal(state.arrays[name], array) for name, array in before.items())


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_it_learns_bit_for_bit_what_gensims_own_training_learns(train, to_the_end, settings):
    """An epoch of the small corpus is one stretch, which is one of gensim's jobs."""
    from gensim.models import FastText, Word2Vec

    made = train(epochs=3, rate=0.025, **settings)
    to_the_end(made)
    text = made.text
    words = text.vocabulary.words
    sentences = [[words[i] for i in text.sentence(number)] for number in range(len(text.ends))]
    kind, more = (FastText, {"bucket": 500}) if settings["model"] == "fasttext" else (Word2Vec, {})
    theirs = kind(
        vector_size=12, epochs=3, min_count=1, sample=0.01, workers=1, seed=0, sorted_vocab=0,
        sg=int(settings.get("method") != "cbow"), hs=int(settings.get("hierarchical", False)),
        negative=settings.get("negative", 5), **more,
    )  # fmt: skip
    theirs.build_vocab_from_freq(dict(zip(words, text.vocabulary.counts.tolist(), strict=True)))
    theirs.train(sentences, total_examples=len(sentences), epochs=3)
    assert len(text.ids) < training_module.MOST_TOKENS
    ours = WordVectors.load(Folder(made._settings.out))
    assert np.array_equal(ours.vectors, theirs.wv.vectors)
    if settings.get("hierarchical"):
        assert np.array_equal(ours.huffman.nodes, theirs.syn1)
        for word in words:
            i = ours.index[word]
            path = slice(ours.huffman.starts[i], ours.huffman.starts[i + 1])
            assert ours.huffman.points[path].tolist() == theirs.wv.get_vecattr(word, "point").tolist()
            assert ours.huffman.codes[path].tolist() == theirs.wv.get_vecattr(word, "code").tolist()


def test_the_seed_decides(train, to_the_end):
    states = []
    for seed in (1, 1, 2):
        made = train(f"seed {seed} {len(states)}", seed=seed)
        to_the_end(made)
        states.append(arrays(made))
    assert states[0] == states[1] != states[2]


SCRIPT = """
import sys
from quiltwork.core.trainable import Setup
from quiltwork.text.vectors.training import text_vectors
made = text_vectors()
made.setup(Setup({"corpus": sys.argv[1], "out": sys.argv[2], "dimensions": 8, "epochs": 1, "min_count": 1,
                  "buckets": 100}, 3))
while not made.step().finished:
    pass
"""


def test_processes_agree_whatever_their_hash_seed(small_corpus, tmp_path):
    found = set()
    for hash_seed in ("1", "2"):
        out = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", SCRIPT, small_corpus, out], env=environment, check=True)
        found.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
    assert len(found) == 1


def test_words_that_stand_together_come_out_alike(train, to_the_end, tmp_path):
    to_the_end(train(epochs=60, model="word2vec", rate=0.05))
    vectors = WordVectors.load(Folder(tmp_path / "model"))

    def cosine(a, b):
        a, b = vectors.vector(a), vectors.vector(b)
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine("kinase", "receptor") > cosine("kinase", "placebo") + 0.3
    assert cosine("placebo", "patients") > cosine("placebo", "pathway") + 0.3


def test_the_rate_falls_in_a_straight_line_by_position(train, short_stretches):
    made = train(rate=0.1, last_rate=0.02, epochs=2)
    rates = []
    while not (report := made.step()).finished:
        rates.append(report.metrics["rate"])
    assert all(a > b for a, b in pairwise(rates))
    assert rates[len(rates) // 2] == pytest.approx(0.06, abs=0.003)
    assert rates[-1] == pytest.approx(0.02, abs=0.003)


def test_after_the_end_a_step_changes_nothing_but_brings_back_a_result_that_is_gone(train, to_the_end, tmp_path):
    made = train()
    last = to_the_end(made)
    before = arrays(made), (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert made.step() == last
    assert (arrays(made), (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns) == before
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    made.step()
    assert WordVectors.load(Folder(tmp_path / "model")).dimensions == 12


def test_a_sentence_longer_than_a_stretch_is_learnt_from_to_its_end(tmp_path, train, to_the_end):
    path = tmp_path / "long.txt"
    path.write_text("a b " * 12_000 + "last last\n" + "c d\n" * 5)
    made = train(corpus=str(path), model="word2vec", min_count=2, epochs=1)
    to_the_end(made)
    start = train("fresh", corpus=str(path), model="word2vec", min_count=2, epochs=1)
    place = made.text.vocabulary.words.index("last")
    moved = made.state_dict().arrays["outputs"][place] - start.state_dict().arrays["outputs"][place]
    assert np.abs(moved).max() > 0


def test_it_is_a_trainable_as_the_house_knows_it(train):
    assert isinstance(train(), Trainable)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "doc2vec"), ("words", 0), ("words", -1), ("words", "all"), ("min_count", 0), ("epochs", 10**9),
        ("dimensions", 10**9), ("window", 0), ("sample", 1), ("sample", float("nan")), ("negative", -1),
        ("method", "glove"), ("buckets", 10**12), ("shortest", 9), ("rate", 0), ("last_rate", 1.0), ("steps", 3),
        ("corpus", []), ("corpus", [3]), ("out", ""), ("split", "yes"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(small_corpus, tmp_path, field, value):
    given = {"corpus": str(small_corpus), "out": str(tmp_path / "model"), field: value}
    with pytest.raises(BadInputError) as caught:
        text_vectors().setup(Setup(given, 0))
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_ways_of_learning_cannot_be_off(train):
    with pytest.raises(BadInputError, match="negative"):
        train(negative=0)


def test_words_that_are_all_too_rare_are_told(train):
    with pytest.raises(BadInputError, match="no word occurs 100000 times"):
        train(min_count=100_000)


def test_a_folder_that_holds_something_else_is_refused_before_anything_is_read(train, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match="choose another folder"):
        train(corpus="/nowhere")
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_the_result_of_an_earlier_training_is_replaced_as_a_whole(train, to_the_end, tmp_path):
    to_the_end(train(dimensions=4))
    to_the_end(train(dimensions=6))
    assert WordVectors.load(Folder(tmp_path / "model")).dimensions == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"dimensions": 13}, {"words": 0.5}, {"rate": 0.03}])
def test_the_state_of_another_training_is_refused(train, other):
    state = train("a").state_dict()
    with pytest.raises(BadInputError, match="another training"):
        train("b", **other).load_state_dict(state)


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(train):
    made = train()
    state, before = made.state_dict(), arrays(made)
    lacking = {name: array for name, array in state.arrays.items() if name != "outputs"}
    for arrays_ in (lacking, {**state.arrays, "outputs": np.zeros((1, 2), np.float32)}):
        with pytest.raises(BadInputError, match="outputs"):
            made.load_state_dict(State(arrays_, state.meta))
    for meta in ({**state.meta, "done": -1}, {**state.meta, "done": "x"}, {**state.meta, "learner": {}}):
        with pytest.raises(BadInputError):
            made.load_state_dict(State(state.arrays, meta))
    assert arrays(made) == before


def test_nothing_is_left_where_the_result_cannot_be_written(train, to_the_end, tmp_path, monkeypatch):
    made = train()

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WordVectors, "save", full)
    with pytest.raises(QuiltworkError, match="disk is full"):
        to_the_end(made)
    assert list(tmp_path.iterdir()) == []
