"""A zoo that can be held up or broken, and requests to a host that loads from it when it is asked."""

from __future__ import annotations

import threading

from tiny_llama import Chains

from quiltwork.core.errors import CorruptionError
from quiltwork.core.servable import Caller, Input

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19]
ALL = ("embed", "layers", "norm", "lm_head")
"""Prefixes of all weights: what is changed there shares nothing."""


class Shelf(Chains):
    """Counts what is read, tells which thread reads, waits where it is told to, and may be broken."""

    def __init__(self, bench):
        super().__init__(bench)
        self.count, self.broken = 0, set()
        self.gate, self.reading = threading.Event(), threading.Event()
        self.gate.set()

    def read(self, ref):
        self.reader = threading.current_thread()
        self.reading.set()
        self.gate.wait()
        self.count += 1
        if ref.content in self.broken:
            raise CorruptionError("is not what its hash says", where=f"tensor {ref.name}")
        return super().read(ref)


def ask(host, twin, prompt=PROMPT, **options):
    options = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, **options}
    return host.submit(twin.chain.model.ref, Input("completion", {"prompt": prompt}), options, caller=Caller())


def tokens(stream):
    return [token for part in stream if not part.last for token in part.fields["token_ids"]]


def counters(host):
    return host.engine.residency.counters
