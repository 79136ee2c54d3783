"""Segments of a model on an accelerator: measured operators, and a model of the two things that were not measured.

Attention reads keys and values: for a decoding row it is bound by memory, for a prompt's chunk by arithmetic. The
vocabulary projection reads its matrix. Both are *modelled* from the figures of the accelerator's data sheet and two
stated shares of them; everything else is Vidur's measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.serving.profiles.vidur import ATTENTION, EMBED, FFN, OperatorTimes

HALF = 2
"""Bytes of a number in half precision, in which Vidur measured."""


@dataclass(frozen=True)
class Accelerator:
    """What the model of attention needs to know of a device."""

    name: str
    memory_bytes: float
    memory_bytes_per_s: float
    flops_per_s: float
    """Dense half precision."""
    memory_share: float = 0.8
    """Of the memory's rate, what reading keys and values attains."""
    compute_share: float = 0.5
    """Of the arithmetic's rate, what attention over a prompt attains."""
    load_bytes_per_s: float = 25e9
    """From the host's memory into the device's (PCIe 4.0 x16: 32 GB/s less protocol)."""

    def __post_init__(self) -> None:
        for field in ("memory_bytes", "memory_bytes_per_s", "flops_per_s", "load_bytes_per_s"):
            if not getattr(self, field) > 0:
                raise BadInputError(f"{getattr(self, field)} is not positive", where=f"{self.name}: {field}")
        for field in ("memory_share", "compute_share"):
            if not 0 < getattr(self, field) <= 1:
                raise BadInputError(f"{getattr(self, field)} is not in (0, 1]", where=f"{self.name}: {field}")


# From the vendor's data sheets.
A100 = Accelerator("a100", 80e9, 2039e9, 312e12)
H100 = Accelerator("h100", 80e9, 3350e9, 989e12)
A40 = Accelerator("a40", 48e9, 696e9, 149.7e12)
ACCELERATORS = {device.name: device for device in (A100, H100, A40)}


@dataclass(frozen=True)
class Span:
    """A run of a model's blocks: whole layers, with the embedding below or the head above where they belong to it."""

    layers: int
    embed: bool = False
    head: bool = False


def layer_bytes(times: OperatorTimes) -> int:
    """Bytes of one layer's matrices."""
    d = times.width
    kv = d * times.kv_heads // times.heads
    return HALF * (d * (d + 2 * kv) + d * d + (3 if times.gated else 2) * d * times.ffn_width)


def span_profile(times: OperatorTimes, device: Accelerator, span: Span) -> SegmentProfile:
    """What a run of blocks costs on a device.

    Raises BadInputError for a span without blocks.
    """
    if span.layers < 0 or not (span.layers or span.embed or span.head):
        raise BadInputError("has no blocks", where="span")
    d, vocabulary = times.width, times.vocabulary
    attention, ffn, embed = (times.together(names) for names in (ATTENTION, FFN, EMBED))
    # Attention is launched for every layer; what a launch costs at the least is measured at the smallest operator
    # of about its kind, the rotation of queries and keys for one token.
    launch = times.operators["attn_rope"].seconds[0]
    head = vocabulary * d * HALF / (device.memory_bytes_per_s * device.memory_share) if span.head else 0.0
    rows = CostTable(
        attention.amounts,
        tuple(
            span.layers * (attention.at(n) + ffn.at(n) + launch) + (embed.at(n) if span.embed else 0.0) + head
            for n in attention.amounts
        ),
    )
    kv = HALF * 2 * (d * times.kv_heads // times.heads)
    table_bytes = vocabulary * d * HALF
    weights = span.layers * layer_bytes(times) + table_bytes * (span.embed + span.head)
    return SegmentProfile(
        rows=rows,
        context_s=span.layers * kv / (device.memory_bytes_per_s * device.memory_share),
        prompt_context_s=span.layers * 4 * d / (device.flops_per_s * device.compute_share),
        weight_bytes=weights,
        kv_bytes=span.layers * kv,
        hidden_bytes=HALF * d,
        load_s=weights / device.load_bytes_per_s,
    )
