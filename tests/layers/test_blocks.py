"""Each executor against its sentence in docs/blocks.md, and one clear error for what it cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from quiltwork.core import registry
from quiltwork.core.errors import BadInputError, QuiltworkError, UnsupportedError
from quiltwork.layers import PagedKV

EMBED = {"hidden_size": 8, "vocab_size": 11, "max_positions": 6}
FFN = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "norm": "layer",
    "norm_eps": 1e-5,
    "activation": "gelu",
    "gated": False,
    "layout": "linear",
    "bias": True,
}
ATTN = {
    "hidden_size": 8,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 4,
    "norm": "rms",
    "norm_eps": 1e-5,
    "rope": {"type": "default", "theta": 100.0, "max_position_embeddings": 64},
    "qk_norm": False,
    "sliding_window": None,
    "layout": "linear",
    "bias": False,
}
HEAD = {"hidden_size": 8, "vocab_size": 11, "norm": "rms", "norm_eps": 1e-5}


def tensors(kind: str) -> dict[str, torch.Tensor]:
    shapes = {
        "embed": {"tokens.weight": (11, 8), "positions.weight": (6, 8)},
        "ffn": {
            "norm.weight": (8,),
            "norm.bias": (8,),
            "up_proj.weight": (12, 8),
            "up_proj.bias": (12,),
            "down_proj.weight": (8, 12),
            "down_proj.bias": (8,),
        },
        "attn": {
            "norm.weight": (8,),
            "q_proj.weight": (8, 8),
            "k_proj.weight": (4, 8),
            "v_proj.weight": (4, 8),
            "o_proj.weight": (8, 8),
        },
        "head": {"norm.weight": (8,), "lm_head.weight": (11, 8)},
    }
    return {role: torch.randn(shape) for role, shape in shapes[kind].items()}


ARCH = {"embed": EMBED, "ffn": FFN, "attn": ATTN, "head": HEAD}


def load(toy: ModuleType, kind: str, arch: dict[str, Any] | None = None, held: dict | None = None) -> Any:
    return toy.FACTORIES[kind](arch or ARCH[kind], toy.PlainWeights(held or tensors(kind)), toy.FP32)


@pytest.mark.parametrize("kind", ARCH)
def test_registry_finds_the_executor_of_each_kind(toy: ModuleType, kind: str) -> None:
    assert registry.find(registry.EXECUTORS, kind) is toy.FACTORIES[kind]


@pytest.mark.parametrize("kind", ARCH)
def test_nbytes_counts_every_weight(toy: ModuleType, kind: str) -> None:
    held = tensors(kind)
    assert load(toy, kind, held=held).nbytes == sum(t.nbytes for t in held.values())


def test_embed_adds_positions(toy: ModuleType) -> None:
    held = tensors("embed")
    out = load(toy, "embed", held=held)(torch.tensor([3, 0, 10]), toy.runs_of([2, 1], [4, 0]))
    expected = held["tokens.weight"][[3, 0, 10]] + held["positions.weight"][[4, 5, 0]]
    assert torch.equal(out, expected)


def test_ffn_not_gated(toy: ModuleType) -> None:
    held, x = tensors("ffn"), torch.randn(3, 8)
    n = F.layer_norm(x, (8,), held["norm.weight"], held["norm.bias"], 1e-5)
    up = F.linear(n, held["up_proj.weight"], held["up_proj.bias"])
    expected = x + F.linear(F.gelu(up), held["down_proj.weight"], held["down_proj.bias"])
    out = load(toy, "ffn", held=held)(x, toy.runs_of([3], [0]))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_ffn_gated(toy: ModuleType) -> None:
    held, x = tensors("ffn") | {"gate_proj.weight": torch.randn(12, 8)}, torch.randn(3, 8)
    n = F.layer_norm(x, (8,), held["norm.weight"], held["norm.bias"], 1e-5)
    active = F.gelu(n @ held["gate_proj.weight"].t()) * F.linear(n, held["up_proj.weight"], held["up_proj.bias"])
    expected = x + F.linear(active, held["down_proj.weight"], held["down_proj.bias"])
    out = load(toy, "ffn", {**FFN, "gated": True}, held)(x, toy.runs_of([3], [0]))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_head(toy: ModuleType) -> None:
    held, x = tensors("head"), torch.randn(2, 8)
    expected = F.rms_norm(x, (8,), held["norm.weight"], 1e-5) @ held["lm_head.weight"].t()
    torch.testing.assert_close(load(toy, "head", held=held)(x, toy.runs_of([1, 1], [0, 0])), expected)


def test_input_is_left_as_it_was(toy: ModuleType) -> None:
    x, runs = torch.randn(3, 8), toy.runs_of([2, 1], [0, 3])
    kept = x.clone()
    kv = PagedKV(torch.zeros(3, 2, 1, 16, 4), torch.tensor([[1], [2]], dtype=torch.int32))
    for kind in ("attn", "ffn", "head"):
        load(toy, kind)(x, runs, kv)
    assert torch.equal(x, kept)


def test_blocks_with_the_same_rope_share_one_table(toy: ModuleType) -> None:
    shared: dict = {}
    for _ in range(2):
        toy.FACTORIES["attn"](ATTN, toy.PlainWeights(tensors("attn"), toy.FP32, shared), toy.FP32)
    assert sum(key[0] == "rope" for key, _ in shared) == 1


@pytest.mark.parametrize(
    ("kind", "change", "names"),
    [
        ("embed", {"hidden_size": None}, "hidden_size"),
        ("embed", {"vocab_size": 12}, "tokens.weight"),
        ("embed", {"scale": 2.0}, "arch.scale"),
        ("embed", {"max_positions": True}, "max_positions"),
        ("ffn", {"activation": "quick_gelu"}, "activation"),
        ("ffn", {"norm": "group"}, "norm"),
        ("ffn", {"norm_eps": "small"}, "norm_eps"),
        ("ffn", {"layout": "blocked"}, "layout"),
        ("ffn", {"gated": True}, "gate_proj.weight"),
        ("ffn", {"intermediate_size": 13}, "up_proj.weight"),
        ("ffn", {"parallel": True}, "arch.parallel"),
        ("attn", {"num_kv_heads": 3}, "num_kv_heads"),
        ("attn", {"num_heads": 0}, "num_heads"),
        ("attn", {"rope": {"type": "dynamic", "theta": 1e4}}, "rope.type"),
        ("attn", {"rope": "default"}, "rope"),
        ("attn", {"sliding_window": -1}, "sliding_window"),
        ("attn", {"qk_norm": True}, "q_norm.weight"),
        ("attn", {"softcap": 30.0}, "arch.softcap"),
        ("head", {"hidden_size": 9}, "norm.weight"),
    ],
)
def test_an_arch_that_is_not_possible_is_refused_by_name(
    toy: ModuleType, kind: str, change: dict[str, Any], names: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        load(toy, kind, {**ARCH[kind], **change})
    assert names in str(caught.value)


WRONG = torch.ones(3)


def low_rank(role: str, out: int = 8, width: int = 8, r: int = 2, **target: Any) -> tuple[str, dict, dict]:
    held = {f"{role}.lora_A": torch.randn(r, width), f"{role}.lora_B": torch.randn(out, r)}
    return "lora", {"targets": {role: {"r": r, "scale": 1.0, "dora": False, **target}}}, held


@pytest.mark.parametrize(
    ("kind", "attachment", "error", "names"),
    [
        ("attn", ("adapter", {}, {}), UnsupportedError, "adapter"),
        ("attn", low_rank("gate_proj"), UnsupportedError, "gate_proj"),
        ("attn", low_rank("q_proj", width=9), BadInputError, "q_proj.lora_A"),
        ("attn", low_rank("q_proj", out=9), BadInputError, "q_proj.lora_B"),
        ("attn", low_rank("q_proj", dora=True), BadInputError, "q_proj.magnitude"),
        ("attn", low_rank("q_proj", scale="big"), BadInputError, "q_proj.scale"),
        ("attn", low_rank("q_proj", scale=float("nan")), BadInputError, "q_proj.scale"),
        ("attn", ("lora", {"targets": {"q_proj": {"r": -1, "scale": 1.0}}}, {}), BadInputError, "q_proj.r"),
        ("attn", ("lora", {"targets": {"q_proj": {"r": 2, "scale": 1.0}}}, {}), BadInputError, "q_proj.lora_A"),
        ("attn", ("lora", {"targets": ["q_proj"]}, {}), BadInputError, "targets"),
        ("attn", ("lora", {}, {}), BadInputError, "targets"),
        ("ffn", ("ia3", {"targets": {"up_proj": {"side": "both"}}}, {}), UnsupportedError, "up_proj.side"),
        ("ffn", ("ia3", {"targets": {"up_proj": {"side": "input"}}}, {"up_proj.ia3": WRONG}), BadInputError, "(3,)"),
        ("ffn", ("norm", {"targets": {"q_norm.weight": {}}}, {}), UnsupportedError, "q_norm"),
        ("ffn", ("norm", {"targets": {"norm.weight": {}}}, {"norm.weight": torch.ones(9)}), BadInputError, "norm.we"),
        ("ffn", ("prefix", {"num_virtual_tokens": 1}, {}), UnsupportedError, "prefix"),
        ("attn", ("prompt", {"num_virtual_tokens": 1}, {}), UnsupportedError, "prompt"),
        ("attn", ("prefix", {"num_virtual_tokens": 2}, {"key": torch.ones(2, 1, 4)}), BadInputError, "value"),
        ("embed", ("prompt", {"num_virtual_tokens": 0}, {}), BadInputError, "num_virtual_tokens"),
        ("embed", low_rank("tokens", width=12), BadInputError, "tokens.lora_A"),
    ],
)  # fmt: skip
def test_an_attachment_that_does_not_fit_is_refused_by_name(
    toy: ModuleType, kind: str, attachment: Any, error: type[QuiltworkError], names: str
) -> None:
    with pytest.raises(error) as caught:
        load(toy, kind).attach([attachment])
    assert names in str(caught.value)


def test_a_virtual_token_nobody_has_is_refused(toy: ModuleType) -> None:
    embed, runs = load(toy, "embed"), toy.runs_of([1, 1], [0, 0])
    with pytest.raises(BadInputError, match="virtual"):
        embed(torch.tensor([-1, 2]), runs)
    own = embed.attach([("prompt", {"num_virtual_tokens": 2}, {"embeddings": torch.ones(2, 8)})])
    gathered = embed.gather([own, None], [1.0, 1.0], runs)
    assert embed(torch.tensor([-2, 2]), runs, None, gathered).shape == (2, 8)
    for ids in ([-3, 2], [2, -1]):
        with pytest.raises(BadInputError, match="virtual"):
            embed(torch.tensor(ids), runs, None, gathered)


def test_no_attachments_gather_to_nothing(toy: ModuleType) -> None:
    assert load(toy, "ffn").gather([None, None], [1.0, 1.0], toy.runs_of([1, 1], [0, 0])) is None


def test_attention_without_pages_is_refused(toy: ModuleType) -> None:
    with pytest.raises(BadInputError, match="kv"):
        load(toy, "attn")(torch.randn(1, 8), toy.runs_of([1], [0]))


def test_attention_on_several_threads_equals_one(toy: ModuleType) -> None:
    arch = {**ATTN, "hidden_size": 256, "num_heads": 8, "num_kv_heads": 4, "head_dim": 64}
    held = {
        "norm.weight": torch.ones(256),
        "q_proj.weight": torch.randn(512, 256) * 0.1,
        "k_proj.weight": torch.randn(256, 256) * 0.1,
        "v_proj.weight": torch.randn(256, 256) * 0.1,
        "o_proj.weight": torch.randn(256, 512) * 0.1,
    }
    block, x, runs = load(toy, "attn", arch, held), torch.randn(3, 256), toy.runs_of([1, 1, 1], [700, 9, 400])
    table = (torch.arange(3 * 44) + 1).view(3, 44).to(torch.int32)
    kv = PagedKV(torch.randn(3 * 44 + 1, 2, 4, 16, 64), table)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = block(x, runs, kv)
        torch.set_num_threads(2)
        two = block(x, runs, kv)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_kernels_work_where_no_cache_can_be_written(tmp_path: Any) -> None:
    """As in a read-only installation: numba finds nowhere to keep compiled code."""
    script = (
        "import torch\n"
        "from quiltwork.layers.norm import rms_norm\n"
        "print(rms_norm(torch.full((1, 4), 3.0), torch.ones(4), 0.0).tolist())\n"
    )
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=nowhere)
    assert done.stdout.strip() == "[[1.0, 1.0, 1.0, 1.0]]", done.stderr
