"""How the agents stand, as metrics: each agent, and the queue of each segment it holds."""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.core.servable import Sample
from quiltwork.serving.agents.message import Beat

AGENT = {
    "queue_s": ("queue_seconds", "gauge", "Seconds that an agent's queues will take."),
    "waiting": ("waiting", "gauge", "Pieces of work that wait at an agent."),
    "kv_free": ("kv_free_bytes", "gauge", "Bytes of KV pages that an agent could still give."),
    "kv_capacity": ("kv_capacity_bytes", "gauge", "Bytes that an agent's KV pages may take."),
    "weight_bytes": ("weight_bytes", "gauge", "Bytes of weights that an agent holds."),
    "steps": ("steps_total", "counter", "Steps of an agent."),
    "busy_s": ("busy_seconds_total", "counter", "Seconds that an agent ran batches."),
    "kv_moves": ("kv_moves_total", "counter", "Times that an agent had keys and values sent to it."),
    "kv_moved_bytes": ("kv_moved_bytes_total", "counter", "Bytes of keys and values sent to an agent."),
    "kv_recomputed": ("kv_recomputed_total", "counter", "Times that an agent computed keys and values again."),
    "kv_dropped": ("kv_dropped_total", "counter", "Times that an agent put a sequence back for want of memory."),
}
"""Fields of a beat -> name, kind and meaning of a metric."""
SEGMENT = {
    "waiting_rows": ("waiting_rows", "gauge", "Rows that wait at a segment of an agent."),
    "rows": ("rows_total", "counter", "Rows that a segment of an agent has run."),
    "batches": ("batches_total", "counter", "Batches that a segment of an agent has run."),
    "wait_p95_s": ("wait_p95_seconds", "gauge", "95th percentile of the last waits at a segment of an agent."),
}


def samples(beats: Mapping[str, Beat | None]) -> list[Sample]:
    """Metrics of all agents, by name; of those that are gone only that they are."""
    found: list[Sample] = []
    for agent, beat in sorted(beats.items()):
        labels = {"agent": agent}
        alive = float(beat is not None)
        found.append(Sample("quiltwork:agent_up", "gauge", "Whether an agent is there.", alive, labels))
        if beat is None:
            continue
        for field, (name, kind, help) in AGENT.items():
            found.append(Sample(f"quiltwork:agent_{name}", kind, help, float(getattr(beat, field)), labels))
        for segment, figures in sorted(beat.queues.items()):
            for field, (name, kind, help) in SEGMENT.items():
                here = {**labels, "segment": segment}
                found.append(Sample(f"quiltwork:agent_segment_{name}", kind, help, figures[field], here))
    return found
