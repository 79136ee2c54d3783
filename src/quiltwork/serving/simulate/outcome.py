"""What a simulated run came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quiltwork.core.servable import Json


@dataclass(frozen=True)
class Finished:
    """One request that was answered; times in seconds."""

    id: int
    app: str
    arrival: float
    first_token: float
    end: float
    prompt_tokens: int
    output_tokens: int

    @property
    def latency(self) -> float:
        """From arrival to the last token."""
        return self.end - self.arrival

    @property
    def ttft(self) -> float:
        """From arrival to the first token."""
        return self.first_token - self.arrival

    @property
    def tpot(self) -> float:
        """Per token after the first."""
        return (self.end - self.first_token) / max(self.output_tokens - 1, 1)


@dataclass(frozen=True)
class Outcome:
    """Requests and resources of one run.

    Utilisation has two meanings, and both are here. **busy_share** is the share of time that devices were running a
    batch: device-seconds in batches, by devices that held any weights times the run's length. It says nothing about
    what a batch was good for: a device that decodes one sequence at a time is always busy. **efficiency** is the share
    of the busy time that was *needed*: every token of every request that was computed once, at the time per row of
    the best-filled batch in the device's own table, plus its attention, by the device-seconds in batches. What was
    computed a second time counts as busy and not as needed. Their product, **useful_share**, is needed work by
    provisioned time.
    """

    finished: tuple[Finished, ...]
    refused: tuple[int, ...]
    """Requests that could never be served: what they need fits no device."""
    seconds: float
    """From the first arrival to the last answer."""
    devices: int
    devices_used: int
    """That held any weights at any time."""
    busy_s: float
    useful_s: float
    peak_weight_bytes: float
    """Over all devices, at the fullest moment."""
    peak_kv_bytes: float
    moved_bytes: float
    between_bytes: float
    hops: int
    """Boundaries crossed from one agent to another."""
    tokens: int
    """Generated."""
    batches: int
    rows: int
    """Rows in these batches, over all segments."""
    steps: int
    """Of agents; the batches of one step follow each other."""
    pieces: int
    """Requests that rode, over all steps."""
    loads: int
    loaded_bytes: float
    evictions: int
    preemptions: int
    replicas_added: int
    replicas_retired: int
    kv_choices: Mapping[str, int]
    assembled: int = 0
    """Requests that a stand-in answered."""

    def latency(self, q: float) -> float:
        """Seconds from arrival to end that the share ``q`` of requests stays within; NaN where there are none."""
        return _quantile([f.latency for f in self.finished], q)

    def ttft(self, q: float) -> float:
        """Likewise to the first token."""
        return _quantile([f.ttft for f in self.finished], q)

    def tpot(self, q: float) -> float:
        """Likewise per later token."""
        return _quantile([f.tpot for f in self.finished], q)

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.finished) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def goodput(self, *, ttft_s: float = float("inf"), tpot_s: float = float("inf")) -> float:
        """Requests per second within both limits."""
        good = sum(f.ttft <= ttft_s and f.tpot <= tpot_s for f in self.finished)
        return good / self.seconds if self.seconds else 0.0

    @property
    def busy_share(self) -> float:
        """See above."""
        provisioned = self.devices_used * self.seconds
        return self.busy_s / provisioned if provisioned else 0.0

    @property
    def efficiency(self) -> float:
        """See above."""
        return self.useful_s / self.busy_s if self.busy_s else 0.0

    @property
    def useful_share(self) -> float:
        """See above."""
        return self.busy_share * self.efficiency

    @property
    def hops_per_token(self) -> float:
        """Between agents, per generated token."""
        return self.hops / self.tokens if self.tokens else 0.0

    def document(self) -> dict[str, Json]:
        """Everything but the single requests, as JSON."""
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        return {
            "finished": len(self.finished),
            "refused": len(self.refused),
            "seconds": self.seconds,
            "latency_s": {name: self.latency(q) for name, q in shares.items()} if self.finished else None,
            "ttft_s": {name: self.ttft(q) for name, q in shares.items()} if self.finished else None,
            "tpot_s": {name: self.tpot(q) for name, q in shares.items()} if self.finished else None,
            "requests_per_s": self.throughput,
            "output_tokens_per_s": self.tokens_per_s,
            "devices": self.devices,
            "devices_used": self.devices_used,
            "busy_share": self.busy_share,
            "efficiency": self.efficiency,
            "useful_share": self.useful_share,
            "rows_per_batch": self.rows / self.batches if self.batches else 0.0,
            "hops_per_token": self.hops_per_token,
            "moved_bytes": self.moved_bytes,
            "between_servers_bytes": self.between_bytes,
            "peak_weight_bytes": self.peak_weight_bytes,
            "peak_kv_bytes": self.peak_kv_bytes,
            "loads": self.loads,
            "loaded_bytes": self.loaded_bytes,
            "evictions": self.evictions,
            "preemptions": self.preemptions,
            "replicas": {"added": self.replicas_added, "retired": self.replicas_retired},
            "kv": dict(sorted(self.kv_choices.items())),
        }


def _quantile(values: list[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else float("nan")
