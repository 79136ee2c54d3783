"""An index gives sentences back by what they mean, and never gives what is not whole."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_sentences import TinyWords, tiny_folder

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError
from quiltwork.text.files import Folder
from quiltwork.text.search import Graph, Index, build, opposites
from quiltwork.text.search.folder import ENDS, FILES, GRAPH, META, TEXTS, VECTORS

pytest.importorskip("usearch")

WORDS = [f"w{at}" for at in range(40)]
SENTENCES = [f"{a} {b}" for at, a in enumerate(WORDS) for b in WORDS[at + 1 :]][:600]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return TinyWords(Folder(tiny_folder(tmp_path_factory.mktemp("model") / "m", rows=4096)))


@pytest.fixture
def built(tmp_path, embedder):
    """Some sentences; ``xx`` says nothing to the model."""
    build(tmp_path / "index", [*SENTENCES[:300], "xx", *SENTENCES[300:]], embedder, model="m", threads=1)
    return tmp_path / "index"


def test_every_sentence_finds_itself_first(built, embedder):
    with Index(built) as index:
        assert (len(index), index.meta.left_out, index.meta.model) == (600, 1, "m")
        asked = SENTENCES[::50]
        for sentence, hits in zip(asked, index.search(asked, embedder, 5), strict=True):
            assert (hits[0].text, len(hits)) == (sentence, 5)
            assert hits[0].score == pytest.approx(1, abs=2e-3)
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True)


def test_what_is_found_is_nearly_what_looking_at_all_finds(built, embedder):
    vectors = embedder.embed(["w1 w2 w3", "w7 w30", "w11"]).vectors
    with Index(built) as index:
        found, exact = index.nearest(vectors, 10), index.exactly(vectors, 10)
        shared = [len(set(a) & set(b)) for a, b in zip(found[0].tolist(), exact[0].tolist(), strict=True)]
        assert min(shared) >= 9
        assert np.allclose(found[1][:, 0], exact[1][:, 0], atol=1e-6)


def test_a_query_without_a_vector_finds_nothing_and_a_small_index_gives_all_it_has(tmp_path, embedder):
    build(tmp_path / "i", ["w1 w2", "w3"], embedder, model="m")
    with Index(tmp_path / "i") as index:
        nothing, both = index.search(["xx", "w3"], embedder, 10)
        assert nothing == []
        assert [hit.text for hit in both] == ["w3", "w1 w2"]


def test_the_same_sentences_give_the_same_texts_whatever_their_letters(tmp_path, embedder):
    odd = ["μ-opioid w1", "Ωmega w2 \U0001f9ec", "w3 \0\x1b", "w4 \ud800", "w5 " + "z" * 100_000]
    build(tmp_path / "i", odd, embedder, model="m")
    with Index(tmp_path / "i") as index:
        assert [index.text(row) for row in range(5)] == odd
        with pytest.raises(BadInputError):
            index.text(5)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_an_index_that_is_not_whole_is_refused_by_file(built, name, harm):
    path = built / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-2] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptionError, match=name):
        Index(built)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "files": 3}', '{"format": 1, "x": 1}']
)
def test_a_description_that_is_none_is_refused(built, text):
    (built / META).write_text(text)
    with pytest.raises(BadInputError, match=META):
        Index(built)


@given(
    st.sampled_from(["count", "dimensions", "connectivity", "model"]), st.sampled_from([-1, 0.5, None, "a", [], 2**70])
)
def test_absurd_numbers_in_the_description_are_refused(field, value):
    folder = SHARED["index"]
    kept = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps(kept | {field: value}))
    try:
        if (field, value) != ("model", "a"):
            with pytest.raises((BadInputError, CorruptionError)):
                Index(folder)
    finally:
        (folder / META).write_text(json.dumps(kept))


SHARED: dict = {}


@pytest.fixture(autouse=True, scope="module")
def shared(tmp_path_factory, embedder):
    folder = tmp_path_factory.mktemp("shared") / "index"
    build(folder, SENTENCES[:20], embedder, model="m")
    SHARED["index"] = folder


def test_nothing_stays_of_an_index_that_was_not_finished(tmp_path, embedder):
    def broken():
        yield from SENTENCES[:10]
        raise BadInputError("ends here", where="source")

    with pytest.raises(BadInputError, match="ends here"):
        build(tmp_path / "i", broken(), embedder, model="m")
    with pytest.raises(BadInputError, match="no sentence"):
        build(tmp_path / "i", ["xx", ""], embedder, model="m")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFoundError):
        Index(tmp_path / "i")


def test_a_folder_in_use_is_left_alone(built, embedder):
    before = sorted((path.name, path.stat().st_size) for path in built.iterdir())
    with pytest.raises(BadInputError, match="is in use"):
        build(built, SENTENCES[:5], embedder, model="m")
    assert sorted((path.name, path.stat().st_size) for path in built.iterdir()) == before


def test_wrong_shapes_and_numbers_are_refused(built):
    with Index(built) as index:
        for vectors in (np.zeros((1, 3), np.float32), np.zeros(8, np.float32)):
            with pytest.raises(BadInputError, match="do not fit"):
                index.nearest(vectors, 3)
        with pytest.raises(BadInputError):
            index.nearest(np.ones((1, index.meta.dimensions), np.float32), 0)
    for wrong in (0, 10**6):
        with pytest.raises(BadInputError, match="from 2 to 4096"):
            Graph(connectivity=wrong)


def test_progress_counts_every_sentence(tmp_path, embedder):
    told = []
    build(tmp_path / "i", [*SENTENCES[:50], "xx"], embedder, model="m", progress=told.append)
    assert sum(told) == 51


def test_near_sentences_that_say_the_opposite_are_found_once(tmp_path, embedder):
    collection = ["w1 w2 w3 works", "w1 w2 w3 works not", "w9 w8 w7", "w30 w31 not", "w1 w2 w3 works well"]
    build(tmp_path / "i", collection, embedder, model="m")

    def judge(a, b):
        return SimpleNamespace(kind="opposite" if ("not" in a) != ("not" in b) else "same")

    told = []
    with Index(tmp_path / "i") as index:
        found = list(opposites(index, least=0.5, neighbours=4, judge=judge, progress=told.append))
        assert {pair.rows for pair in found} == {(0, 1), (1, 4)}
        assert all(pair.texts == (collection[pair.rows[0]], collection[pair.rows[1]]) for pair in found)
        assert sum(told) == 5
        assert list(opposites(index, least=1.0, neighbours=4, judge=judge)) == []
        for wrong in ({"least": 2.0}, {"neighbours": 0}):
            with pytest.raises(BadInputError):
                list(opposites(index, judge=judge, **wrong))


def test_files_are_what_the_description_says(built):
    files = json.loads((built / META).read_text())["files"]
    assert set(files) == {GRAPH, VECTORS, TEXTS, ENDS}
    assert files[VECTORS][0] == 600 * 8 * 2
