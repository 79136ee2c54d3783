"""One process, many models: chains of shared blocks executed in common batches."""

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine, EngineStats
from quiltwork.serving.factory import language_servable
from quiltwork.serving.finetuning import language_trainable
from quiltwork.serving.options import RequestOptions, SamplingOptions, parse_options
from quiltwork.serving.sampling import Sampled, SamplerState, sample
from quiltwork.serving.sequence import Emission, Sequence
from quiltwork.serving.servable import LanguageModels
from quiltwork.serving.text import TextCodec, load_codec

__all__ = [
    "Emission",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "LanguageModels",
    "RequestOptions",
    "Sampled",
    "SamplerState",
    "SamplingOptions",
    "Sequence",
    "TextCodec",
    "language_servable",
    "language_trainable",
    "load_codec",
    "parse_options",
    "sample",
]
