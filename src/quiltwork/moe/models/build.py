"""Making a model with weights that hang on a seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import nn

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import Gate
from quiltwork.moe.layer import MoELayer
from quiltwork.moe.models.blocks import Block
from quiltwork.moe.models.classifier import Classifier
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.shape import ModelShape
from quiltwork.moe.models.translator import Translator

LM, CLASSIFY, TRANSLATE = TASKS = ("lm", "classify", "translate")
Model: TypeAlias = Decoder | Classifier | Translator
_MODELS: dict[str, type[Model]] = {LM: Decoder, CLASSIFY: Classifier, TRANSLATE: Translator}
MOST_SEED = (1 << 63) - 1
"""What a generator of numbers takes."""
_EMBEDDED = 0.1
"""Standard deviation of embeddings: small beside what layers add, so that these are heard from the start."""
_ROUTED = 0.02
"""Of a classifier's head, and of routers: at first all experts are about as probable, and an adaptive gate takes two
for nearly every token."""


def build_model(
    task: str, shape: ModelShape, gates: Sequence[Gate | None], seed: int, device: torch.device | None = None
) -> Model:
    """The model of a task, fresh. gates : one for each layer, None for a dense one. Nothing global is touched."""
    if task not in _MODELS:
        raise BadInputError(f"{task[:40]!r} is not a task", where="task", hint=", ".join(TASKS))
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights of their own, which are not kept
        model = _MODELS[task](shape, gates)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, _deviation(name, parameter, shape), generator=draw)
    return model.to(device)


def _deviation(name: str, parameter: nn.Parameter, shape: ModelShape) -> float:
    """One over the square root of what a row sums; less where it is added to the stream that passes by."""
    if name.startswith("embed_tokens"):
        return _EMBEDDED
    if name.endswith(".router") or name == "head.weight":
        return _ROUTED
    added = name.endswith(("o_proj.weight", ".down"))
    return float((parameter.shape[-1] * (2 * shape.layers if added else 1)) ** -0.5)


def moe_blocks(model: Model) -> tuple[Block, ...]:
    """Its blocks that have experts, in the order of ``Outcome.routed``; none of a dense model."""
    blocks = [*(model.encoder if isinstance(model, Translator) else []), *model.layers]
    return tuple(block for block in blocks if isinstance(block, Block) and isinstance(block.ffn, MoELayer))


def moe_layers(model: Model) -> tuple[MoELayer, ...]:
    """Their layers of experts."""
    return tuple(block.ffn for block in moe_blocks(model) if isinstance(block.ffn, MoELayer))
