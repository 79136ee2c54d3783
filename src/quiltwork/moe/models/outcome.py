"""What a model gives: its logits, and how every layer routed its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quiltwork.moe.models.packed import Packed
from quiltwork.moe.routing import Routing


@dataclass(frozen=True)
class Routed:
    """The routing of a layer, and where its tokens lie."""

    routing: Routing
    packed: Packed


@dataclass(frozen=True)
class Outcome:
    """logits : (T, vocabulary), or (n, classes) of a classifier. routed : one for each layer of experts, in order."""

    logits: Tensor
    routed: tuple[Routed, ...]
