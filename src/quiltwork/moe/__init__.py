"""Mixture-of-experts layers that spend as many experts on a token as it needs (adaptive gating, Li et al. 2023).

What is named here is what users may call. It is imported when it is used: importing the room is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.core.face import face

if TYPE_CHECKING:
    from quiltwork.moe.balance import balance_counts, balance_loss
    from quiltwork.moe.checkpoints.adoption import adopt
    from quiltwork.moe.checkpoints.calibrating import calibrate
    from quiltwork.moe.checkpoints.held_out import held_out
    from quiltwork.moe.checkpoints.loading import load_moe
    from quiltwork.moe.checkpoints.mixtral_folder import write_mixtral
    from quiltwork.moe.checkpoints.saving import save_moe
    from quiltwork.moe.checkpoints.sparse_block import record_routing, set_gates, sparse_blocks
    from quiltwork.moe.checkpoints.thresholds import Thresholds, read_thresholds
    from quiltwork.moe.checkpoints.upcycling import upcycle
    from quiltwork.moe.control.controller import Controller
    from quiltwork.moe.curriculum.orders import cosine_order, cost_order, mean_order
    from quiltwork.moe.curriculum.shares import balanced_shares
    from quiltwork.moe.evaluation import Evaluated, Mode, evaluate_result, mode_of
    from quiltwork.moe.executor import moe_executor
    from quiltwork.moe.expert_choice import ExpertChoice
    from quiltwork.moe.experts import Experts
    from quiltwork.moe.gate import Gate
    from quiltwork.moe.gates import Adaptive, TopK
    from quiltwork.moe.layer import MoELayer
    from quiltwork.moe.models.build import build_model
    from quiltwork.moe.models.mixtral import mixtral_state
    from quiltwork.moe.models.shape import ModelShape
    from quiltwork.moe.null_experts import NullExperts
    from quiltwork.moe.random_second import RandomSecond
    from quiltwork.moe.report.making import figures_of
    from quiltwork.moe.report.page import write_page
    from quiltwork.moe.report.tables import write_tables
    from quiltwork.moe.routing import Routing
    from quiltwork.moe.top_p import TopP
    from quiltwork.moe.training.checking import read_settings
    from quiltwork.moe.training.result import TrainingResult, read_result
    from quiltwork.moe.training.settings import TrainingSettings
    from quiltwork.moe.training.training import MoETraining, moe_trainable

_MODULES = {
    "balance": (
        "balance_counts",
        "balance_loss",
    ),
    "checkpoints.adoption": ("adopt",),
    "checkpoints.calibrating": ("calibrate",),
    "checkpoints.held_out": ("held_out",),
    "checkpoints.loading": ("load_moe",),
    "checkpoints.mixtral_folder": ("write_mixtral",),
    "checkpoints.saving": ("save_moe",),
    "checkpoints.sparse_block": (
        "record_routing",
        "set_gates",
        "sparse_blocks",
    ),
    "checkpoints.thresholds": (
        "Thresholds",
        "read_thresholds",
    ),
    "checkpoints.upcycling": ("upcycle",),
    "control.controller": ("Controller",),
    "curriculum.orders": (
        "cosine_order",
        "cost_order",
        "mean_order",
    ),
    "curriculum.shares": ("balanced_shares",),
    "evaluation": (
        "Evaluated",
        "Mode",
        "evaluate_result",
        "mode_of",
    ),
    "executor": ("moe_executor",),
    "expert_choice": ("ExpertChoice",),
    "experts": ("Experts",),
    "gate": ("Gate",),
    "gates": (
        "Adaptive",
        "TopK",
    ),
    "layer": ("MoELayer",),
    "models.build": ("build_model",),
    "models.mixtral": ("mixtral_state",),
    "models.shape": ("ModelShape",),
    "null_experts": ("NullExperts",),
    "random_second": ("RandomSecond",),
    "report.making": ("figures_of",),
    "report.page": ("write_page",),
    "report.tables": ("write_tables",),
    "routing": ("Routing",),
    "top_p": ("TopP",),
    "training.checking": ("read_settings",),
    "training.result": (
        "TrainingResult",
        "read_result",
    ),
    "training.settings": ("TrainingSettings",),
    "training.training": (
        "MoETraining",
        "moe_trainable",
    ),
}

__all__ = [
    "Adaptive",
    "Controller",
    "Evaluated",
    "ExpertChoice",
    "Experts",
    "Gate",
    "MoELayer",
    "MoETraining",
    "Mode",
    "ModelShape",
    "NullExperts",
    "RandomSecond",
    "Routing",
    "Thresholds",
    "TopK",
    "TopP",
    "TrainingResult",
    "TrainingSettings",
    "adopt",
    "balance_counts",
    "balance_loss",
    "balanced_shares",
    "build_model",
    "calibrate",
    "cosine_order",
    "cost_order",
    "evaluate_result",
    "figures_of",
    "held_out",
    "load_moe",
    "mean_order",
    "mixtral_state",
    "mode_of",
    "moe_executor",
    "moe_trainable",
    "read_result",
    "read_settings",
    "read_thresholds",
    "record_routing",
    "save_moe",
    "set_gates",
    "sparse_blocks",
    "upcycle",
    "write_mixtral",
    "write_page",
    "write_tables",
]

__getattr__, __dir__ = face(__name__, _MODULES)
