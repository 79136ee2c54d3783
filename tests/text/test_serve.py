"""A host of sentence models: what it answers, what it refuses, what it keeps in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_sentences import FAMILY, LONGEST, WIDTH, tiny_folder, tiny_host, tiny_zoo

from quiltwork.core.batcher import BatchLimits
from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Explains, Input, Offers, Servable
from quiltwork.gateway.schemas import check
from quiltwork.text.tasks import MOST_SENTENCES, TASKS
from quiltwork.zoo import Zoo

A, B, C = ModelRef("a"), ModelRef("b"), ModelRef("c")
BYTES = 64 * WIDTH * 4
"""Of one model's table."""


@pytest.fixture
def zoo(tmp_path):
    return tiny_zoo(tmp_path, A, B, C, ModelRef("own", "red"))


@pytest.fixture
def host(zoo):
    made = tiny_host(zoo)
    made.load(A)
    yield made
    made.close()


def ask(host, task, fields, *, model=A, tenant="public", **options):
    """The one part of an answer: its fields, and its bytes."""
    (part,) = host.submit(model, Input(task, fields), options, caller=Caller(tenant)).wait()
    assert part.last
    return part


def vectors(host, *sentences, **more):
    part = ask(host, "embeddings", {"input": list(sentences)}, **more)
    return np.frombuffer(part.blobs["vectors"], "<f4").reshape(-1, part.fields["dimensions"])


def embedder(host, ref=A):
    return host._hosts.find(ref).embedder


def test_it_is_a_servable_that_offers_and_explains(host):
    assert isinstance(host, Servable)
    assert isinstance(host, Offers)
    assert isinstance(host, Explains)
    assert sorted(host.tasks()) == ["embeddings", "similarity"]


def test_a_vector_is_the_models_own_whatever_is_asked_beside_it(host):
    alone, beside = vectors(host, "one two"), vectors(host, "three", "one two", "four")
    assert (alone[0] == beside[1]).all()
    assert (alone == embedder(host).embed(["one two"]).vectors).all()


def test_a_sentence_that_stands_twice_is_embedded_once(host):
    vectors(host, "one", "two", "one")
    assert embedder(host).asked[-1] == ("one", "two")


def test_what_is_cut_or_empty_to_the_model_is_said(host):
    fields = ask(host, "embeddings", {"input": ["fine", "w " * (LONGEST + 1), "xx", ""]}).fields
    assert (fields["truncated"], fields["unknown"]) == ([1], [2, 3])
    assert fields["usage"] == {"prompt_tokens": 1 + LONGEST, "total_tokens": 1 + LONGEST}


def test_shorter_vectors_only_where_the_model_was_made_for_them(host):
    whole, short = vectors(host, "one two", "xx"), vectors(host, "one two", "xx", dimensions=4)
    assert short.shape == (2, 4)
    assert np.allclose(short[0], whole[0, :4] / np.linalg.norm(whole[0, :4]))
    assert not short[1].any()
    assert (vectors(host, "one two", dimensions=WIDTH) == whole[:1]).all()
    for wrong in (3, WIDTH + 1):
        with pytest.raises(BadInputError, match="it has 4, 8") as caught:
            vectors(host, "one", dimensions=wrong)
        assert caught.value.where == "dimensions"


def test_pairs_come_with_score_rating_and_polarity(host):
    pairs = [["it works", "it works"], ["it works", "it does not"], ["it", "xx"]]
    same, opposite, unknown = ask(host, "similarity", {"pairs": pairs}).fields["pairs"]
    assert (same["score"], same["rating"]["value"], same["polarity"]["kind"]) == (1.0, 4.0, "same")
    assert -1 <= opposite["score"] < 1
    assert opposite["polarity"]["kind"] == "opposite"
    assert (unknown["score"], unknown["rating"]) == (None, None)
    assert "explain" not in same
    (told,) = ask(host, "similarity", {"pairs": pairs[:1]}, explain=True).fields["pairs"]
    assert told["explain"] == {"aligned": ["it", "works"]}


