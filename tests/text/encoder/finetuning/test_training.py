"""Fine-tuning an encoder on scored pairs: what is learned, by how many workers, and what it leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoders import SENTENCES, write_encoder

from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError, QuiltworkError
from quiltwork.core.trainable import Elastic, Setup, Tunable, mean_of
from quiltwork.text.encoder import load_encoder
from quiltwork.text.encoder.finetuning import encoder_trainable
from quiltwork.text.files import Folder
from quiltwork.text.scorer import Cosine


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("start") / "model", "mpnet", heads=("dense", "normalize"), old=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """All pairs of some sentences: those that share a first letter are alike."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["left", "right", "rating"])
        for a in SENTENCES:
            for b in SENTENCES:
                rows.writerow([a, b, 4 if a[0] == b[0] else 1])
    return path


@pytest.fixture
def settings(encoder, pairs, tmp_path):
    table = {"pairs": str(pairs), "a": "left", "b": "right", "score": "rating", "least": 0, "most": 4, "held_out": 0.2}
    return {**table, "model": str(encoder), "out": str(tmp_path / "out"), "steps": 6, "batch": 8, "rate": 5e-3}


def started(settings, seed=3, **more):
    trainable = encoder_trainable()
    trainable.setup(Setup({**settings, **more}, seed))
    return trainable


def same(a, b, within=0.0):
    assert a.arrays.keys() == b.arrays.keys()
    for name in a.arrays:
        assert np.abs(a.arrays[name] - b.arrays[name]).max(initial=0) <= within, name


def test_it_is_what_any_number_of_workers_can_train(settings):
    trainable = started(settings)
    assert isinstance(trainable, Elastic)
    assert isinstance(trainable, Tunable)


def test_a_gradient_is_the_same_however_its_samples_are_split(settings):
    # Not the weights behind it: a key's bias has no effect and a gradient of rounding alone, which Adam makes large.
    trainable = started(settings)
    for cut in (1, 3, 7):
        ids = trainable.next_samples()
        whole = trainable.gradients(ids)
        parts = [trainable.gradients(some) for some in (ids[:cut], ids[cut:], ids[:0])]
        same(mean_of(parts), whole, within=1e-6)
        trainable.apply(whole)


def test_micro_batches_have_the_gradient_of_the_whole_batch(settings):
    whole, parts = started(settings), started(settings, micro_batch=3)
    ids = whole.next_samples()
    same(whole.gradients(ids), parts.gradients(ids), within=1e-6)


def test_it_goes_on_exactly_where_it_was_stopped(settings):
    through = started(settings)
    for _ in range(2):
        through.step()
    state = through.state_dict()
    for _ in range(2):
        through.step()
    resumed = started(settings)
    resumed.load_state_dict(state)
    for _ in range(2):
        resumed.step()
    same(through.state_dict(), resumed.state_dict())


def test_what_it_learned_is_a_folder_that_sentence_transformers_loads(settings, pairs, encoder):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    trainable = started(settings, steps=40)
    before = trainable.held_out_loss()
    reports = [trainable.step() for _ in range(40)]
    losses = [report.metrics["loss"] for report in reports]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
    report = reports[-1]
    assert report.finished
    assert report.metrics["held_out_before"] == pytest.approx(before, abs=1e-6)
    assert report.metrics["held_out_after"] == pytest.approx(trainable.held_out_loss(), abs=1e-6)
    tuned = load_encoder(Folder(settings["out"]))
    theirs = SentenceTransformer(settings["out"], device="cpu", local_files_only=True).encode(SENTENCES)
    assert np.abs(tuned.embed(SENTENCES).vectors - theirs).max() < 1e-5
    alike = [(a, b) for a in SENTENCES for b in SENTENCES if a != b and a[0] == b[0]]
    apart = [(a, b) for a in SENTENCES for b in SENTENCES if a[0] != b[0]]
    gap = [Cosine(one)(alike).mean() - Cosine(one)(apart).mean() for one in (load_encoder(Folder(encoder)), tuned)]
    assert gap[1] > gap[0] + 0.2
    told = json.loads((Path(settings["out"]) / "training.json").read_text())
    assert told["steps"] == 40
    again = started(settings, steps=40)  # the very same one knows its result
    assert again is not None
    with pytest.raises(ConflictError, match="is in use, and not by this training"):
        started(settings, steps=41)


