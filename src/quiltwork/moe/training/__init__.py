"""Training small models of experts: on running text, on texts with classes, on pairs of sentences."""

from quiltwork.moe.training.checking import read_settings
from quiltwork.moe.training.settings import TrainingSettings
from quiltwork.moe.training.training import MoETraining, moe_trainable

__all__ = ["MoETraining", "TrainingSettings", "moe_trainable", "read_settings"]
