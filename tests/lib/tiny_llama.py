"""Tiny llama models held in memory, as chains, beside their transformers twins."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
from blake3 import blake3

from quiltwork.core.errors import NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.zoo.types import Block, Chain, Model, Part, RawTensor, TensorRef

LAYERS, D, HEADS, KV_HEADS, FFN, VOCAB, MAX_LEN = 4, 32, 4, 2, 48, 96, 512
ROPE = {"type": "default", "theta": 10000.0, "max_position_embeddings": MAX_LEN}


@dataclass
class Bench:
    """Builds chains whose tensors live in ``contents``; equal tensors have equal content."""

    contents: dict[str, np.ndarray] = field(default_factory=dict)

    def ref(self, name: str, tensor: torch.Tensor) -> TensorRef:
        data = tensor.detach().to(torch.float32).contiguous().numpy()
        content = blake3(data.tobytes()).hexdigest()
        self.contents[content] = np.frombuffer(data.tobytes(), dtype=np.uint8)
        return TensorRef(name, "F32", tuple(tensor.shape), content, "F32")

    def read(self, ref: TensorRef) -> RawTensor:
        return RawTensor(ref.dtype, ref.shape, self.contents[ref.content])

    def block(self, kind: str, arch: dict, tensors: dict[str, torch.Tensor]) -> Block:
        refs = tuple(self.ref(name, t) for name, t in tensors.items())
        identity = repr((kind, arch, [(r.name, r.content) for r in refs]))
        return Block(blake3(identity.encode()).hexdigest(), kind, arch, refs)

    def chain(self, name: str, weights: dict[str, torch.Tensor], lora: dict | None = None, tenant="public") -> Chain:
        """The chain of a transformers llama state dict, with LoRA ``{layer: {role: (A, B, scale)}}``."""
        norm = {"hidden_size": D, "norm": "rms", "norm_eps": 1e-6}
        attn = {**norm, "num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": D // HEADS, "rope": ROPE,
                "qk_norm": False, "sliding_window": None, "layout": "linear", "bias": False}  # fmt: skip
        ffn = {**norm, "intermediate_size": FFN, "activation": "silu", "gated": True, "layout": "linear",
               "bias": False}  # fmt: skip
        embed = {"hidden_size": D, "vocab_size": VOCAB, "max_positions": 0}
        parts = [Part("embed", self.block("embed", embed, {"tokens.weight": weights["model.embed_tokens.weight"]}))]
        for i in range(LAYERS):
            at = f"model.layers.{i}."
            tensors = {"norm.weight": weights[at + "input_layernorm.weight"]}
            tensors |= {f"{p}.weight": weights[f"{at}self_attn.{p}.weight"] for p in ("q_proj", "k_proj", "v_proj")}
            tensors["o_proj.weight"] = weights[at + "self_attn.o_proj.weight"]
            parts.append(Part(f"layers.{i}.attn", self.block("attn", attn, tensors), self.lora(lora, i)))
            tensors = {"norm.weight": weights[at + "post_attention_layernorm.weight"]}
            tensors |= {f"{p}.weight": weights[f"{at}mlp.{p}.weight"] for p in ("gate_proj", "up_proj", "down_proj")}
            parts.append(Part(f"layers.{i}.ffn", self.block("ffn", ffn, tensors)))
        head = {"norm.weight": weights["model.norm.weight"], "lm_head.weight": weights["lm_head.weight"]}
        parts.append(Part("head", self.block("head", {**norm, "vocab_size": VOCAB}, head)))
        links = tuple(parts)
        config = {"max_position_embeddings": MAX_LEN}
        model = Model(ModelRef(name, tenant), name, "llama", links, config, {})
        return Chain(model, links)

    def lora(self, lora: dict | None, layer: int) -> tuple[Block, ...]:
        if not lora or layer not in lora:
            return ()
        targets = {
            role: {"r": a.shape[0], "scale": scale, "dora": False} for role, (a, _, scale) in lora[layer].items()
        }
        tensors = {}
        for role, (a, b, _) in lora[layer].items():
            tensors[f"{role}.lora_A"], tensors[f"{role}.lora_B"] = a, b
        return (self.block("lora", {"targets": targets}, tensors),)


@dataclass
class Twin:
    """A model both ways: ours as a chain, transformers' for the truth."""

    chain: Chain
    weights: dict[str, torch.Tensor]
    _model: torch.nn.Module | None = field(default=None, init=False, repr=False, compare=False)

    def greedy(self, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        """Greedy tokens by transformers without cache tricks, and the gap between the best two logits at each."""
        tokens, margins = list(prompt), []
        for _ in range(count):
            logits = self.logits(tokens)[-1]
            best = torch.topk(logits, 2).values
            margins.append(float(best[0] - best[1]))
            tokens.append(int(logits.argmax()))
        return tokens[len(prompt) :], margins

    @torch.no_grad()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        if self._model is None:
            self._model = reference()
            self._model.load_state_dict(self.weights)
        return self._model(torch.tensor([tokens])).logits[0].float()


def reference() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=MAX_LEN, tie_word_embeddings=False, rms_norm_eps=1e-6,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@dataclass
class Family:
    """A base and its variants over one bench."""

    bench: Bench
    base_weights: dict[str, torch.Tensor]

    def base(self, name="base", **options) -> Twin:
        return Twin(self.bench.chain(name, self.base_weights, **options), self.base_weights)

    def changed(self, name: str, *touch: str, seed: int = 1, by: float = 0.1, **options) -> Twin:
        """A full or partial fine-tune: tensors whose name contains one of ``touch`` differ."""
        generator = torch.Generator().manual_seed(seed)
        weights = {
            n: t + by * torch.randn(t.shape, generator=generator) if any(x in n for x in touch) else t
            for n, t in self.base_weights.items()
        }
        return Twin(self.bench.chain(name, weights, **options), weights)

    def lora(self, name: str, layers=range(LAYERS), rank=4, seed=1, scale=0.5, **options) -> Twin:
        """LoRA on q and o; the twin is the merged model."""
        generator = torch.Generator().manual_seed(seed)
        weights, lora = dict(self.base_weights), {}
        for i in layers:
            lora[i] = {}
            for role in ("q_proj", "o_proj"):
                a, b = torch.randn(rank, D, generator=generator), 0.3 * torch.randn(D, rank, generator=generator)
                lora[i][role] = (a, b, scale)
                key = f"model.layers.{i}.self_attn.{role}.weight"
                weights[key] = weights[key] + scale * b @ a
        return Twin(self.bench.chain(name, self.base_weights, lora, **options), weights)


@dataclass
class Desk:
    """An engine and the few words a test needs to use it."""

    engine: Engine
    bench: Bench
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def load(self, *twins: Twin) -> None:
        for twin in twins:
            self.engine.install(self.engine.prepare(twin.chain, self.bench.read))

    def ask(self, twin: Twin, prompt: list[int], max_tokens: int = 8, **fields) -> int:
        sequence_id = next(self.ids)
        options = fields.pop("sampling", None) or SamplingOptions(temperature=0.0)
        sampler = SamplerState(options, prompt)
        self.engine.add(Sequence(sequence_id, twin.chain.model.ref, prompt, sampler, max_tokens, **fields))
        return sequence_id

    def finish(self) -> dict[int, list[int]]:
        """Step until nothing is left; the tokens of each sequence."""
        tokens: dict[int, list[int]] = {}
        while self.engine.has_work:
            for emission in self.engine.step():
                tokens.setdefault(emission.sequence_id, []).append(emission.token.token)
        return tokens


class Chains:
    """A zoo of chains held in memory."""

    def __init__(self, bench):
        self.bench, self.chains = bench, {}

    def put(self, twin, version="1"):
        ref = twin.chain.model.ref
        self.chains[ref] = dataclasses.replace(twin.chain, model=dataclasses.replace(twin.chain.model, version=version))
        return ref

    def chain(self, ref):
        if ref not in self.chains:
            raise NotFoundError(f"no model {ref}")
        return self.chains[ref]

    def model(self, ref):
        return self.chain(ref).model

    def read(self, ref):
        return self.bench.read(ref)

    def read_file(self, model, name):
        raise AssertionError("these models have no files")