def test_a_worker_that_is_told_later_that_it_is_the_first_writes_the_result(settings, tmp_path):
    trainable = started(settings, steps=1)
    trainable.resize(1, 2)
    assert trainable.step().finished
    assert not (tmp_path / "out").exists()
    trainable.resize(0, 1)
    trainable.step()
    assert (tmp_path / "out" / "modules.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_batch_and_rate_can_be_set_from_outside(settings):
    trainable = started(settings)
    trainable.set_batch(3)
    assert len(trainable.next_samples()) == 3
    trainable.set_learning_rate(1e-4)
    assert trainable.step().metrics["rate"] == pytest.approx(1e-4)


def test_nothing_global_is_touched(settings):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    started(settings)
    assert torch.equal(torch.rand(3), wanted)


def test_which_pairs_are_only_measured_on_hangs_on_the_pair(settings, pairs, tmp_path):
    from tiny_encoders import word_pieces

    from quiltwork.text.encoder.finetuning.config import read_config
    from quiltwork.text.encoder.finetuning.pairs import read_pairs
    from quiltwork.text.encoder.tokenizing import Tokens

    tokens = Tokens(word_pieces(), 32)
    lines = pairs.read_text().splitlines()
    more = tmp_path / "more.csv"
    more.write_text("\n".join([lines[0], *reversed(lines[1:]), "insulin,p53,2"]) + "\n")

    def texts(path):
        learned, aside = read_pairs(read_config({**settings, "pairs": str(path)}), tokens, "")
        return [{(tuple(a.ids), tuple(b.ids)) for a, b in zip(one.a, one.b, strict=True)} for one in (learned, aside)]

    (learned, aside), (learned_more, aside_more) = texts(pairs), texts(more)
    assert learned <= learned_more
    assert aside <= aside_more
    assert not {(b, a) for a, b in aside} & learned


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        ({"steps": None}, BadInputError, "config: steps: is missing"),
        ({"speed": 3}, BadInputError, "config: speed: is not a setting"),
        ({"model": "/nowhere"}, NotFoundError, "config: model: /nowhere: is no folder"),
        ({"pairs": "/nowhere.csv"}, QuiltworkError, "/nowhere.csv"),
        ({"a": "wrong"}, BadInputError, "wrong"),
        ({"most": 3}, BadInputError, "line 2: rating: 4 is not from 0 to 3"),
        ({"most": 0}, BadInputError, "config: most: 0 is not above least, 0"),
        ({"score": "left"}, BadInputError, "line 2: left: 'KRAS mutations drive tumour growth.' is no number"),
        ({"rate": 0}, BadInputError, "config: rate: 0 is not above 0"),
        ({"held_out": 1}, BadInputError, "config: held_out: 1 is no share between 0 and 1"),
        ({"held_out": 1e-9}, BadInputError, "49 pairs leave none to measure on"),
        ({"warmup": 6}, BadInputError, "config: warmup: must be a whole number of steps below 6, not 6"),
        ({"batch": 10**12}, BadInputError, "config: batch: 1000000000000 is absurdly large"),
    ],
)  # fmt: skip
def test_a_setting_that_is_wrong_is_named(settings, change, kind, line):
    given = {name: value for name, value in {**settings, **change}.items() if value is not None}
    with pytest.raises(kind) as raised:
        started(given)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_sentence_without_any_known_token_is_named(settings, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("left\tright\trating\ninsulin\t\u65e5\u672c\t1\n")
    with pytest.raises(BadInputError, match="line 2: right: there is no token that the model knows"):
        started({**settings, "pairs": str(path)})


def test_a_state_of_another_training_is_refused(settings):
    state = started(settings, seed=4).state_dict()
    with pytest.raises(BadInputError, match="state: seed: is of a training with 4, this has 3"):
        started(settings).load_state_dict(state)


def test_a_gradient_that_is_not_finite_changes_nothing(settings):
    trainable = started(settings)
    gradient = trainable.gradients(trainable.next_samples())
    next(iter(gradient.arrays.values())).fill(np.nan)
    before = trainable.state_dict()
    with pytest.raises(QuiltworkError, match="the gradient is not finite"):
        trainable.apply(gradient)
    same(trainable.state_dict(), before)
