"""What happened to the requests, counted under vLLM's metric names beside our own."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.core.servable import Sample
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.engine import EngineStats
from quiltwork.serving.experts import Spent
from quiltwork.serving.ledger import TenantStats
from quiltwork.serving.residency import Residency

FIRST_TOKEN_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
                      40.0, 80.0, 160.0)  # fmt: skip
BETWEEN_TOKENS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
                         5.0, 10.0)  # fmt: skip
REQUEST_BOUNDS = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 120.0, 240.0,
                  480.0)  # fmt: skip


class Histogram:
    """Counts of observations by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def sample(self, name: str, help: str, labels: Mapping[str, str]) -> Sample:
        """As it stands now, with cumulative counts."""
        buckets: list[tuple[float, int]] = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return Sample(name, "histogram", help, self._sum, labels, tuple(buckets))


@dataclass
class _ModelCounts:
    prompt_tokens: int = 0
    generated_tokens: int = 0
    assembled: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    experts: Spent = field(default_factory=Spent)
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BOUNDS))
    between_tokens: Histogram = field(default_factory=lambda: Histogram(BETWEEN_TOKENS_BOUNDS))
    request: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS))


class Metrics:
    """Counts by model. Written by the engine thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, _ModelCounts] = {}
        self._refused: dict[str, int] = {}

    def _of(self, model: str) -> _ModelCounts:
        return self._models.setdefault(model, _ModelCounts())

    def started(self, model: str, prompt_tokens: int) -> None:
        """A request was taken in."""
        with self._lock:
            self._of(model).prompt_tokens += prompt_tokens

    def assembled(self, model: str) -> None:
        """A request for a model is answered by an adapted one."""
        with self._lock:
            self._of(model).assembled += 1

    def token(self, model: str, seconds: float, *, first: bool) -> None:
        """A token came ``seconds`` after its request (the first) or after the token before it."""
        with self._lock:
            counts = self._of(model)
            counts.generated_tokens += 1
            (counts.first_token if first else counts.between_tokens).observe(seconds)

    def refused(self, tenant: str) -> None:
        """A request was refused because its tenant has too many."""
        with self._lock:
            self._refused[tenant] = self._refused.get(tenant, 0) + 1

    def finished(self, model: str, reason: str, seconds: float) -> None:
        """A request ended after ``seconds``: ``stop``, ``length``, ``abort`` or ``error``."""
        with self._lock:
            counts = self._of(model)
            counts.finished[reason] = counts.finished.get(reason, 0) + 1
            if reason in ("stop", "length"):
                counts.request.observe(seconds)

    def took(self, model: str, experts: Spent) -> None:
        """A request that ended took experts; nothing where its model has none."""
        if experts.count:
            with self._lock:
                self._of(model).experts.add(experts.total, experts.count)

    def samples(self, stats: EngineStats) -> list[Sample]:
        """Everything as it stands now, the engine's own counts included."""
        samples = _engine_samples(stats)
        with self._lock:
            for model, counts in sorted(self._models.items()):
                samples += _model_samples(model, counts)
            for tenant in sorted({*stats.tenants, *self._refused}):
                standing = stats.tenants.get(tenant, TenantStats())
                samples += _tenant_samples(tenant, standing, self._refused.get(tenant, 0))
        return samples


def _model_samples(model: str, counts: _ModelCounts) -> list[Sample]:
    labels = {"model_name": model}
    between = "Seconds between two tokens of a request."
    return [
        Sample("vllm:prompt_tokens_total", "counter", "Prompt tokens taken in.", counts.prompt_tokens, labels),
        Sample("vllm:generation_tokens_total", "counter", "Tokens generated.", counts.generated_tokens, labels),
        Sample("quiltwork:assembled_requests_total", "counter",
               "Requests for a model that an adapted one answered.", counts.assembled, labels),
        *_expert_samples(counts.experts, labels),
        *(
            Sample("vllm:request_success_total", "counter", "Requests that ended, by reason.", count,
                   {**labels, "finished_reason": reason})
            for reason, count in sorted(counts.finished.items())
        ),
        counts.first_token.sample("vllm:time_to_first_token_seconds", "Seconds to a request's first token.", labels),
        counts.between_tokens.sample("vllm:inter_token_latency_seconds", between, labels),
        counts.between_tokens.sample("vllm:time_per_output_token_seconds", between, labels),
        counts.request.sample("vllm:e2e_request_latency_seconds", "Seconds a whole request took.", labels),
    ]  # fmt: skip


def _expert_samples(spent: Spent, labels: Mapping[str, str]) -> list[Sample]:
    """What requests that ended took; their quotient is the mean experts per token. Nothing for models without any."""
    if not spent.count:
        return []
    return [
        Sample("quiltwork:experts_taken_total", "counter",
               "Experts that tokens took, over all layers with experts.", spent.total, labels),
        Sample("quiltwork:expert_layer_tokens_total", "counter",
               "How often a token went through a layer with experts.", spent.count, labels),
    ]  # fmt: skip


