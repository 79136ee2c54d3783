"""Frequencies equal transformers', tables grow, nonsense is refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.rope import RopeTable, frequencies, rotate

YARN = {"type": "yarn", "theta": 1e4, "original_max_position_embeddings": 64, "max_position_embeddings": 256}
LLAMA3 = {
    "type": "llama3",
    "theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "rope",
    [
        {"type": "linear", "theta": 1e4, "factor": 3.0},
        LLAMA3,
        {**YARN, "factor": 4.0},
        {**YARN, "factor": 4.0, "attention_factor": 1.5},
        {**YARN, "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.1},
        {**YARN, "factor": 40.0, "beta_fast": 64, "beta_slow": 2, "truncate": False},
    ],
)
@pytest.mark.parametrize("head_dim", [16, 128])
def test_frequencies_are_those_of_transformers(rope: dict, head_dim: int) -> None:
    parameters = {k: v for k, v in rope.items() if k not in ("type", "theta", "max_position_embeddings")}
    parameters |= {"rope_type": rope["type"], "rope_theta": rope["theta"]}
    config = transformers.LlamaConfig(head_dim=head_dim, max_position_embeddings=256, rope_parameters=parameters)
    expected, factor = ROPE_INIT_FUNCTIONS[rope["type"]](config, torch.device("cpu"))
    got, own_factor = frequencies(rope, head_dim)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    assert own_factor == pytest.approx(factor)


def test_yarn_takes_its_factor_from_the_two_context_lengths() -> None:
    got, factor = frequencies({**YARN, "factor": None}, 32)
    expected, same = frequencies({**YARN, "factor": 4.0}, 32)
    assert torch.equal(got, expected)
    assert factor == same


def test_table_grows_and_keeps_its_beginning() -> None:
    table = RopeTable({"type": "default", "theta": 1e4}, 8, torch.device("cpu"))
    before = [t.clone() for t in table.upto(10)]
    after = table.upto(5000)
    for old, new in zip(before, after, strict=True):
        assert new.shape[0] >= 5000
        assert torch.equal(new[: old.shape[0]], old)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    cos, sin = RopeTable({"type": "default", "theta": 100.0}, 8, torch.device("cpu")).upto(64)
    q, k = torch.randn(2, 1, 1, 8)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x, cos[position : position + 1], sin[position : position + 1]).flatten()

    torch.testing.assert_close(turned(q, 17).norm(), q.norm())
    torch.testing.assert_close(turned(q, 20) @ turned(k, 13), turned(q, 37) @ turned(k, 30), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("rope", "names"),
    [
        ({"type": "longrope", "theta": 1e4}, "rope.type"),
        ({"type": "default"}, "rope.theta"),
        ({"type": "linear", "theta": 1e4}, "rope.factor"),
        ({"type": "linear", "theta": 1e4, "factor": "two"}, "rope.factor"),
        ({"type": "linear", "theta": 1e4, "factor": -1}, "rope.factor"),
        ({**LLAMA3, "original_max_position_embeddings": None}, "rope.original_max_position_embeddings"),
        ({**YARN, "factor": 4.0, "beta_fast": "many"}, "rope.beta_fast"),
        ({**YARN, "factor": "x"}, "rope.factor"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "rope.high_freq_factor"),
    ],
)
def test_nonsense_is_refused_by_name(rope: dict, names: str) -> None:
    with pytest.raises((BadInputError, UnsupportedError)) as caught:
        frequencies(rope, 16)
    assert names in str(caught.value)


def test_odd_heads_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="head_dim"):
        frequencies({"type": "default", "theta": 1e4}, 7)


def test_a_key_that_would_change_the_angles_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="partial_rotary_factor"):
        frequencies({"type": "default", "theta": 1e4, "partial_rotary_factor": 0.5}, 16)
