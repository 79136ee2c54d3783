"""What an encoder says of sentences besides their vectors, and what its vectors hang on."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from tiny_encoders import SENTENCES, write_encoder

from quiltwork.core.errors import BadInputError
from quiltwork.text.encoder import load_encoder, packaged_encoder
from quiltwork.text.encoder.encoder import TOKENS_AT_ONCE
from quiltwork.text.files import Folder
from quiltwork.text.scorer import Cosine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "model", heads=("normalize",), longest=20)


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(Folder(folder))


def test_a_vector_hangs_on_its_sentence_alone(encoder):
    many = [f"{a} {b}" for a in SENTENCES for b in SENTENCES] * 2 + ["insulin"]
    assert sum(map(len, many)) > TOKENS_AT_ONCE
    together = encoder.embed(many).vectors
    backwards = encoder.embed(many[::-1]).vectors[::-1]
    alone = np.concatenate([encoder.embed([one]).vectors for one in many])
    assert np.abs(together - alone).max() < 1e-6
    assert np.abs(together - backwards).max() < 1e-6


def test_equal_sentences_of_one_request_have_the_same_bits(encoder):
    vectors = encoder.embed([SENTENCES[0], *SENTENCES, SENTENCES[0]]).vectors
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[-1])


def test_a_sentence_is_exactly_as_alike_to_itself_as_can_be(encoder):
    pairs = [(one, one) for one in SENTENCES]
    assert Cosine(encoder)(pairs).tolist() == [1.0] * len(pairs)
    a, b = (Cosine(encoder)([(x, y), *pairs])[0] for x, y in (SENTENCES[:2], SENTENCES[1::-1]))
    assert abs(a - b) < 1e-6


def test_what_is_left_out_of_a_long_sentence_is_told(encoder):
    told = encoder.embed(["insulin", "insulin " * 18, "insulin " * 19, "insulin " * 1000])
    assert encoder.longest == 20
    assert told.tokens.tolist() == [1, 18, 19, 1000]
    assert told.used.tolist() == [1, 18, 18, 18]
    assert told.truncated.tolist() == [False, False, True, True]
    assert np.array_equal(told.vectors[2], told.vectors[3])


def test_a_sentence_of_no_known_token_has_no_vector(encoder):
    told = encoder.embed(["", " \t\n", "\u65e5\u672c", "insulin \u65e5\u672c", "\x00\x07"])
    assert told.known.tolist() == [False, False, False, True, False]
    assert (told.vectors[~told.known] == 0).all()
    assert told.used[3] == 1
    assert told.tokens[3] > 1


def test_no_sentences_have_no_vectors(encoder):
    assert encoder.embed([]).vectors.shape == (0, encoder.dimensions)


def test_a_prompt_is_not_counted_as_the_sentence(tmp_path):
    folder = write_encoder(tmp_path / "model", prompts={"query": "query: "}, default="query", longest=12)
    told = load_encoder(Folder(folder)).embed(["", "insulin", "insulin " * 30])
    assert told.known.tolist() == [False, True, True]
    assert told.tokens.tolist() == [0, 1, 30]
    assert told.used[2] < 10


def test_threads_that_ask_at_once_get_the_same(encoder):
    wanted = encoder.embed(SENTENCES).vectors
    found = {}

    def ask(place):
        found[place] = encoder.embed(SENTENCES).vectors

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 6
    assert all(np.array_equal(one, wanted) for one in found.values())


def test_torch_has_as_many_cores_afterwards_as_before(encoder):
    import torch

    before = torch.get_num_threads()
    encoder.embed(SENTENCES)
    assert torch.get_num_threads() == before
    in_new_thread = []
    thread = threading.Thread(target=lambda: in_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert in_new_thread == [before]


def test_no_socket_is_opened(folder, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert load_encoder(Folder(folder)).embed(SENTENCES).known.all()
    assert packaged_encoder().embed(SENTENCES).vectors.shape == (len(SENTENCES), 384)


def test_a_digest_is_of_all_that_vectors_hang_on(tmp_path, encoder, folder):
    prompts = {"query": "query: "}
    others = [
        write_encoder(tmp_path / "seed", heads=("normalize",), longest=20, seed=1),
        write_encoder(tmp_path / "longest", heads=("normalize",), longest=21),
        write_encoder(tmp_path / "pooling", pooling=("max",), heads=("normalize",), longest=20),
        write_encoder(tmp_path / "prompts", heads=("normalize",), longest=20, prompts=prompts, default="query"),
    ]
    digests = {load_encoder(Folder(one)).digest for one in others}
    assert load_encoder(Folder(folder)).digest == encoder.digest
    assert len(digests | {encoder.digest}) == 5


@pytest.mark.parametrize(
    ("sentences", "line"),
    [
        ("one text", "sentences: must be a list of sentences, not one text"),
        (["fine", 3], "sentence 2: must be text, not int"),
        (["fine", "half \ud800"], "sentence 2: has half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_named(encoder, sentences, line):
    with pytest.raises(BadInputError) as raised:
        encoder.embed(sentences)
    assert line in str(raised.value)
