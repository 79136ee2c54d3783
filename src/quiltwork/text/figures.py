"""What a server of sentence models has done so far."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from quiltwork.core.servable import Sample


class Figures:
    """Counts, told as metrics; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._batches: Counter[str] = Counter()
        self._sentences: Counter[str] = Counter()
        self._distinct: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def refused(self, tenant: str) -> None:
        """A request found the queue full."""
        with self._lock:
            self._refused[tenant] += 1

    def ran(
        self, model: str, requests: Sequence[tuple[str, str, int]], *, distinct: int, tokens: int, seconds: float
    ) -> None:
        """A batch for one model. requests : task, tenant and sentences of each."""
        with self._lock:
            for task, tenant, _ in requests:
                self._requests[model, task, tenant] += 1
            self._sentences[model] += sum(sentences for _, _, sentences in requests)
            self._batches[model] += 1
            self._distinct[model] += distinct
            self._tokens[model] += tokens
            self._seconds[model] = self._seconds.get(model, 0.0) + seconds

    def samples(self) -> list[Sample]:
        """All of them."""
        with self._lock:
            found = [
                Sample("quiltwork_text_requests_total", "counter", "Requests answered.", float(count),
                       {"model": model, "task": task, "tenant": tenant})
                for (model, task, tenant), count in sorted(self._requests.items())
            ]  # fmt: skip
            found += [
                Sample("quiltwork_text_refused_total", "counter", "Requests that found the queue full.", float(count),
                       {"tenant": tenant})
                for tenant, count in sorted(self._refused.items())
            ]  # fmt: skip
            for name, text, counts in (
                ("batches", "Batches run.", self._batches),
                ("sentences", "Sentences of answered requests.", self._sentences),
                ("distinct_sentences", "Of those: different ones within a batch.", self._distinct),
                ("tokens", "Tokens that vectors were made of.", self._tokens),
                ("batch_seconds", "Seconds that batches took.", self._seconds),
            ):
                found += [
                    Sample(f"quiltwork_text_{name}_total", "counter", text, float(count), {"model": model})
                    for model, count in sorted(counts.items())
                ]
        return found