def test_a_matrix_is_every_pair(host):
    a, b = ["one", "two three", "xx"], ["three", "one"]
    rows = ask(host, "similarity", {"a": a, "b": b}).fields["matrix"]
    pairs = ask(host, "similarity", {"pairs": [[x, y] for x in a for y in b]}).fields["pairs"]
    flat = [score for row in rows for score in row]
    assert flat[1] == 1.0
    assert [score is None for score in flat] == [False] * 4 + [True] * 2
    assert np.allclose(flat[:4], [pair["score"] for pair in pairs[:4]], atol=1e-6)


@pytest.mark.parametrize("task", ["embeddings", "similarity"])
def test_answers_fit_what_is_declared(host, task):
    fields = {"embeddings": {"input": ["a", ""]}, "similarity": {"pairs": [["a", "xx"]]}}[task]
    part = ask(host, task, fields)
    check({**part.fields, **dict.fromkeys(part.blobs, "")}, TASKS[task].output)


@pytest.mark.parametrize(
    ("task", "fields", "options", "where"),
    [
        ("embeddings", {}, {}, "input"),
        ("embeddings", {"input": []}, {}, "input"),
        ("embeddings", {"input": "text"}, {}, "input"),
        ("embeddings", {"input": [1]}, {}, "input"),
        ("embeddings", {"input": ["a"] * (MOST_SENTENCES + 1)}, {}, "input"),
        ("embeddings", {"input": ["a"]}, {"dimensions": 0}, "dimensions"),
        ("embeddings", {"input": ["a"]}, {"dimensions": True}, "dimensions"),
        ("similarity", {}, {}, "pairs"),
        ("similarity", {"pairs": [["a"]]}, {}, "pairs"),
        ("similarity", {"pairs": [["a", 1]]}, {}, "pairs"),
        ("similarity", {"pairs": []}, {}, "pairs"),
        ("similarity", {"a": ["x"]}, {}, "a"),
        ("similarity", {"a": ["x"], "b": []}, {}, "b"),
        ("similarity", {"a": ["x"], "pairs": [["a", "b"]]}, {}, "a"),
        ("similarity", {"a": ["x"] * 1001, "b": ["y"] * 1000}, {}, "a"),
        ("similarity", {"a": ["x"], "b": ["y"]}, {"explain": True}, "explain"),
        ("similarity", {"pairs": [["a", "b"]]}, {"explain": 1}, "explain"),
        ("rhyme", {}, {}, "task"),
    ],
)
def test_what_is_not_well_formed_is_refused_by_field(host, task, fields, options, where):
    with pytest.raises(BadInputError) as caught:
        host.submit(A, Input(task, fields), options, caller=Caller())
    assert caught.value.where == where


SENTENCES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", " ", "\0\x1b", "µ-opioid", "μ‐opioid", "ﬁbrosis", "Ω" * 9, "word " * 20_000, "\ud800"]),
)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=4))
def test_scores_are_symmetric_within_bounds_and_one_of_a_sentence_with_itself(pairs):
    forward = scored(pairs)
    assert forward == scored([(b, a) for a, b in pairs])
    assert all(score is None or -1 <= score <= 1 for score in forward)
    assert all(score in (1.0, None) for score in scored([(a, a) for a, _ in pairs]))


def scored(pairs):
    found = ask(SHARED["host"], "similarity", {"pairs": [list(pair) for pair in pairs]}).fields["pairs"]
    return [pair["score"] for pair in found]


SHARED: dict[str, object] = {}


@pytest.fixture(autouse=True, scope="module")
def shared(tmp_path_factory):
    """One host for all examples of a property."""
    made = tiny_host(tiny_zoo(tmp_path_factory.mktemp("shared"), A))
    made.load(A)
    SHARED["host"] = made
    yield
    made.close()


