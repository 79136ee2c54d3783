"""A toy model runner: executors assembled by hand over a small page pool, with weights mapped by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from quiltwork.layers import (
    PAGE_TOKENS,
    PagedKV,
    Placement,
    Runs,
    attention_executor,
    embed_executor,
    ffn_executor,
    head_executor,
)

FACTORIES = {"embed": embed_executor, "attn": attention_executor, "ffn": ffn_executor, "head": head_executor}
FP32 = Placement(torch.device("cpu"), torch.float32)


class PlainWeights:
    """``Weights`` over one block's tensors; ``shared`` is what several blocks hold in common."""

    def __init__(self, tensors: Mapping[str, Tensor], placement: Placement = FP32, shared: dict | None = None) -> None:
        self.tensors = {k: v.detach().to(placement.device, placement.dtype) for k, v in tensors.items()}
        self.shared: dict = {} if shared is None else shared

    def get(self, role: str) -> Tensor | None:
        tensor = self.tensors.get(role)
        assert tensor is None or tensor.dim() == 1 or role in ("tokens.weight", "positions.weight"), (
            f"{role} would be held unpacked beside its packed form"
        )
        return tensor

    def prepared(self, key: tuple[str, ...], roles: Sequence[str], prepare: Any) -> Any:
        held = (key, tuple(id(self.tensors.get(r)) for r in roles))
        if held not in self.shared:
            self.shared[held] = (prepare(*map(self.tensors.get, roles)), [*map(self.tensors.get, roles)])
        return self.shared[held][0]


@dataclass(frozen=True)
class Part:
    name: str
    kind: str
    arch: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


Attachments = Mapping[str, Sequence[tuple[str, Mapping[str, Any], Mapping[str, Tensor]]]]
"""Part name -> its attachment blocks."""


def runs_of(counts: Sequence[int], before: Sequence[int]) -> Runs:
    """Runs of ``counts`` rows, sequence s continuing after ``before[s]`` tokens."""
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(b, b + n) for n, b in zip(counts, before, strict=True)])
    lengths = torch.tensor([n + b for n, b in zip(counts, before, strict=True)], dtype=torch.int32)
    return Runs(positions, starts, lengths)


