"""Mixture-of-experts layers that spend as many experts on a token as it needs (adaptive gating, Li et al. 2023).

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.moe.balance import balance_loss
    from quiltwork.moe.checkpoints.adoption import adopt
    from quiltwork.moe.checkpoints.calibrating import calibrate
    from quiltwork.moe.checkpoints.held_out import held_out
    from quiltwork.moe.checkpoints.loading import load_moe
    from quiltwork.moe.checkpoints.mixtral_folder import write_mixtral
    from quiltwork.moe.checkpoints.saving import save_moe
    from quiltwork.moe.checkpoints.sparse_block import record_routing, set_gates, sparse_blocks
    from quiltwork.moe.checkpoints.thresholds import Thresholds, read_thresholds
    from quiltwork.moe.checkpoints.upcycling import upcycle
    from quiltwork.moe.experts import Experts
    from quiltwork.moe.gate import Gate
    from quiltwork.moe.gates import Adaptive, TopK
    from quiltwork.moe.layer import MoELayer
    from quiltwork.moe.routing import Routing

_MODULES = {
    "balance": ("balance_loss",),
    "checkpoints.adoption": ("adopt",),
    "checkpoints.calibrating": ("calibrate",),
    "checkpoints.held_out": ("held_out",),
    "checkpoints.loading": ("load_moe",),
    "checkpoints.mixtral_folder": ("write_mixtral",),
    "checkpoints.saving": ("save_moe",),
    "checkpoints.sparse_block": ("record_routing", "set_gates", "sparse_blocks"),
    "checkpoints.thresholds": ("Thresholds", "read_thresholds"),
    "checkpoints.upcycling": ("upcycle",),
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
    "Thresholds",
    "TopK",
    "adopt",
    "balance_loss",
    "calibrate",
    "held_out",
    "load_moe",
    "read_thresholds",
    "record_routing",
    "save_moe",
    "set_gates",
    "sparse_blocks",
    "upcycle",
    "write_mixtral",
]

__getattr__, __dir__ = face(__name__, _MODULES)