def test_requests_that_come_while_a_batch_runs_make_up_the_next(host):
    model = embedder(host)
    model.gate.clear()
    model.reached.clear()
    first = host.submit(A, Input("embeddings", {"input": ["zero"]}), {}, caller=Caller())
    assert model.reached.wait(20)
    later = [host.submit(A, Input("embeddings", {"input": [w, "same"]}), {}, caller=Caller()) for w in ("one", "two")]
    model.gate.set()
    assert [len(stream.wait()) for stream in (first, *later)] == [1, 1, 1]
    assert model.asked == [("zero",), ("one", "same", "two")]


def test_one_bad_request_of_a_batch_spoils_nobody_elses(host):
    model = embedder(host)
    model.gate.clear()
    model.reached.clear()
    host.submit(A, Input("embeddings", {"input": ["zero"]}), {}, caller=Caller())
    assert model.reached.wait(20)
    bad = host.submit(A, Input("embeddings", {"input": ["one"]}), {"dimensions": 5}, caller=Caller())
    good = host.submit(A, Input("embeddings", {"input": ["one"]}), {}, caller=Caller())
    model.gate.set()
    with pytest.raises(BadInputError):
        bad.wait()
    assert good.wait()[0].fields["dimensions"] == WIDTH


def test_too_many_waiting_are_refused_and_counted(zoo):
    host = tiny_host(zoo, limits=BatchLimits(1, 0.0, 1))
    host.load(A)
    model = embedder(host)
    model.gate.clear()
    running = host.submit(A, Input("embeddings", {"input": ["zero"]}), {}, caller=Caller())
    assert model.reached.wait(20)
    waiting = host.submit(A, Input("embeddings", {"input": ["one"]}), {}, caller=Caller("red"))
    with pytest.raises(CapacityError):
        host.submit(A, Input("embeddings", {"input": ["two"]}), {}, caller=Caller("red"))
    model.gate.set()
    assert running.wait()
    assert waiting.wait()
    refused = [s for s in host.samples() if s.name == "quiltwork_text_refused_total"]
    assert [(s.value, s.labels) for s in refused] == [(1.0, {"tenant": "red"})]
    host.close()


def test_a_model_that_fails_tells_who_asked_and_goes_on(host):
    model = embedder(host)
    honest, model.embed = model.embed, lambda sentences: 1 / 0
    with pytest.raises(QuiltworkError, match="ZeroDivisionError"):
        vectors(host, "one")
    model.embed = honest
    assert vectors(host, "one").shape == (1, WIDTH)


def test_models_of_another_kind_are_not_taken(host, zoo, tmp_path):
    with Zoo(zoo) as opened:
        opened.add(tiny_folder(tmp_path / "odd", model_type="oddity"))
    assert host.takes(A)
    assert not host.takes(ModelRef("odd"))
    with pytest.raises(NotFoundError):
        host.takes(ModelRef("nobody"))


def test_only_what_is_loaded_and_visible_answers(host):
    host.load(ModelRef("own", "red"))
    assert vectors(host, "one", model=ModelRef("own", "red"), tenant="red").shape == (1, WIDTH)
    for model, tenant in ((B, "public"), (ModelRef("own", "red"), "blue")):
        with pytest.raises(NotFoundError):
            vectors(host, "one", model=model, tenant=tenant)
    host.unload(A)
    with pytest.raises(NotFoundError):
        vectors(host, "one")
    with pytest.raises(NotFoundError):
        host.unload(A)


def test_aliases_answer_as_the_model(zoo):
    host = tiny_host(zoo, aliases={ModelRef("nick"): A})
    host.load(ModelRef("nick"))
    assert [(h.ref.name, h.info.get("alias_of")) for h in host.models()] == [("a", None), ("nick", "a")]
    assert (vectors(host, "one", model=ModelRef("nick")) == vectors(host, "one")).all()
    host.close()


