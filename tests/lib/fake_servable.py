"""A Servable without a model: it answers at once, slowly, not at all or with an error, as the prompt tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, QuiltworkError
from quiltwork.core.names import ModelRef, visible_to
from quiltwork.core.servable import Caller, Hosted, Input, Json, Part, Sample, Stream, TaskSchema

OPTIONS = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "max_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 100},
        "stop": {"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        "prompt_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 8},
        "adapter_scale": {"type": ["number", "null"], "x-changes-state": True},
        "explain": {"type": ["boolean", "null"]},
    },
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    },
}
IMAGE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
TASKS = {
    "completion": TaskSchema(
        {"type": "object", "properties": {"prompt": {}}, "required": ["prompt"]}, {"type": "object"}, OPTIONS, True
    ),
    "chat": TaskSchema(
        {"type": "object", "properties": {"messages": MESSAGES}, "required": ["messages"]},
        {"type": "object"},
        OPTIONS,
        True,
    ),
    "tokenize": TaskSchema(
        {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]},
        {"type": "object"},
        NOTHING,
    ),
    "detokenize": TaskSchema(
        {"type": "object", "properties": {"tokens": IDS}, "required": ["tokens"]}, {"type": "object"}, NOTHING
    ),
    "pose": TaskSchema(
        {
            "type": "object",
            "properties": {
                "image": IMAGE,
                "words": {"type": "array", "items": {"type": "string"}},
                "crops": {"type": "array", "items": IMAGE},
            },
            "required": ["image"],
        },
        {"type": "object"},
        {
            "type": "object",
            "properties": {"threshold": {"type": "number", "minimum": 0, "maximum": 1}},
            "additionalProperties": False,
        },
    ),
}


class FakeServable:
    """Words are tokens; a completion says the prompt's words again, upper case, for ever.

    A prompt that begins with ``slow`` gives a word per 10 ms, ``hang`` gives one word and waits, ``fail`` fails after
    two words, ``full`` is refused for want of capacity, ``crash`` raises what is not one of our errors.
    """

    kind = "fake"

    def __init__(self, *refs: ModelRef) -> None:
        self.refs = list(refs)
        self.cancelled = threading.Event()
        self.started = threading.Event()
        self.asked: list[tuple[ModelRef, Input, Mapping[str, Json], Caller]] = []
        self.closed = False

    def tasks(self) -> Mapping[str, TaskSchema]:
        return TASKS

    def models(self) -> Sequence[Hosted]:
        return [Hosted(ref, "ready", {"parent": None, "max_model_len": 512}) for ref in self.refs]

    def takes(self, ref: ModelRef) -> bool:
        return True

    def load(self, ref: ModelRef) -> None:
        if ref.name == "absent":
            raise NotFoundError("there is no model absent", where="model")
        if ref not in self.refs:
            self.refs.append(ref)

    def unload(self, ref: ModelRef) -> None:
        self.refs.remove(ref)

    def submit(self, model: ModelRef, input: Input, options: Mapping[str, Json], *, caller: Caller) -> Stream:
        assert visible_to(model, caller.tenant), "the gateway let a tenant at another's model"
        self.asked.append((model, input, options, caller))
        stream = Stream(on_cancel=self.cancelled.set)
        if input.task == "tokenize":
            words = input.fields["prompt"].split()
            result = {"tokens": list(range(len(words))), "token_strs": words, "count": len(words), "max_model_len": 512}
            stream.put(Part(result, last=True))
        elif input.task == "detokenize":
            stream.put(Part({"prompt": " ".join(f"t{token}" for token in input.fields["tokens"])}, last=True))
        elif input.task == "pose":
            sizes = {name: len(data) for name, data in input.blobs.items()}
            stream.put(Part({"sizes": sizes, "options": dict(options)}, {"mask": b"\x00\xff"}, last=True))
        else:
            self._say(stream, input, options)
        return stream

    def _say(self, stream: Stream, input: Input, options: Mapping[str, Json]) -> None:
        text = input.fields["messages"][-1]["content"] if input.task == "chat" else input.fields["prompt"]
        words = text.split() if isinstance(text, str) else [f"t{token}" for token in text]
        mode = words[0] if words else ""
        if mode == "full":
            raise CapacityError("no room", retry_after=2.5)
        if mode == "crash":
            raise RuntimeError("secret detail")
        if mode == "refuse":
            raise BadInputError("is refused", where="prompt")
        n = options.get("n") or 1
        asked = options.get("max_tokens")
        total = min(8 if asked is None else asked, 200)
        if mode == "hang":
            threading.Thread(target=self._hang, args=(stream,), daemon=True).start()
        elif mode in ("slow", "fail"):
            threading.Thread(target=self._run, args=(stream, words, options, n, total, mode), daemon=True).start()
        else:
            self._run(stream, words, options, n, total, mode)

    def _hang(self, stream: Stream) -> None:
        stream.put(Part(_word(0, "HANG", None, {})))
        self.started.set()

    def _run(
        self, stream: Stream, words: list[str], options: Mapping[str, Json], n: int, total: int, mode: str
    ) -> None:
        self.started.set()
        if "prompt_logprobs" in options:
            entries = [None, *(_entry(word) for word in words[1:])]
            ids = list(range(len(words)))
            report = {"index": 0, "prompt_logprobs": entries, "prompt_token_ids": ids, "prompt_text": " ".join(words)}
            stream.put(Part(report))
        for at in range(total):
            if stream.cancelled:
                return
            if mode == "slow":
                time.sleep(0.01)
            if mode == "fail" and at == 2:
                stream.fail(QuiltworkError("the engine failed"))
                return
            for index in range(n):
                word = (words[at % len(words)] if words else "x").upper()
                reason = "length" if at == total - 1 else None
                stream.put(Part(_word(index, word + ("" if reason else " "), reason, options)))
        if total == 0:
            for index in range(n):
                stream.put(Part(_word(index, "", "length", {}) | {"token_ids": []}))
        usage = {"prompt_tokens": len(words), "completion_tokens": n * total, "cached_tokens": 1}
        told = {"explain": {"choices": [_explained(index) for index in range(n)]}} if options.get("explain") else {}
        served = {"version": "v", "family": "fake", "segments": 1}
        stream.put(Part({"usage": usage, "served": served, **told}, last=True))

    def samples(self) -> Sequence[Sample]:
        return [
            Sample("vllm:num_requests_running", "gauge", "Running.", 1.0),
            Sample("vllm:generation_tokens_total", "counter", "Tokens.", 7.0, {"model_name": 'a"b\\c'}),
            Sample("fake:seconds", "histogram", "Time.", 3.5, {}, [(1.0, 1), (float("inf"), 2)]),
        ]

    def status(self) -> Mapping[str, Json]:
        return {"models": [_row(ref, at) for at, ref in enumerate(self.refs)], "queue": {"running": 3, "waiting": 1},
                "batches": [{"blocks": 6, "rows": 12, "sequences": 12, "models": 5},
                            {"blocks": 2, "rows": 4, "sequences": 4, "models": 1}],
                "kv": {"used_bytes": 3_200_000}, "weights": {"bytes": 9_000_000, "without_sharing": 40_000_000},
                "segments": [{"blocks": 1, "first": "b0", "models": [str(ref) for ref in self.refs]}],
                "tenants": [{"tenant": t, "running": 1} for t in sorted({r.tenant for r in self.refs})]}  # fmt: skip

    def explain(self, model: ModelRef, *, tenant: str | None) -> Mapping[str, Json]:
        assert tenant is None or visible_to(model, tenant), "the gateway let a tenant at another's model"
        others = sorted(ref for ref in self.refs if ref != model)
        named = [str(ref) for ref in others if tenant is None or visible_to(ref, tenant)]
        shared = {"models": named, "hidden": len(others) - len(named)}
        parts = [{"part": cell["part"], "kind": cell["kind"], "block": cell["block"], "bytes": cell["bytes"],
                  "shared_with": shared, "attachments": []} for cell in _row(model, 0)["cells"]]  # fmt: skip
        segments = [{"segment": "5e9", "first": "embed", "last": "layers.4.ffn", "blocks": 11, "bytes": 1_300_000,
                     "shared_with": shared},
                    {"segment": "a1c", "first": "head", "last": "head", "blocks": 1, "bytes": 196_608,
                     "shared_with": {"models": [], "hidden": 0}}]  # fmt: skip
        return {"model": str(model), "family": "llama", "version": "0" * 64, "base": None, "bytes": 1_500_000,
                "own_bytes": 196_608, "parts": parts, "segments": segments, "unservable": [],
                "substitutions": [{"part": part, "source": None, "delta_loss": 0.002, "total_delta_loss": 0.002,
                                   "budget": 0.01} for part in _substituted(model)]}  # fmt: skip

    def close(self, *, drain_seconds: float = 0.0) -> None:
        self.closed = True


def _row(ref: ModelRef, at: int) -> dict[str, Json]:
    cells = []
    parts = ["embed", *(f"layers.{i}.{kind}" for i in range(5) for kind in ("attn", "ffn")), "head"]
    for place, part in enumerate(parts):
        own = (at % 4 == 1 and place == len(parts) - 1) or (at % 4 == 2 and place > 6) or at % 8 == 7
        hung = [{"kind": "lora", "block": f"l{at}{place}", "bytes": 8192}] if at % 4 == 3 and "attn" in part else []
        block = f"{at if own else 0:02d}{place:02d}" + "ab" * 30
        kind = part.rsplit(".", 1)[-1]
        cells.append({"part": part, "kind": kind, "block": block, "bytes": 65536 * (1 + place % 3), "shared_by": 1,
                      "attachments": hung})  # fmt: skip
    return {"model": str(ref), "name": ref.name, "tenant": ref.tenant, "family": "llama", "version": "0" * 64,
            "parent": "base" if at else None, "segments": 1, "cells": cells,
            "substituted": _substituted(ref)}  # fmt: skip


def _substituted(ref: ModelRef) -> list[str]:
    return ["layers.2.attn"] if ref.name == "poems" else []


def _explained(index: int) -> dict[str, Json]:
    spread = {"mean": 1.5, "max": 2}
    batches = {"count": 7, "rows": spread, "sequences": spread, "models": spread}
    hop = {"segments": ["5e9"], "first": "embed", "last": "head", "blocks": 12, "batches": batches}
    found = {"own": 0, "sibling": 3, "public": 0}
    kv = {"page_tokens": 16, "found": found, "partly_found": {**found, "sibling": 0}, "computed": 2, "recomputed": 1,
          "preemptions": 1, "waits": 0}  # fmt: skip
    seconds = {"queue": 0.001, "prefill": 0.002, "decode": 0.003, "sampling": 0.0, "delivery": 0.0, "total": 0.006}
    drafted = {"drafted": 9, "accepted": 4}
    return {"index": index, "hops": [hop], "batches": batches, "kv": kv, "seconds": seconds, "speculation": drafted}


def _entry(word: str) -> dict[str, Json]:
    token = {"id": 1, "token": word, "bytes": list(word.encode()), "logprob": -0.5}
    return {**token, "top": [token]}


def _word(index: int, text: str, reason: str | None, options: Mapping[str, Json]) -> dict[str, Json]:
    logprobs = [_entry(text)] if options.get("logprobs") is not None else None
    return {"index": index, "text": text, "token_ids": [1], "logprobs": logprobs, "finish_reason": reason,
            "stop_reason": None}  # fmt: skip
