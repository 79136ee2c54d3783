"""The gateway's own figures, and everybody's as a Prometheus page."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from quiltwork.core.servable import Json, Sample

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass
class Latency:
    """One answered model request, as the page shows it."""

    model: str
    tenant: str
    first: float | None
    """Seconds to the first part; None for a reply that was read when it had ended."""
    total: float
    tokens: int


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def cumulative(self) -> list[tuple[float, int]]:
        total, rows = 0, []
        for bound, count in zip((*BOUNDS, float("inf")), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


class Traffic:
    """Requests counted by route and status, and the last few model requests. Used from one event loop."""

    def __init__(self, keep: int = 200) -> None:
        self._in_flight = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, _Histogram] = {}
        self._recent: deque[Latency] = deque(maxlen=keep)

    def began(self) -> None:
        """A request came in."""
        self._in_flight += 1

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; status 0 where the client went first."""
        self._in_flight -= 1
        method = method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH") else "other"
        key = (route, method, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._seconds.setdefault(route, _Histogram())
        histogram.counts[bisect_left(BOUNDS, seconds)] += 1
        histogram.sum += seconds

    def served(self, latency: Latency) -> None:
        """A model request was answered to its end."""
        self._recent.append(latency)

    def recent(self, tenant: str | None) -> dict[str, Json]:
        """Percentiles of the last model requests, in seconds; of one tenant, or of all."""
        kept = [r for r in self._recent if tenant is None or r.tenant == tenant]
        return {
            "requests": len(kept),
            "first": _percentiles([r.first for r in kept if r.first is not None]),
            "total": _percentiles([r.total for r in kept]),
            "trail": [round(r.total, 4) for r in kept[-60:]],
            "tokens": sum(r.tokens for r in kept),
        }

    def samples(self) -> list[Sample]:
        """As they stand now."""
        rows = [Sample("quiltwork:http_requests_in_flight", "gauge", "Requests being answered.", self._in_flight)]
        for (route, method, status), count in sorted(self._requests.items()):
            labels = {"route": route, "method": method, "status": str(status)}
            rows.append(Sample("quiltwork:http_requests_total", "counter", "Requests answered.", count, labels))
        for route, histogram in sorted(self._seconds.items()):
            rows.append(
                Sample(
                    "quiltwork:http_request_seconds", "histogram", "Seconds a request took, its stream included.",
                    histogram.sum, {"route": route}, histogram.cumulative(),
                )
            )  # fmt: skip
        return rows


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 4) for p in (50, 95)}


def prometheus_page(samples: Iterable[Sample]) -> bytes:
    """Samples in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(list(samples)))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """Samples of one name under one heading."""
        metrics: dict[str, Metric] = {}
        for sample in self._samples:
            name = sample.name.removesuffix("_total") if sample.kind == "counter" else sample.name
            metric = metrics.setdefault(name, Metric(name, sample.help, sample.kind))
            labels = dict(sample.labels)
            if sample.kind == "counter":
                metric.add_sample(f"{name}_total", labels, sample.value)
            elif sample.kind == "histogram":
                for bound, count in sample.buckets:
                    shown = "+Inf" if bound == float("inf") else repr(float(bound))
                    metric.add_sample(f"{name}_bucket", {**labels, "le": shown}, count)
                metric.add_sample(f"{name}_count", labels, sample.buckets[-1][1] if sample.buckets else 0)
                metric.add_sample(f"{name}_sum", labels, sample.value)
            else:
                metric.add_sample(name, labels, sample.value)
        yield from metrics.values()
