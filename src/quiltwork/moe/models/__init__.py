"""A decoder, a classifier and a translator whose feed-forward layers are experts, made of the same blocks."""

from quiltwork.moe.models.build import CLASSIFY, LM, TASKS, TRANSLATE, Model, build_model, moe_layers
from quiltwork.moe.models.classifier import Classifier
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.outcome import Outcome, Routed
from quiltwork.moe.models.packed import Packed, pack
from quiltwork.moe.models.shape import ModelShape
from quiltwork.moe.models.translator import Translator

__all__ = [
    "CLASSIFY",
    "LM",
    "TASKS",
    "TRANSLATE",
    "Classifier",
    "Decoder",
    "Model",
    "ModelShape",
    "Outcome",
    "Packed",
    "Routed",
    "Translator",
    "build_model",
    "moe_layers",
    "pack",
]
