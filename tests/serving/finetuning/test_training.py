"""A fine-tuning is elastic: however its samples are dealt out and however often it is stopped, it learns the same."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.trainable import Elastic, Gradients, Setup, State, mean_of
from quiltwork.serving.finetuning import LanguageTraining, read_config
from quiltwork.serving.finetuning.training import rate_factor

METHODS = [{}, {"method": "lora", "rank": 2, "rate": 5e-2}]


def moved(state: State) -> State:
    """The state as another process would get it: bytes that may not be written, and JSON text."""
    arrays = {n: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for n, a in state.arrays.items()}
    return State(arrays, json.loads(json.dumps(state.meta)))


def equal(a: State, b: State) -> bool:
    same = set(a.arrays) == set(b.arrays) and all(np.array_equal(a.arrays[n], b.arrays[n]) for n in a.arrays)
    return same and a.meta == b.meta


def test_it_is_elastic(training):
    assert isinstance(training(), Elastic)


# -- one step, shared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_any_split_among_workers_is_the_same_step_up_to_rounding(training, method):
    alone, everybody = training(**method), [training(**method) for _ in range(4)]
    start = alone.state_dict()

    @settings(max_examples=12, deadline=None)
    @given(cuts=st.lists(st.integers(0, 8), max_size=3).map(sorted))
    def check(cuts):
        workers = everybody[: len(cuts) + 1]
        for rank, worker in enumerate(workers):
            worker.load_state_dict(start)
            worker.resize(rank, len(workers))
        alone.load_state_dict(start)
        for _ in range(3):
            parts = np.split(workers[0].next_samples(), cuts)
            mean = mean_of([worker.gradients(part) for worker, part in zip(workers, parts, strict=True)])
            expected = alone.gradients(alone.next_samples())
            assert mean.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)
            for name, gradient in expected.arrays.items():
                np.testing.assert_allclose(mean.arrays[name], gradient, rtol=1e-3, atol=1e-5)
            alone.apply(expected)
            for worker in workers:
                worker.apply(mean)
        first = workers[0].state_dict()
        assert all(equal(worker.state_dict(), first) for worker in workers), "all workers stay equal"
        for name, weights in alone.state_dict().arrays.items():
            if name.startswith("weights/"):
                np.testing.assert_allclose(first.arrays[name], weights, rtol=1e-2, atol=2e-3)

    check()


def test_a_step_is_apply_of_the_gradients_of_the_next_samples(training):
    one, other = training(), training()
    for _ in range(2):
        report = one.step()
        assert report == other.apply(other.gradients(other.next_samples()))
    assert equal(one.state_dict(), other.state_dict())


def test_gradients_change_nothing_and_are_the_callers_to_keep(training):
    trained = training()
    before = moved(trained.state_dict())
    ids = trained.next_samples()
    first = trained.gradients(ids)
    kept = {name: array.copy() for name, array in first.arrays.items()}
    trained.gradients(ids[:3])
    assert equal(trained.state_dict(), before)
    trained.apply(first)
    assert all(np.array_equal(first.arrays[name], kept[name]) for name in kept)


def test_a_worker_without_samples_adds_nothing(training):
    trained = training()
    ids = trained.next_samples()
    none, all_of_them = trained.gradients(ids[:0]), trained.gradients(ids)
    assert none.count == 0
    mean = mean_of([none, all_of_them])
    assert all(np.array_equal(mean.arrays[name], all_of_them.arrays[name]) for name in mean.arrays)


def test_in_smaller_pieces_the_gradient_is_the_same_up_to_rounding(training):
    whole, pieces = training(), training(micro_batch=3)
    ids = whole.next_samples()
    a, b = whole.gradients(ids), pieces.gradients(ids)
    for name, gradient in a.arrays.items():
        np.testing.assert_allclose(b.arrays[name], gradient, rtol=1e-3, atol=1e-5)


def test_the_gradient_is_that_of_the_mean_loss(training, base, text):
    trained = training()
    ids = trained.next_samples()
    model = AutoModelForCausalLM.from_pretrained(base)
    windows = trained._cut.parts[0][torch.from_numpy(ids)]
    loss = model(input_ids=windows, labels=windows).loss
    loss.backward()
    found = trained.gradients(ids)
    assert found.metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(found.arrays[name], parameter.grad.numpy(), rtol=1e-3, atol=1e-5)


# -- stop and go on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_resuming_in_another_process_equals_never_having_stopped(training, method):
    straight, resumed = training(steps=6, **method), training(steps=6, **method)
    start = straight.state_dict()

    @settings(max_examples=10, deadline=None)
    @given(before=st.integers(0, 3), after=st.integers(1, 2))
    def check(before, after):
        straight.load_state_dict(start)
        for _ in range(before):
            straight.step()
        resumed.step()
        resumed.load_state_dict(moved(straight.state_dict()))
        reports = [(straight.step(), resumed.step()) for _ in range(after)]
        assert all(a == b for a, b in reports)
        assert equal(straight.state_dict(), resumed.state_dict())

    check()


def test_a_state_is_a_copy(training):
    trained = training()
    kept = trained.state_dict()
    before = moved(kept)
    trained.step()
    assert equal(kept, before)
    assert not equal(kept, trained.state_dict())


def test_steps_after_the_end_change_nothing(training):
    trained = training(steps=2)
    while not trained.step().finished:
        pass
    end = moved(trained.state_dict())
    assert trained.step().finished
    assert trained.apply(trained.gradients(trained.next_samples())).done == 2
    assert equal(trained.state_dict(), end)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 16}, "state: window: is of a training with 24, this has 16"),
        ({"held_out": 0.2}, "state: held_out"),
        ({"method": "lora"}, "state: method: is of a training with full, this has lora"),
        ({"seed": 4}, "state: seed"),
        ({"steps": 1}, "state: done: has done 2 steps, this is to do 1"),
    ],
)
def test_a_state_of_another_training_is_refused(training, changes, message):
    trained = training()
    trained.step()
    trained.step()
    with pytest.raises(BadInputError, match=message):
        training(**changes).load_state_dict(trained.state_dict())


def test_a_state_of_updates_of_other_weights_is_refused(training, base, tmp_path):
    trained = training(method="lora")
    shutil.copytree(base, tmp_path / "other")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match="state: frozen"):
        training(method="lora", model=str(tmp_path / "other")).load_state_dict(trained.state_dict())


def test_a_state_with_arrays_that_do_not_fit_is_refused_and_nothing_is_taken_over(training):
    trained = training()
    state, before = trained.state_dict(), moved(trained.state_dict())
    name = next(iter(state.arrays))
    rest = {n: a for n, a in state.arrays.items() if n != name}
    for arrays, message in [
        (rest, f"state: {name}: is missing"),
        (rest | {name: np.zeros(3, dtype=np.float32)}, f"state: {name}: is float32 "),
        (rest | {name: state.arrays[name].astype(np.float64)}, f"state: {name}: is float64"),
        (dict(state.arrays) | {"more": np.zeros(1)}, "state: more: is not a parameter"),
    ]:
        with pytest.raises(BadInputError, match=message):
            trained.load_state_dict(State(arrays, state.meta))
    assert equal(trained.state_dict(), before)


# -- samples ------------------------------------------------------------------------------------------------------


def test_every_epoch_has_every_window_once_though_the_batch_changes(training):
    trained = training(steps=1000, window=8, held_out=0.5)
    windows, taken = len(trained._cut.parts[0]), []
    while len(taken) < 2 * windows:
        trained.set_batch(30 + 17 * (len(taken) > windows))
        ids = trained.next_samples()
        assert len(ids) == 30 + 17 * (len(taken) > windows)
        taken.extend(ids.tolist())
        trained.step()
    assert sorted(taken[:windows]) == sorted(taken[windows : 2 * windows]) == list(range(windows))


def test_a_rate_that_is_set_is_warmed_up_and_falls_as_the_settings_say(training):
    trained = training(steps=4, warmup=2)
    trained.set_learning_rate(0.5)
    assert [trained.step().metrics["rate"] for _ in range(4)] == pytest.approx([0.25, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_batch_and_a_rate_that_are_none_are_refused(training, wrong):
    with pytest.raises(BadInputError, match=r"^batch: "):
        training().set_batch(wrong)
    with pytest.raises(BadInputError, match=r"^rate: "):
        training().set_learning_rate(wrong)


def test_what_is_held_out_is_never_a_sample(training):
    trained = training(held_out=0.3)
    learned, held = trained._cut.parts
    assert len(held) / (len(held) + len(learned)) == pytest.approx(0.3, abs=0.02)
    with pytest.raises(BadInputError, match=f"sample_ids: there are {len(learned)} samples"):
        trained.gradients(np.array([len(learned)]))


def test_the_seed_orders_the_samples(training):
    assert training(3).next_samples().tolist() == training(3).next_samples().tolist()
    assert training(3).next_samples().tolist() != training(4).next_samples().tolist()


# -- the step itself ----------------------------------------------------------------------------------------------


def test_the_rate_rises_and_falls():
    config = read_config({"model": "m", "text": "t", "out": "o", "steps": 10, "warmup": 4})
    rates = [rate_factor(done, config) for done in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(a > b > 0 for a, b in pairwise(rates[4:]))


def test_a_step_is_that_of_torchs_own_adamw(training):
    trained = training(weight_decay=0.1, clip=0, steps=3)
    parameters = {n: torch.from_numpy(a.copy()) for n, a in trained.state_dict().arrays.items()}
    parameters = {n.removeprefix("weights/"): p for n, p in parameters.items() if n.startswith("weights/")}
    groups = [
        {"params": [p for p in parameters.values() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-2, foreach=False)
    for done in range(3):
        mean = trained.gradients(trained.next_samples())
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * rate_factor(done, trained._config)
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(mean.arrays[name].copy())
        optimiser.step()
        trained.apply(mean)
    state = trained.state_dict().arrays
    for name, parameter in parameters.items():
        np.testing.assert_allclose(state[f"weights/{name}"], parameter.numpy(), rtol=1e-4, atol=1e-6)


def test_a_long_gradient_is_cut_to_the_clip(training):
    """AdamW's first step does not see a gradient's length, but its moments do."""
    free, cut = training(clip=0), training(clip=1e-3)
    norm = free.step().metrics["gradient_norm"]
    assert cut.step().metrics["gradient_norm"] == norm > 1e-3
    for name, moment in free.state_dict().arrays.items():
        if name.startswith("exp_avg/"):
            np.testing.assert_allclose(cut.state_dict().arrays[name], moment * (1e-3 / norm), rtol=1e-3, atol=1e-12)


def test_a_gradient_that_is_not_finite_is_refused_and_nothing_has_changed(training):
    trained = training()
    before = moved(trained.state_dict())
    mean = trained.gradients(trained.next_samples())
    next(iter(mean.arrays.values())).flat[0] = np.nan
    with pytest.raises(QuiltworkError, match=r"step 1: the gradient is not finite \(a lower rate"):
        trained.apply(mean)
    assert equal(trained.state_dict(), before)


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (Gradients({}, 1), "gradients: .*: is missing"),
        (Gradients({}, 0), "gradients: there is no sample"),
    ],
)
def test_gradients_of_something_else_are_refused(training, mean, message):
    with pytest.raises(BadInputError, match=message):
        training().apply(mean)


def test_in_bfloat16_weights_and_moments_stay_float32(training):
    full, half = training(), training(dtype="bfloat16")
    a, b = full.step(), half.step()
    assert b.metrics["loss"] == pytest.approx(a.metrics["loss"], rel=0.02)
    assert b.metrics["loss"] != a.metrics["loss"]
    assert {array.dtype for array in half.state_dict().arrays.values()} == {np.dtype(np.float32)}


def test_low_rank_updates_train_nothing_else_and_begin_as_the_model_itself(training):
    full, updated = training(), training(method="lora", rank=2, targets=["q_proj", "v_proj"])
    ids = full.next_samples()
    loss = full.gradients(ids).metrics["loss"]
    found = updated.gradients(ids)
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    ends = {name.split(".", 4)[-1] for name in found.arrays}
    assert ends == {f"{m}.{x}" for m in ("q_proj", "v_proj") for x in ("lora_A", "lora_B")}
    assert found.arrays["model.layers.0.self_attn.q_proj.lora_B"].shape == (24, 2)


# -- what it is set up with ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "nowhere"}, "config: model: nowhere: is no folder"),
        ({"text": "nothing.txt"}, r"config: text: nothing\.txt: cannot be read: No such file"),
        ({"window": 129}, "config: window: 129 tokens are more than the 128 that fit"),
        ({"window": 100_000}, "config: text: .*tokens; at least"),
        ({"method": "lora", "targets": ["q_porj"]}, "config: targets: 'q_porj' names no projection .*q_proj"),
        ({"model": None, "zoo": "nowhere", "name": "n"}, "config: zoo: nowhere: no zoo here"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_of_the_field(training, changes, error):
    with pytest.raises(QuiltworkError, match=error):
        training(**changes)


def test_a_checkpoint_that_lacks_weights_is_refused(training, base, tmp_path):
    shutil.copytree(base, tmp_path / "less")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "less" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match=r"less: missing in its weights: model\.layers\.1\.mlp\.up"):
        training(model=str(tmp_path / "less"))


def test_a_checkpoint_without_a_tokenizer_is_refused(training, base, tmp_path):
    shutil.copytree(base, tmp_path / "mute")
    for file in (tmp_path / "mute").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInputError, match=r"config: model: .*mute: has no tokenizer"):
        training(model=str(tmp_path / "mute"))


@pytest.mark.parametrize(("seed", "device", "where"), [(-1, "cpu", "seed"), (0, "abacus", "device")])
def test_a_seed_and_a_device_that_are_none_are_named(configured, seed, device, where):
    with pytest.raises(BadInputError, match=f"^{where}: "):
        LanguageTraining().setup(Setup(configured(), seed, device))


def test_a_worker_beyond_the_last_is_refused(training):
    with pytest.raises(BadInputError, match="rank: there is no worker 2 of 2"):
        training().resize(2, 2)