def test_loading_again_brings_the_present_version(host, zoo, tmp_path):
    before = vectors(host, "one")
    host.load(A)
    assert (vectors(host, "one") == before).all()
    with Zoo(zoo) as opened:
        opened.add(tiny_folder(tmp_path / "new", seed=9), name="a", replace=True)
    assert (vectors(host, "one") == before).all()
    host.load(A)
    assert not (vectors(host, "one") == before).any()


def test_offered_models_are_loaded_when_asked_and_idle_ones_make_room(zoo):
    host = tiny_host(zoo, memory_bytes=2 * BYTES)
    for ref in (A, B, C):
        host.offer(ref)
    assert states(host) == ["absent"] * 3
    vectors(host, "one", model=A)
    vectors(host, "one", model=B)
    vectors(host, "one", model=A)
    vectors(host, "one", model=C)  # B has been idle longest
    assert states(host) == ["ready", "absent", "ready"]
    assert {s.name: s.value for s in host.samples()}["quiltwork_text_evictions_total"] == 1
    host.close()


def test_a_pinned_model_stays(zoo):
    host = tiny_host(zoo, memory_bytes=BYTES)
    host.pin(A)
    host.offer(B)
    with pytest.raises(CapacityError):
        vectors(host, "one", model=B)
    assert states(host) == ["ready", "absent"]
    host.pin(A, False)
    vectors(host, "one", model=B)
    assert states(host) == ["absent", "ready"]
    host.close()


def test_what_does_not_fit_is_refused_and_nothing_that_was_loaded_goes_for_it(zoo):
    host = tiny_host(zoo, memory_bytes=BYTES)
    host.load(A)
    with pytest.raises(CapacityError, match="are free"):
        host.load(B)
    assert states(host) == ["ready"]
    small = tiny_host(zoo, memory_bytes=BYTES - 1)
    with pytest.raises(CapacityError, match="are allowed"):
        small.offer(A)
    host.close()
    small.close()


def test_a_model_that_cannot_be_read_is_not_hosted(zoo):
    def broken(files):
        raise BadInputError("is broken", where=files.where)

    host = tiny_host(zoo, load=broken)
    with pytest.raises(BadInputError, match="is broken"):
        host.load(A)
    assert host.models() == []
    host.offer(A)
    with pytest.raises(BadInputError, match="is broken"):
        vectors(host, "one")
    host.close()


def states(host):
    return [hosted.state for hosted in host.models()]


def test_it_shows_who_shares_blocks_and_names_nobody_elses(zoo, tmp_path):
    with Zoo(zoo) as opened:
        opened.add(tiny_folder(tmp_path / "twin", longest=7), name="twin", tenant="red")
    host = tiny_host(zoo)
    for ref in (A, ModelRef("twin", "red")):
        host.load(ref)
    rows = {row["model"]: row for row in host.status()["models"]}
    assert rows["a"]["family"] == FAMILY
    assert [cell["shared_by"] for cell in rows["a"]["cells"]] == [2]
    told = host.explain(A, tenant="blue")
    assert told["parts"][0]["shared_with"] == {"models": [], "hidden": 1}
    assert host.explain(A, tenant="red")["parts"][0]["shared_with"]["models"] == ["red::twin"]
    json.dumps([told, host.status()])
    with pytest.raises(NotFoundError):
        host.explain(ModelRef("twin", "red"), tenant="blue")
    host.close()


def test_closing_answers_what_waits_and_takes_nothing_new(zoo):
    host = tiny_host(zoo)
    host.load(A)
    stream = host.submit(A, Input("embeddings", {"input": ["one"]}), {}, caller=Caller())
    host.close(drain_seconds=20)
    assert stream.wait()
    with pytest.raises((CapacityError, NotFoundError)):
        vectors(host, "one")
    with pytest.raises(CapacityError):
        host.load(B)
