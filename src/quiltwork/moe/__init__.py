"""Mixture-of-experts layers that spend as many experts on a token as it needs (adaptive gating, Li et al. 2023).

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.moe.balance import balance_counts, balance_loss
    from quiltwork.moe.expert_choice import ExpertChoice
    from quiltwork.moe.experts import Experts
    from quiltwork.moe.gate import Gate
    from quiltwork.moe.gates import Adaptive, TopK
    from quiltwork.moe.layer import MoELayer
    from quiltwork.moe.null_experts import NullExperts, null_balance_loss
    from quiltwork.moe.random_second import RandomSecond
    from quiltwork.moe.routing import Routing
    from quiltwork.moe.top_p import TopP

_MODULES = {
    "balance": ("balance_counts", "balance_loss"),
    "expert_choice": ("ExpertChoice",),
    "experts": ("Experts",),
    "gate": ("Gate",),
    "gates": ("Adaptive", "TopK"),
    "layer": ("MoELayer",),
    "null_experts": ("NullExperts", "null_balance_loss"),
    "random_second": ("RandomSecond",),
    "routing": ("Routing",),
    "top_p": ("TopP",),
}

__all__ = [
    "Adaptive",
    "ExpertChoice",
    "Experts",
    "Gate",
    "MoELayer",
    "NullExperts",
    "RandomSecond",
    "Routing",
    "TopK",
    "TopP",
    "balance_counts",
    "balance_loss",
    "null_balance_loss",
]

__getattr__, __dir__ = face(__name__, _MODULES)