def _tenant_samples(tenant: str, standing: TenantStats, refused: int) -> list[Sample]:
    labels = {"tenant": tenant}

    def sample(name: str, kind: str, help: str, value: float, **more: str) -> Sample:
        return Sample(f"quiltwork:tenant_{name}", kind, help, value, {**labels, **more})

    served = "Tokens served to a tenant, by kind: prompt tokens computed, tokens generated."
    return [
        sample("served_tokens_total", "counter", served, standing.prompt_tokens, tokens="prompt"),
        sample("served_tokens_total", "counter", served, standing.generated_tokens, tokens="generated"),
        sample("running", "gauge", "Sequences of a tenant in the engine's batches.", standing.running),
        sample("waiting", "gauge", "Sequences of a tenant waiting to start.", standing.waiting),
        sample("kv_held_bytes", "gauge", "Bytes of KV pages that a tenant's running sequences hold.",
               standing.kv_held_bytes),
        sample("refused_total", "counter", "Requests refused because their tenant had too many.", refused),
    ]  # fmt: skip


def _engine_samples(stats: EngineStats) -> list[Sample]:
    used = stats.kv_used_bytes / stats.kv_capacity_bytes if stats.kv_capacity_bytes else 0.0
    mixed = [batch.models for batch in stats.last_batches]

    def gauge(name: str, help: str, value: float) -> Sample:
        return Sample(name, "gauge", help, float(value))

    def counter(name: str, help: str, value: float) -> Sample:
        return Sample(name, "counter", help, float(value))

    return [
        gauge("vllm:num_requests_running", "Sequences in the engine's batches.", stats.running),
        gauge("vllm:num_requests_waiting", "Sequences waiting to start.", stats.waiting),
        gauge("vllm:kv_cache_usage_perc", "Share of the KV memory in use, 0 to 1.", used),
        counter("vllm:num_preemptions_total", "Sequences put back for want of KV memory.", stats.preemptions),
        counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
                stats.kv.queries * PAGE_TOKENS),
        counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
                stats.kv.hits * PAGE_TOKENS),
        counter("vllm:spec_decode_num_drafts_total", "Verifications of drafted tokens.", stats.speculation.drafts),
        counter("vllm:spec_decode_num_draft_tokens_total", "Tokens drafted.", stats.speculation.draft_tokens),
        counter("vllm:spec_decode_num_accepted_tokens_total", "Drafted tokens that were taken.",
                stats.speculation.accepted_tokens),
        counter("quiltwork:spec_decode_num_relaxed_tokens_total",
                "Of these, tokens in the place of others that the model drew, for who allows that.",
                stats.speculation.relaxed_tokens),
        gauge("quiltwork:weight_bytes", "Bytes of weights held, each shared block once.", stats.weight_bytes),
        gauge("quiltwork:kv_used_bytes", "Bytes of KV pages and activations in use or cached.", stats.kv_used_bytes),
        gauge("quiltwork:kv_held_bytes", "Bytes of KV pages that running sequences hold.", stats.kv_held_bytes),
        gauge("quiltwork:kv_capacity_bytes", "Bytes that KV pages and activations may take.", stats.kv_capacity_bytes),
        counter("quiltwork:kv_evictions_total", "Cached pages dropped to make room.", stats.kv.evictions),
        counter("quiltwork:steps_total", "Engine steps.", stats.steps),
        counter("quiltwork:segment_hops_total", "Executed batches of a segment.", stats.hops),
        counter("quiltwork:cached_prompt_tokens_total", "Prompt tokens that were not computed again.",
                stats.cached_prompt_tokens),
        counter("quiltwork:prefill_token_layers_total", "Attention blocks run, summed over prompt tokens.",
                stats.prefill_token_layers),
        gauge("quiltwork:batch_models", "Most models in one batch of the last step.", max(mixed, default=0)),
        gauge("quiltwork:batch_sequences", "Most sequences in one batch of the last step.",
              max((batch.sequences for batch in stats.last_batches), default=0)),
        gauge("quiltwork:models", "Models loaded.", len(stats.routes)),
    ]  # fmt: skip


def residency_samples(residency: Residency, *, offered: int, resident: int) -> list[Sample]:
    """Which of the models that may be asked for are in memory, and what came and went."""
    c = residency.counters

    def sample(name: str, kind: str, help: str, value: float) -> Sample:
        return Sample(f"quiltwork:{name}", kind, help, float(value))

    return [
        sample("models_offered", "gauge", "Models that may be asked for.", offered),
        sample("models_resident", "gauge", "Models in memory, of those that may be asked for.", resident),
        sample("models_pinned", "gauge", "Models that never leave memory.", len(residency.pinned)),
        sample("model_loads_total", "counter", "Models loaded on demand.", c.loads),
        sample("model_load_seconds_total", "counter", "Seconds spent loading models on demand.", c.load_seconds),
        sample("model_load_failures_total", "counter", "Models that could not be loaded on demand.", c.failures),
        sample("model_evictions_total", "counter", "Models that left memory for others.", c.evictions),
        sample("evicted_weight_bytes_total", "counter", "Bytes of weights dropped for others.", c.evicted_bytes),
    ]
