"""Mixture-of-experts layers that spend as many experts on a token as it needs (adaptive gating, Li et al. 2023).

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.moe.balance import balance_loss
    from quiltwork.moe.executor import moe_executor
    from quiltwork.moe.experts import Experts
    from quiltwork.moe.gate import Gate
    from quiltwork.moe.gates import Adaptive, TopK
    from quiltwork.moe.layer import MoELayer
    from quiltwork.moe.routing import Routing

_MODULES = {
    "balance": ("balance_loss",),
    "executor": ("moe_executor",),
    "experts": ("Experts",),
    "gate": ("Gate",),
    "gates": ("Adaptive", "TopK"),
    "layer": ("MoELayer",),
    "routing": ("Routing",),
}

__all__ = [
    "Adaptive",
    "Experts",
    "Gate",
    "MoELayer",
    "Routing",
    "TopK",
    "balance_loss",
    "moe_executor",
]

__getattr__, __dir__ = face(__name__, _MODULES)
