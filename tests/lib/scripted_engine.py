"""An engine that says what it is told to, and a zoo of nothing but names: for what stands around the engine."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import EngineStats
from quiltwork.serving.kv import KVCounters
from quiltwork.serving.policy.assembly import Outlook
from quiltwork.serving.sampling import sample
from quiltwork.serving.sequence import Emission
from quiltwork.zoo.types import Block, Chain, Model, Part


@dataclass(eq=False)
class Said:
    """A served version, as far as the face looks at it."""

    ref: ModelRef
    chain: Chain
    max_len: int
    vocab_size: int
    virtual_tokens: int = 0
    route: tuple = ("one",)


@dataclass(eq=False)
class ScriptedEngine:
    """Its logits point at the next token of ``script`` (by version), else at 0; steps wait while ``gate`` is clear."""

    script: dict[str, list[int]] = field(default_factory=dict)
    max_num_seqs: int = 4
    max_len: int = 64
    vocab_size: int = 512
    kv_tokens: int = 10**6

    def __post_init__(self):
        self.config = EngineConfig(max_num_seqs=self.max_num_seqs)
        self.gate = threading.Event()
        self.gate.set()
        self.models: dict[ModelRef, Said] = {}
        self.drafts: dict[ModelRef, ModelRef | None] = {}
        self.sequences: dict[int, object] = {}
        self.added: list[object] = []
        self.cancelled: list[int] = []
        self.looks: dict[ModelRef, Outlook] = {}
        self.residency = SimpleNamespace(load_seconds=lambda ref: 0.0, drafts=set(), pinned=frozenset())
        self.steps = 0
        self.break_step: Exception | None = None

    def prepare(self, chain, read):
        return Said(chain.model.ref, chain, self.max_len, self.vocab_size)

    def install(self, served):
        self.models[served.ref] = served

    def unload(self, ref):
        if self.models.pop(ref, None) is None:
            raise NotFoundError(f"{ref} is not loaded")

    def draft_with(self, model, draft):
        self.drafts[model] = draft

    def room(self, ref):
        return min(self.models[ref].max_len, self.kv_tokens)

    def outlooks(self, seq, chains):
        return {ref: self.looks.get(ref, Outlook()) for ref in chains}

    def add(self, seq):
        if seq.model not in self.models:
            raise NotFoundError(f"{seq.model} is not loaded", where="model")
        seq.version = seq.served = self.models[seq.model]
        if len(seq.prompt) + seq.max_tokens > self.kv_tokens:
            raise BadInputError("too much", where="max_tokens")
        self.sequences[seq.id] = seq
        self.added.append(seq)

    def cancel(self, sequence_id):
        if self.sequences.pop(sequence_id, None) is not None:
            self.cancelled.append(sequence_id)

    @property
    def has_work(self):
        return bool(self.sequences)

    def step(self):
        self.gate.wait()
        if self.break_step is not None:
            error, self.break_step = self.break_step, None
            raise error
        self.steps += 1
        seqs = list(self.sequences.values())[: self.max_num_seqs]
        logits = torch.zeros(len(seqs), self.vocab_size)
        for row, seq in enumerate(seqs):
            script = self.script.get(seq.served.chain.model.version, [])
            at = seq.sampler.generated
            logits[row, script[at] if at < len(script) else 0] = 5.0
        emissions = []
        for seq, token in zip(seqs, sample(logits, [s.sampler for s in seqs]), strict=True):
            reason = None
            if seq.sampler.error is not None:
                reason = "error"
            elif token.token in seq.stop_ids or seq.sampler.complete:
                reason = "stop"
            elif seq.sampler.generated >= seq.max_tokens:
                reason = "length"
            report = None
            if seq.prompt_logprobs is not None and seq.sampler.generated == 1:
                report = (None, *(token._replace(token=id, logprob=-1.0) for id in seq.prompt[1:]))
            if reason is not None:
                del self.sequences[seq.id]
            emissions.append(Emission(seq.id, token, reason, 3, report, seq.sampler.error))
        return emissions

    def stats(self):
        routes = {ref: (tuple(p.block.id for p in s.chain.links),) for ref, s in self.models.items()}
        return EngineStats(
            running=len(self.sequences), waiting=0, kv_used_bytes=1, kv_held_bytes=1, kv_capacity_bytes=4,
            weight_bytes=7, steps=self.steps, prompt_tokens=0, generated_tokens=0, cached_prompt_tokens=0,
            prefill_token_layers=0, hops=0, preemptions=0, kv=KVCounters(),
            last_batches=(), routes=routes,
        )  # fmt: skip


class Shelf:
    """A zoo of models that are files and a name."""

    def __init__(self):
        self.held: dict[ModelRef, Model] = {}
        self.files: dict[str, bytes] = {}
        self.closed = False

    def put(self, name, files=(), *, version="v1", base=None, tenant="public", config=None):
        ref = ModelRef(name, tenant)
        ids = {}
        for file, data in dict(files).items():
            ids[file] = f"{file}-{hash(data)}"
            self.files[ids[file]] = data
        parts = (
            Part("embed", Block("embed-1", "embed", {}, ())),
            Part("head", Block(f"head-{version}", "head", {}, ())),
        )
        self.held[ref] = Model(ref, version, "llama", parts, config or {"eos_token_id": 1}, ids, base=base)
        return ref

    def model(self, ref):
        if ref not in self.held:
            raise NotFoundError(f"no model {ref}", where="model")
        return self.held[ref]

    def chain(self, ref):
        model = self.model(ref)
        return Chain(model, model.parts)

    def read(self, ref):
        raise AssertionError("the scripted engine reads no tensors")

    def read_file(self, model, name):
        return self.files[model.files[name]]

    def close(self):
        self.closed = True
