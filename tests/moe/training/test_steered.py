"""A training's thresholds follow what was asked for; they are part of its state, and the same on every worker."""

import json
from pathlib import Path

import numpy as np
import pytest
from moe_runs import begun

from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import mean_of
from quiltwork.moe.flops import expert_row_flops, forward_flops
from quiltwork.moe.models import Packed, moe_layers
from quiltwork.moe.training.training import MoETraining


def experts(training: MoETraining, steps: int) -> list[float]:
    return [training.step().metrics["experts_per_token"] for _ in range(steps)]


def test_a_target_is_reached_where_a_fixed_threshold_takes_what_it_takes(tmp_path: Path) -> None:
    assert np.mean(experts(begun(tmp_path, steps=60, target_experts=1.3), 60)[20:]) == pytest.approx(1.3, rel=0.03)
    fixed = begun(tmp_path, steps=60, out=str(tmp_path / "fixed"))
    assert np.mean(experts(fixed, 60)[20:]) > 1.4


def test_a_top_p_gate_follows_its_mean(tmp_path: Path) -> None:
    training = begun(tmp_path, steps=60, gate="controlled_top_p", mean_experts=1.3)
    assert np.mean(experts(training, 60)[20:]) == pytest.approx(1.3, rel=0.03)
    assert 0 < training.steering.thresholds[0] < 1


def test_every_layer_may_have_its_own(tmp_path: Path) -> None:
    training = begun(tmp_path, steps=60, target_experts=[1.1, 1.6])
    told = [training.step().metrics for _ in range(60)][20:]
    reached = [np.mean([one[f"experts_per_token/{layer}"] for one in told]) for layer in (0, 1)]
    assert reached == pytest.approx([1.1, 1.6], rel=0.03)


def test_a_resumed_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    training = begun(tmp_path, target_experts=1.3)
    experts(training, 5)
    state = training.state_dict()
    going_on = begun(tmp_path, target_experts=1.3)
    going_on.load_state_dict(state)
    assert experts(training, 4) == experts(going_on, 4)
    last, again = training.state_dict(), going_on.state_dict()
    assert all(np.array_equal(last.arrays[name], again.arrays[name]) for name in last.arrays if "since" not in name)


def test_two_workers_come_to_the_thresholds_of_one(tmp_path: Path) -> None:
    alone, pair = begun(tmp_path, target_experts=1.3), [begun(tmp_path, target_experts=1.3) for _ in range(2)]
    for rank, worker in enumerate(pair):
        worker.resize(rank, 2)
    for _ in range(6):
        alone.step()
        ids = pair[0].next_samples()
        mean = mean_of([pair[0].gradients(ids[:3]), pair[1].gradients(ids[3:])])
        told = [worker.apply(mean).metrics for worker in pair]
        assert told[0]["threshold/0"] == told[1]["threshold/0"]
    assert [t for w in pair for t in w.steering.thresholds] == pytest.approx([*alone.steering.thresholds] * 2, rel=0.02)


def test_a_worker_without_samples_hinders_nothing(tmp_path: Path) -> None:
    training = begun(tmp_path, target_experts=1.3)
    ids = training.next_samples()
    training.apply(mean_of([training.gradients(ids), training.gradients(ids[:0])]))
    assert 0 < training.steering.thresholds[0] < 1


def test_budgets_in_flops_and_bytes_are_spent(tmp_path: Path) -> None:
    plain = begun(tmp_path)
    packed = [Packed(np_lengths(plain))]
    tokens, layers = len(packed[0].sequence), len(moe_layers(plain.model))
    besides = forward_flops(plain.model, packed, [0] * layers).total / tokens
    flops = besides + 1.25 * layers * expert_row_flops(plain.model.shape)
    for asked in ({"budget_flops": flops}, {"budget_bytes": 1.25 * layers * 2 * 16 * 4},
                  {"budget_bytes": 1.25 * layers * 50, "assignment_bytes": 50}):  # fmt: skip
        assert begun(tmp_path, **asked).steering.controller.experts == pytest.approx(1.25)


def np_lengths(training: MoETraining):
    import torch

    return torch.from_numpy(training.objective.lengths("train")[0])


def test_the_result_keeps_the_thresholds(tmp_path: Path) -> None:
    training = begun(tmp_path, steps=8, target_experts=1.3)
    experts(training, 8)
    told = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert [gate["threshold"] for gate in told["quiltwork_moe"]["gates"].values()] == list(training.steering.thresholds)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target_experts": 2.5}, "target_experts: 2.5 is not from 1 to 2"),
        ({"target_experts": "many"}, "target_experts: must be a number"),
        ({"target_experts": [1.1, 1.2, 1.3]}, "target_experts: 3 numbers for 2 layers"),
        ({"target_experts": 1.2, "budget_bytes": 1e4}, "budget_bytes: there is target_experts too"),
        ({"target_experts": 1.2, "gate": "top2"}, "target_experts: gate top2 has no threshold"),
        ({"budget_flops": 1.0}, "budget_flops: 1 FLOPs per token are none .*from "),
        ({"budget_flops": -1.0}, "budget_flops: -1 is not above 0"),
        ({"controller": "pid"}, "controller: 'pid' is not one of quantile, pi"),
    ],
)
def test_what_cannot_be_followed_is_named(tmp_path: Path, wrong: dict, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        begun(tmp_path, **wrong)


def test_a_state_of_a_training_without_a_controller_does_not_fit(tmp_path: Path) -> None:
    plain = begun(tmp_path)
    plain.step()
    with pytest.raises(BadInputError, match="state: target_experts"):
        begun(tmp_path, target_experts=1.3).load_state_dict(plain.state_dict())
