"""Training models of experts: what is learned, by how many workers, where it goes on, and what it leaves behind."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_moe import settings_of, started

from quiltwork.core.errors import BadInputError, ConflictError
from quiltwork.core.trainable import Elastic, Setup, Tunable, mean_of
from quiltwork.moe import MoELayer
from quiltwork.moe.models.build import moe_layers
from quiltwork.moe.models.loading import load_trained
from quiltwork.moe.training.settings import GATES
from quiltwork.moe.training.training import MoETraining

TASKS = ("lm", "classify", "translate")
ANY_SPLIT = ("adaptive", "top1", "top2", "top_p", "null", "expert_choice", "controlled_top_p", "dense")
"""Gates that decide by a token's own logits, or by its own sequence's: how a step is split does not matter."""


def same(a, b, within=0.0):
    assert a.keys() == b.keys()
    for name in a:
        if name != "means/cpu_s":
            assert np.abs(np.asarray(a[name], np.float64) - b[name]).max(initial=0) <= within, name


def test_it_is_what_any_number_of_workers_can_train(tmp_path):
    made = started(settings_of(tmp_path, "lm"))
    assert isinstance(made, Elastic)
    assert isinstance(made, Tunable)


@pytest.mark.parametrize("gate", ANY_SPLIT)
@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_the_same_however_its_samples_are_split(tmp_path, task, gate):
    made = started(settings_of(tmp_path, task, gate=gate, balance=1.0, nulls=2))
    for cut in (2, 5):
        ids = made.next_samples()
        whole = made.gradients(ids)
        parts = mean_of([made.gradients(some) for some in (ids[:cut], ids[cut:], ids[:0])])
        same(parts.arrays, whole.arrays, within=2e-5)
        made.apply(whole)


def test_balanced_over_what_is_computed_together_a_split_is_another_step(tmp_path):
    made = started(settings_of(tmp_path, "lm", gate="top2", balance=1.0, balance_over="together"))
    ids = made.next_samples()
    whole, parts = made.gradients(ids), mean_of([made.gradients(some) for some in (ids[:1], ids[1:])])
    router = "layers.0.ffn.router"
    assert np.abs(whole.arrays[router] - parts.arrays[router]).max() > 1e-6


def test_random_second_experts_are_as_many_however_a_step_is_split(tmp_path):
    made = started(settings_of(tmp_path, "lm", gate="random2", mean_experts=[1.5, 1.25]))
    ids = made.next_samples()
    for some in (ids, ids[:3]):
        means = made.gradients(some).arrays
        assert means["means/load"].sum(1) / means["means/tokens"] == pytest.approx([1.5, 1.25], abs=0.01)


@pytest.mark.parametrize("gate", GATES)
def test_it_goes_on_exactly_where_it_was_stopped(tmp_path, gate):
    settings = settings_of(tmp_path, "lm", gate=gate, nulls=2)
    through = started(settings)
    for _ in range(3):
        through.step()
    state = through.state_dict()
    for _ in range(2):
        through.step()
    resumed = started(settings)
    resumed.load_state_dict(state)
    for _ in range(2):
        resumed.step()
    same(through.state_dict().arrays, resumed.state_dict().arrays)
    assert resumed.course.curve == through.course.curve
    assert len(resumed.course.curve) == 3


@pytest.mark.parametrize("task", TASKS)
def test_it_learns_and_leaves_a_model_that_says_the_same(tmp_path, task):
    made = started(settings_of(tmp_path, task, steps=40, rate=1e-2))
    reports = [made.step() for _ in range(40)]
    assert reports[-1].finished
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    curve = told["curve"]
    assert [point["step"] for point in curve] == list(range(0, 41, 2))
    assert curve[-1]["valid_loss"] < curve[0]["valid_loss"] * 0.9
    assert all(a["cpu_s"] < b["cpu_s"] and a["flops"] < b["flops"] for a, b in pairwise(curve))
    assert reports[-1].metrics["held_out_before"] == curve[0]["valid_loss"]
    assert set(told["test"]) == {
        "lm": {"loss", "bits_per_byte"},
        "classify": {"loss", "accuracy"},
        "translate": {"loss", "bleu"},
    }[task] | {"loss"}
    kept = load_trained(tmp_path / "out")
    assert kept.task == task
    with torch.no_grad():
        ids = np.arange(3)
        wanted = made.objective.run(made.model, "test", ids).outcome.logits
        assert torch.equal(made.objective.run(kept.model, "test", ids).outcome.logits, wanted)
    assert started(settings_of(tmp_path, task, steps=40, rate=1e-2)) is not None  # the very same one knows its result
    with pytest.raises(ConflictError, match="is in use, and not by this training"):
        started(settings_of(tmp_path, task, steps=41))


def test_bits_per_byte_of_bytes_are_nats_over_the_logarithm_of_two(tmp_path):
    made = started(settings_of(tmp_path, "lm"))
    scores = made.objective.scores(made.model, "test", 4)
    assert scores["bits_per_byte"] == pytest.approx(scores["loss"] / math.log(2))
    assert scores["bits_per_byte"] == pytest.approx(8, abs=1.5)  # of a model that knows nothing


def test_at_first_an_adaptive_gate_takes_two_experts_for_nearly_every_token(tmp_path):
    report = started(settings_of(tmp_path, "lm", experts=16)).step()
    assert report.metrics["experts_per_token"] > 1.95


def test_rows_are_counted_as_they_went_through_the_experts(tmp_path):
    made = started(settings_of(tmp_path, "classify", threshold=0.01))
    seen = []
    for layer in moe_layers(made.model):
        layer.experts.register_forward_hook(lambda _, given, __: seen.append(len(given[1].token)))
    ids = made.next_samples()
    arrays = made.gradients(ids).arrays
    assert arrays["means/load"].sum() * len(ids) == pytest.approx(sum(seen))
    rows = 3 * 6 * 16 * 8  # forward and backward, three products of width times inner
    assert arrays["means/flops"][0] * len(ids) == pytest.approx(rows * sum(seen))


def test_an_expert_without_tokens_has_a_gradient_of_zeros(tmp_path):
    made = started(settings_of(tmp_path, "lm", gate="top1"))
    with torch.no_grad():
        moe_layers(made.model)[0].router.zero_()  # all are alike, and of equals the first is taken
    arrays = made.gradients(made.next_samples()).arrays
    grads = arrays["layers.0.ffn.experts.up"]
    assert np.abs(grads[0]).max() > 0
    assert not grads[1:].any()
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_padding_is_in_no_row_and_in_no_neighbours_result(tmp_path):
    made = started(settings_of(tmp_path, "classify"))
    run = made.objective.run(made.model, "train", np.arange(6))
    assert run.outcome.routed[0].routing.tokens == sum(made.objective.lengths("train")[0][:6])
    alone = [made.objective.run(made.model, "train", np.array([at])).losses[0] for at in range(6)]
    assert torch.allclose(run.losses, torch.stack(alone), atol=1e-5)


def test_an_order_that_learns_is_told_of_every_sample_on_every_worker(tmp_path):
    class Noting:
        columns = 2

        def __init__(self):
            self.told = {}

        def ids(self, taken, count):
            return np.arange(taken, taken + count) % 20

        def record(self, ids, rows, taken):
            self.told |= {int(i): row.round().astype(int).tolist() for i, row in zip(ids, rows, strict=True)}

        def state(self):
            return {"taken": np.array([len(self.told)])}

        def load(self, arrays):
            self.loaded = arrays

    class Ordered(MoETraining):
        def make_order(self, seed):
            self.order = Noting()
            return self.order

    settings = settings_of(tmp_path, "classify", threshold=0.02)
    one, two = Ordered(), Ordered()
    for made in (one, two):
        made.setup(Setup(settings, 3))
    ids = one.next_samples()
    one.step()
    two.apply(mean_of([two.gradients(some) for some in (ids[:2], ids[2:])]))
    assert one.order.told == two.order.told
    lengths = one.objective.lengths("train")[0]
    assert set(one.order.told) == set(range(6))
    assert all(0 <= count <= lengths[i] for i, row in one.order.told.items() for count in row)
    assert any(count for row in one.order.told.values() for count in row)
    two.load_state_dict(one.state_dict())
    assert two.order.loaded["taken"].tolist() == [6]


def test_a_controlled_gate_comes_to_as_many_experts_as_are_wanted(tmp_path):
    made = started(settings_of(tmp_path, "lm", gate="controlled_top_p", p=0.3, mean_experts=1.5, steps=60))
    last = [made.step().metrics["experts_per_token"] for _ in range(60)][-10:]
    assert np.mean(last) == pytest.approx(1.5, abs=0.15)


def test_nothing_global_is_touched(tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    started(settings_of(tmp_path, "translate"))
    assert torch.equal(torch.rand(3), wanted)


def test_a_dense_model_has_no_experts_and_as_much_work_as_two(tmp_path):
    made, other = (started(settings_of(tmp_path, "lm", gate=gate)) for gate in ("dense", "top2"))
    assert not any(isinstance(module, MoELayer) for module in made.model.modules())
    ids = made.next_samples()
    dense, top2 = (one.gradients(ids).arrays["means/flops"][0] for one in (made, other))
    assert dense == pytest.approx(top2)


def test_a_state_of_another_training_is_refused(tmp_path):
    state = started(settings_of(tmp_path, "lm", gate="top2")).state_dict()
    with pytest.raises(BadInputError, match="state: gate: is of a training with top2, this has adaptive"):
        started(settings_of(tmp_path, "lm")).load_state_dict(state)
