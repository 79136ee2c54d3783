"""The block of experts as the engine runs it: rows of many requests, each with as many experts as it asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear, silu

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.protocol import Inner, Placement, Runs
from quiltwork.moe import moe_executor

D, H, E = 16, 24, 5
CPU = Placement(torch.device("cpu"), torch.float32)
ARCH = {
    "hidden_size": D, "norm": "rms", "norm_eps": 1e-6, "num_experts": E, "shared": False,
    "gate": "top_k", "most": 2, "threshold": 1.0, "reading": "softmax", "weights": "sum_to_one",
}  # fmt: skip
EXPERT = {
    "hidden_size": D,
    "intermediate_size": H,
    "activation": "silu",
    "gated": True,
    "layout": "linear",
    "bias": False,
}
KNOBS: list[dict[str, Any] | None] = [
    None, {"most": 1, "threshold": 1.0}, {"most": 3, "threshold": 1.0}, {"most": None, "threshold": None},
    {"most": 4, "threshold": 0.2}, {"most": 2, "threshold": -1.0},
]  # fmt: skip


class Held:
    """Weights in a dict."""

    def __init__(self, tensors: dict[str, torch.Tensor], inside: dict[str, Inner] | None = None) -> None:
        self.tensors, self.inside = tensors, inside or {}

    def get(self, role: str) -> torch.Tensor | None:
        return self.tensors.get(role)

    def prepared(self, key: tuple[str, ...], roles: list[str], prepare: Any) -> Any:
        return prepare(*(self.tensors.get(role) for role in roles))


def held(shared: bool = False) -> Held:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.5

    def expert() -> Inner:
        own = {"gate_proj.weight": drawn(H, D), "up_proj.weight": drawn(H, D), "down_proj.weight": drawn(D, H)}
        return Inner("expert", EXPERT, Held(own))

    inside = {f"experts.{i}": expert() for i in range(E)}
    outer = {"norm.weight": torch.ones(D), "router.weight": drawn(E, D)}
    if shared:
        inside["shared"], outer["shared_gate.weight"] = expert(), drawn(1, D)
    return Held(outer, inside)


def runs(counts: list[int], options: list[dict[str, Any]] | None = None, **more: Any) -> Runs:
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(count) for count in counts])
    return Runs(positions, starts, torch.tensor(counts, dtype=torch.int32), options or (), **more)


def asked(knob: dict[str, Any] | None) -> dict[str, Any]:
    return {} if knob is None else {"experts": knob}


def rows(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def by_hand(weights: Held, x: torch.Tensor, most: int, threshold: float, kind: str) -> torch.Tensor:
    """Row by row in float64."""

    def run(name: str, n: torch.Tensor) -> torch.Tensor:
        own = {role: tensor.double() for role, tensor in weights.inside[name].weights.tensors.items()}
        raised = silu(linear(n, own["gate_proj.weight"])) * linear(n, own["up_proj.weight"])
        return linear(raised, own["down_proj.weight"])

    out = []
    for row in x.double():
        n = row / torch.sqrt((row * row).mean() + 1e-6)
        values, order = torch.sort(
            torch.softmax(linear(n, weights.tensors["router.weight"].double()), -1), descending=True
        )
        taken = [i for i in range(most) if i == 0 or values[0] - values[i] <= threshold]
        total = values[taken].sum() if kind == "sum_to_one" else 1.0
        y = row + sum(values[i] / total * run(f"experts.{int(order[i])}", n) for i in taken)
        if "shared" in weights.inside:
            y = y + torch.sigmoid(linear(n, weights.tensors["shared_gate.weight"].double())) * run("shared", n)
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["sum_to_one", "raw"])
@pytest.mark.parametrize(("most", "threshold"), [(2, 1.0), (1, 1.0), (4, 0.15), (5, -1.0)])
def test_a_row_is_the_weighted_sum_over_its_experts(most: int, threshold: float, kind: str, shared: bool) -> None:
    weights = held(shared)
    arch = ARCH | {"gate": "adaptive", "most": most, "threshold": threshold, "weights": kind, "shared": shared}
    x = rows(13)
    got = moe_executor(arch, weights, CPU)(x.clone(), runs([6, 1, 6]))
    assert torch.allclose(got.double(), by_hand(weights, x, most, threshold, kind), atol=1e-5)


def test_rows_with_different_wishes_share_a_batch_and_come_out_as_alone() -> None:
    executor, counts = moe_executor(ARCH, held(), CPU), [3, 1, 2, 5, 1, 2]
    x = rows(sum(counts))
    together = executor(x.clone(), runs(counts, [asked(knob) for knob in KNOBS]))
    at = 0
    for count, knob in zip(counts, KNOBS, strict=True):
        for row in range(at, at + count):
            alone = executor(x[row : row + 1].clone(), runs([1], [asked(knob)]))
            assert torch.allclose(together[row], alone[0], atol=1e-6)
        same = executor(x.clone(), runs([sum(counts)], [asked(knob)]))
        assert torch.equal(
            routed(executor, x, counts, KNOBS)[at : at + count], routed(executor, x, [len(x)], [knob])[at : at + count]
        )
        assert torch.allclose(together[at : at + count], same[at : at + count], atol=1e-6)
        at += count


def routed(executor: Any, x: torch.Tensor, counts: list[int], knobs: list[dict[str, Any] | None]) -> torch.Tensor:
    told: list[torch.Tensor] = []
    executor(x.clone(), runs(counts, [asked(knob) for knob in knobs], tell=lambda name, numbers: told.append(numbers)))
    return told[0]


@pytest.mark.parametrize(
    ("knob", "taken"),
    [
        (None, {2}),
        ({"most": 1, "threshold": 1.0}, {1}),
        ({"most": 3, "threshold": 1.0}, {3}),
        ({"most": 3, "threshold": -1.0}, {1}),
        ({"most": None, "threshold": None}, {1, 2}),
        ({"most": 5, "threshold": 0.2}, {1, 2, 3, 4, 5}),
    ],
)
def test_what_was_taken_is_told_row_by_row(knob: dict[str, Any] | None, taken: set[int]) -> None:
    numbers = routed(moe_executor(ARCH, held(), CPU), rows(64), [60, 4], [knob, knob])
    assert numbers.shape == (64,)
    assert set(numbers.tolist()) <= taken
    assert len(set(numbers.tolist())) > 1 or len(taken) == 1


def test_a_layer_that_was_calibrated_adapts_by_its_own_threshold() -> None:
    own = moe_executor(ARCH | {"gate": "adaptive", "threshold": 0.3, "most": 3}, held(), CPU)
    x = rows(40)
    adaptive: dict[str, Any] = {"most": None, "threshold": None}
    assert torch.equal(routed(own, x, [40], [None]), routed(own, x, [40], [adaptive]))
    assert torch.equal(routed(own, x, [40], [None]), routed(own, x, [40], [{"most": 3, "threshold": 0.3}]))


def test_numbers_of_one_row_that_are_broken_do_not_reach_the_others() -> None:
    executor, x = moe_executor(ARCH, held(), CPU), rows(4)
    whole = executor(x.clone(), runs([2, 2]))
    broken = x.clone()
    broken[1, 0] = torch.nan
    got = executor(broken, runs([2, 2]))
    assert torch.isnan(got[1]).all()
    assert torch.equal(got[[0, 2, 3]], whole[[0, 2, 3]])


def test_the_rows_that_came_in_are_left_as_they_were() -> None:
    x = rows(3)
    before = x.clone()
    moe_executor(ARCH, held(), CPU)(x, runs([3]))
    assert torch.equal(x, before)


def test_what_cannot_be_run_is_named() -> None:
    for change, named in (
        ({"gate": "expert_choice"}, "gate"), ({"weights": "none"}, "weights"), ({"most": 6}, "most"),
        ({"most": 0}, "most"), ({"threshold": "low"}, "threshold"), ({"bias": True}, "bias"),
        ({"shared": True}, "shared"), ({"num_experts": 6}, "experts.5"),
    ):  # fmt: skip
        with pytest.raises((BadInputError, UnsupportedError), match=named):
            moe_executor(ARCH | change, held(), CPU)


def test_a_low_rank_update_of_experts_is_refused() -> None:
    targets = {"targets": {"up_proj": {"r": 2, "scale": 1.0, "dora": False}}}
    with pytest.raises(UnsupportedError, match="lora on a mixture of experts"):
        moe_executor(ARCH, held(), CPU).attach([("lora", targets, {})])
