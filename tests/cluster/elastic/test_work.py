"""A trainable as the trainer sees it: what it is told, and what it cannot be asked for."""

from __future__ import annotations

import json

import pytest
import tiny_elastic

from quiltwork.cluster.elastic.settings import WorkerSettings
from quiltwork.cluster.elastic.work import Work
from quiltwork.cluster.spec import Batch, LearningRate
from quiltwork.core.errors import BadInputError


def settings(tmp_path, trainable="tiny_elastic:TinyElastic", config=None, **other):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"batch": 6} if config is None else config))
    return WorkerSettings("job", "w0", "127.0.0.1:1", trainable, config=str(path), seed=3, **other)


def test_workers_of_one_job_have_one_layout_and_those_of_another_have_not(tmp_path):
    one, same = Work(settings(tmp_path)), Work(settings(tmp_path, batch=Batch(size=9)))
    assert one.layout.digest() == same.layout.digest()
    assert one.layout.digest() != Work(settings(tmp_path, config={"hidden": 9})).layout.digest()
    assert Work(settings(tmp_path, "tiny_elastic:TinyPlain")).layout is None


def test_to_warm_up_changes_nothing(tmp_path):
    work = Work(settings(tmp_path))
    _, state = tiny_elastic.trained(0)
    assert {n: a.tobytes() for n, a in work.state().arrays.items()} == {n: a.tobytes() for n, a in state.arrays.items()}
    assert work.done == 0


def test_the_size_of_a_batch_that_nobody_gave_is_the_trainables_own(tmp_path):
    work = Work(settings(tmp_path, batch=Batch("fixed_local")))
    work.resize(0, 3)
    assert (work.course.size, len(work.next_samples())) == (6, 18)
    work.resize(0, 1)
    assert (work.course.first, len(work.next_samples())) == (18, 6)


def test_a_rate_is_told_when_it_changes(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(tiny_elastic.TinyElastic, "set_learning_rate", lambda self, rate: told.append(rate))
    work = Work(settings(tmp_path, batch=Batch("fixed_local", 2), lr=LearningRate(0.5, "sqrt", 0)))
    work.resize(0, 1)
    for _ in range(3):
        work.set_rate()
        work.step()
    work.resize(0, 4)
    work.set_rate()
    assert told == [0.5, 1.0]


def test_what_was_half_received_is_not_begun_with(tmp_path):
    work, other = Work(settings(tmp_path)), Work(settings(tmp_path))
    for _ in range(4):
        other.step()
    work.load(other.state(), other.done, other.finished, None)
    assert (work.holds, work.done) == (True, 4)
    work.begin_afresh()
    assert (work.done, work.state().meta["taken"]) == (0, 0)


@pytest.mark.parametrize(
    ("trainable", "other", "what"),
    [
        ("builtins:dict", {}, "builtins:dict: does not make a Trainable"),
        ("tiny_elastic:TinyPlain", {"lr": LearningRate(0.1)}, "cannot be given a batch or a learning rate"),
        ("tiny_elastic:TinyPlain", {"batch": Batch("fixed_local")}, "it is not Tunable"),
        ("tiny_elastic:TinyPlain", {"batch": Batch(size=3)}, "it is not Tunable"),
        ("tiny_elastic:TinyPlain", {"logical": 2}, "it is not Elastic"),
    ],
)
def test_what_a_trainable_cannot_do_is_refused(tmp_path, trainable, other, what):
    with pytest.raises(BadInputError, match=what):
        Work(settings(tmp_path, trainable, config={}, **other))


@pytest.mark.parametrize(("text", "what"), [("[1]", "is not a JSON object"), ("{", "is not JSON"), (None, "No such")])
def test_a_configuration_that_is_none_is_named(tmp_path, text, what):
    path = tmp_path / "wrong.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInputError, match=f"wrong.json: .*{what}"):
        Work(WorkerSettings("job", "w0", "127.0.0.1:1", "tiny_elastic:TinyElastic", config=str(path)))


def test_a_step_without_samples_is_refused(tmp_path):
    work = Work(settings(tmp_path, config={"batch": 0}))
    with pytest.raises(BadInputError, match="next_samples: gave no samples"):
        work.next_samples()
