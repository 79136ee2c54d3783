"""Models that look as if ``zoo adapt`` had made them."""

from __future__ import annotations

from dataclasses import replace

from quiltwork.core.names import ModelRef
from quiltwork.zoo.types import Model, Substitution


def adapted(
    model: Model,
    exact: Model,
    loss: float | None = 0.004,
    agreement: float = 0.98,
    text: str = "ab" * 32,
    version: str | None = None,
    **fields: object,
) -> Model:
    """A model as ``zoo adapt`` leaves it."""
    swap = Substitution(
        "layers.1.ffn", ("old",), ("new",), ModelRef("base"), 0.003, 0.001, 0.99, 0.003, 0.99, 0.01, text
    )
    judging = {"judging": {"tokens": 480, "loss": 2.0, "delta_loss": loss, "kl": 0.002, "agreement": agreement}}
    measured: dict = {"parent_versions": {str(exact.ref): exact.version if version is None else version}}
    measured |= judging if text else {}
    return replace(model, base=exact.ref, substitutions=(swap,), measured=measured, **fields)
