"""Tiny models with experts in a zoo, a fine-tune that shares most of them, and an engine to ask them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from tiny_checkpoints import build
from tiny_text import byte_level

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.experts import OPTION, parse_experts
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.zoo import Zoo

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
SIZES = {"vocab_size": 448, "max_position_embeddings": 256}


def sparse(kind: str = "mixtral", seed: int = 0, **changes: Any) -> Any:
    """A transformers model whose router is sure of some tokens and not of others."""
    model = build(kind, seed, **(SIZES | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gate.weight", "lm_head.weight")):
                parameter.mul_(4)
    return model


def tuned(kind: str = "mixtral", **changes: Any) -> Any:
    """The same model with the last layer's first expert and the head trained on."""
    model = sparse(kind, **changes)
    torch.manual_seed(5)
    with torch.no_grad():
        experts = model.model.layers[-1].mlp.experts
        experts.down_proj[0] += 0.1 * torch.randn_like(experts.down_proj[0])
        model.lm_head.weight += 0.1 * torch.randn_like(model.lm_head.weight)
    return model


def save(model: Any, folder: Path, **options: Any) -> Path:
    """A model's directory with a tokenizer and a chat template."""
    model.save_pretrained(folder, **options)
    (folder / "generation_config.json").unlink(missing_ok=True)
    byte_level().save(str(folder / "tokenizer.json"))
    told = {"eos_token": "<|eos|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """What transformers goes on with."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


class Asking:
    """An engine with models of a zoo."""

    def __init__(self, zoo: Zoo, *names: str, **config: Any) -> None:
        ticks = itertools.count()
        self.engine = Engine(EngineConfig(**config), lambda: float(next(ticks)))
        self.zoo, self._ids = zoo, itertools.count(1)
        self.cached: dict[int, int] = {}
        self.widest = 0
        """Most sequences that were in one batch."""
        for name in names:
            self.engine.install(self.engine.prepare(zoo.chain(name), zoo.read))

    def ask(self, name: str, prompt: list[int], count: int = 8, experts: Any = None, **fields: Any) -> Sequence:
        """Queue a greedy request; ``experts`` as in a request's body."""
        sampler = SamplerState(SamplingOptions(temperature=0.0, logprobs=0), prompt)
        asked = parse_experts(experts)
        options = {} if asked is None else {OPTION: asked}
        seq = Sequence(
            next(self._ids), self.zoo.model(name).ref, prompt, sampler, count, state_options=options, **fields
        )
        self.engine.add(seq)
        return seq

    def finish(self) -> dict[int, list[tuple[int, float]]]:
        """Step until nothing is left: each sequence's tokens and their log-probabilities."""
        told: dict[int, list[tuple[int, float]]] = {}
        while self.engine.has_work:
            emissions = self.engine.step()
            self.widest = max(self.widest, *(batch.sequences for batch in self.engine.stats().last_batches), 0)
            for emission in emissions:
                assert emission.token is not None
                assert emission.token.logprob is not None
                told.setdefault(emission.sequence_id, []).append((emission.token.token, emission.token.logprob))
                self.cached[emission.sequence_id] = emission.cached_tokens
        return told

    def alone(self, name: str, prompt: list[int], count: int = 8, experts: Any = None) -> list[tuple[int, float]]:
        """A request with nothing beside it."""
        seq = self.ask(name, prompt, count, experts)
        return self.finish()[seq.id]