class ToyModel:
    """A chain of executors, a page pool per attention block, and the attachments of each sequence."""

    def __init__(self, parts: Sequence[Part], placement: Placement = FP32, max_tokens: int = 160) -> None:
        shared: dict = {}
        self.placement, self.parts, self.pages = placement, parts, -(-max_tokens // PAGE_TOKENS)
        self.blocks = {
            p.name: FACTORIES[p.kind](p.arch, PlainWeights(p.tensors, placement, shared), placement) for p in parts
        }

    def attach(self, attachments: Attachments) -> dict[str, Any]:
        return {name: self.blocks[name].attach(blocks) for name, blocks in attachments.items()}

    def logits(
        self,
        prompts: Sequence[Sequence[int]],
        attached: Sequence[Mapping[str, Any] | None] | None = None,
        scales: Sequence[float] | None = None,
        chunk: int = 24,
        decode: int = 4,
        seed: int = 0,
    ) -> list[Tensor]:
        """Per prompt (tokens, vocab): prefill in chunks of unequal sizes, the last ``decode`` tokens one by one."""
        count = len(prompts)
        own = [a or {} for a in (attached or [None] * count)]
        scales = list(scales or [1.0] * count)
        virtual = [max((a.virtual_tokens for a in o.values()), default=0) for o in own]
        ids = []
        for s, prompt in enumerate(prompts):
            prompted = any(a.prompt is not None for a in own[s].values())
            ids.append([-(k + 1) for k in range(virtual[s])] * prompted + list(prompt))
        done = [0 if any(a.prompt is not None for a in o.values()) else v for o, v in zip(own, virtual, strict=True)]
        offset = list(done)
        order = torch.randperm(count * self.pages, generator=torch.Generator().manual_seed(seed)) + 1
        table = order.view(count, self.pages).to(torch.int32)
        pools = self._pools(count * self.pages + 1)
        for name, pool in pools.items():
            for s, o in enumerate(own):
                if name in o and o[name].prefix is not None:
                    for t in range(virtual[s]):
                        for side in range(2):
                            pool[table[s, t // PAGE_TOKENS], side, :, t % PAGE_TOKENS] = o[name].prefix[side][t]
        out: list[list[Tensor]] = [[] for _ in prompts]
        while any(done[s] - offset[s] < len(ids[s]) for s in range(count)):
            live = [s for s in range(count) if done[s] - offset[s] < len(ids[s])]
            left = [len(ids[s]) - (done[s] - offset[s]) for s in live]
            sizes = [min(chunk - 5 * (s % 3), n - decode) if n > decode else 1 for s, n in zip(live, left, strict=True)]
            runs = runs_of(sizes, [done[s] for s in live])
            rows = [i for s, n in zip(live, sizes, strict=True) for i in ids[s][done[s] - offset[s] :][:n]]
            x = self.step(
                torch.tensor(rows), runs, table[live], pools, [own[s] for s in live], [scales[s] for s in live]
            )
            for s, part in zip(live, x.split(sizes), strict=True):
                out[s].append(part)
            for s, n in zip(live, sizes, strict=True):
                done[s] += n
        return [torch.cat(rows)[v if o == 0 else 0 :] for rows, v, o in zip(out, virtual, offset, strict=True)]

    def _pools(self, pages: int) -> dict[str, Tensor]:
        return {
            p.name: torch.full(
                (pages, 2, p.arch["num_kv_heads"], PAGE_TOKENS, p.arch["head_dim"]),
                float("nan"),
                dtype=self.placement.dtype,
            )
            for p in self.parts
            if p.kind == "attn"
        }

    def step(
        self,
        ids: Tensor,
        runs: Runs,
        table: Tensor,
        pools: Mapping[str, Tensor],
        own: Sequence[Mapping[str, Any]],
        scales: Sequence[float],
    ) -> Tensor:
        x = ids
        for part in self.parts:
            block = self.blocks[part.name]
            gathered = block.gather([o.get(part.name) for o in own], scales, runs)
            kv = PagedKV(pools[part.name], table) if part.kind == "attn" else None
            x = block(x, runs, kv, gathered)
        return x


def llama_parts(config: Any, state: Mapping[str, Tensor]) -> list[Part]:
    """The parts of a llama-shaped model (llama, mistral, qwen2, qwen3) of transformers."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(config.rope_parameters)
    rope = {"type": rope.pop("rope_type", "default"), "theta": rope.pop("rope_theta"), **rope}
    rope["max_position_embeddings"] = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    norm = {"hidden_size": config.hidden_size, "norm": "rms", "norm_eps": config.rms_norm_eps}

    def under(prefix: str, renamed: Mapping[str, str]) -> dict[str, Tensor]:
        return {
            f"{role}.{end}": state[f"{prefix}{name}.{end}"]
            for name, role in renamed.items()
            for end in ("weight", "bias")
            if f"{prefix}{name}.{end}" in state
        }

    parts = [
        Part(
            "embed",
            "embed",
            {"hidden_size": config.hidden_size, "vocab_size": config.vocab_size, "max_positions": 0},
            {"tokens.weight": state["model.embed_tokens.weight"]},
        )
    ]
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        names = {f"self_attn.{r}": r for r in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")}
        tensors = under(at, {"input_layernorm": "norm", **names})
        arch = {
            **norm,
            "num_heads": config.num_attention_heads,
            "num_kv_heads": config.num_key_value_heads,
            "head_dim": head_dim,
            "rope": rope,
            "qk_norm": "q_norm.weight" in tensors,
            "sliding_window": window,
            "layout": "linear",
            "bias": "q_proj.bias" in tensors,
        }
        parts.append(Part(f"layers.{i}.attn", "attn", arch, tensors))
        tensors = under(
            at, {"post_attention_layernorm": "norm", **{f"mlp.{r}": r for r in ("gate_proj", "up_proj", "down_proj")}}
        )
        arch = {
            **norm,
            "intermediate_size": config.intermediate_size,
            "activation": config.hidden_act,
            "gated": True,
            "layout": "linear",
            "bias": False,
        }
        parts.append(Part(f"layers.{i}.ffn", "ffn", arch, tensors))
    lm_head = state.get("lm_head.weight", state["model.embed_tokens.weight"])
    arch = {**norm, "vocab_size": config.vocab_size}
    parts.append(Part("head", "head", arch, {"norm.weight": state["model.norm.weight"], "lm_head.weight": lm_head}))
    return parts


def gpt2_parts(config: Any, state: Mapping[str, Tensor]) -> list[Part]:
    """The parts of a GPT-2 of transformers; its projections are Conv1D, (in, out)."""
    width, heads = config.n_embd, config.n_head
    norm = {"hidden_size": width, "norm": "layer", "norm_eps": config.layer_norm_epsilon}

    def under(prefix: str, renamed: Mapping[str, str]) -> dict[str, Tensor]:
        return {
            f"{role}.{end}": state[f"{prefix}{name}.{end}"]
            for name, role in renamed.items()
            for end in ("weight", "bias")
        }

    parts = [
        Part(
            "embed",
            "embed",
            {"hidden_size": width, "vocab_size": config.vocab_size, "max_positions": config.n_positions},
            {"tokens.weight": state["transformer.wte.weight"], "positions.weight": state["transformer.wpe.weight"]},
        )
    ]
    for i in range(config.n_layer):
        at = f"transformer.h.{i}."
        arch = {
            **norm,
            "num_heads": heads,
            "num_kv_heads": heads,
            "head_dim": width // heads,
            "rope": None,
            "qk_norm": False,
            "sliding_window": None,
            "layout": "conv1d",
            "bias": True,
        }
        names = {"ln_1": "norm", "attn.c_attn": "qkv_proj", "attn.c_proj": "o_proj"}
        parts.append(Part(f"layers.{i}.attn", "attn", arch, under(at, names)))
        arch = {
            **norm,
            "intermediate_size": config.n_inner or 4 * width,
            "activation": config.activation_function,
            "gated": False,
            "layout": "conv1d",
            "bias": True,
        }
        names = {"ln_2": "norm", "mlp.c_fc": "up_proj", "mlp.c_proj": "down_proj"}
        parts.append(Part(f"layers.{i}.ffn", "ffn", arch, under(at, names)))
    tensors = {
        **under("transformer.", {"ln_f": "norm"}),
        "lm_head.weight": state.get("lm_head.weight", state["transformer.wte.weight"]),
    }
    parts.append(Part("head", "head", {**norm, "vocab_size": config.vocab_size}, tensors))
    return parts


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """This module: ``ToyModel``, ``llama_parts``, ``gpt2_parts``, ``runs_of``, ``PlainWeights``."""
    return sys.modules[__name__]
