"""What is done with a sentence's vector after pooling: matrices with an activation, a norm, the length 1."""

from __future__ import annotations

import importlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.text.encoder.layout import Module
from quiltwork.text.encoder.weights import Weights, read_weights
from quiltwork.text.files import ModelFiles
from quiltwork.zoo.config import Fields


class Dense(nn.Module):
    """An affine map and an activation; (m, inputs) -> (m, outputs)."""

    def __init__(
        self, inputs: int, outputs: int, activation: nn.Module, *, bias: bool = True, residual: bool = False
    ) -> None:
        super().__init__()
        self.linear = _empty(inputs, outputs, bias)
        self.activation = activation
        self.adds_input = residual
        self.residual = _empty(inputs, outputs, False) if residual and inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.activation(self.linear(x))
        if not self.adds_input:
            return y
        return y + (x if self.residual is None else self.residual(x))


def _empty(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A matrix that is filled from a file: nothing is drawn from anybody's random numbers for it."""
    made: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]
    return made


class Normalize(nn.Module):
    """Each vector divided by its length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x, p=2.0, dim=-1)


def read_heads(files: ModelFiles, modules: Sequence[Module], width: int) -> tuple[nn.Sequential, int]:
    """The modules behind pooling, and the length of their vectors. width : of what pooling gives.

    Raises BadInputError or NotFoundError naming the file and the field, UnsupportedError for what is not known.
    """
    heads: list[nn.Module] = []
    for module in modules:
        if module.kind == "Normalize":
            _require_sentence(module, files)
            heads.append(Normalize())
        elif module.kind == "Dense":
            dense, width = _dense(files, module, width)
            heads.append(dense)
        elif module.kind == "LayerNorm":
            heads.append(_layer_norm(files, module, width))
        elif module.kind != "Dropout":  # nothing is dropped when vectors are asked for
            raise UnsupportedError(f"has {module.kind} after Pooling", where=f"{files.where}: modules.json")
    return nn.Sequential(*heads).eval().requires_grad_(False), width


def _dense(files: ModelFiles, module: Module, width: int) -> tuple[Dense, int]:
    fields = Fields(module.config, {"bias": True, "use_residual": False}, module.named(files))
    _require_sentence(module, files)
    inputs, outputs = fields.size("in_features"), fields.size("out_features")
    if inputs != width:
        raise fields.error("in_features", f"is {inputs}, but there come {width} numbers")
    dense = Dense(
        inputs, outputs, _activation(module, files), bias=fields.flag("bias"), residual=fields.flag("use_residual")
    )
    _fill(dense, files, module)
    return dense, outputs


def _layer_norm(files: ModelFiles, module: Module, width: int) -> nn.Module:
    fields = Fields(module.config, {}, module.named(files))
    if (told := fields.size("dimension")) != width:
        raise fields.error("dimension", f"is {told}, but there come {width} numbers")
    holder = nn.ModuleDict({"norm": nn.LayerNorm(width)})
    _fill(holder, files, module)
    return holder["norm"]


def _fill(target: nn.Module, files: ModelFiles, module: Module) -> None:
    weights = Weights(read_weights(files, module.path), posixpath.join(files.where, module.path))
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(torch.from_numpy(weights.get(name, tuple(parameter.shape)).copy()))


def _activation(module: Module, files: ModelFiles) -> nn.Module:
    """A class of torch.nn by its dotted name, as sentence-transformers writes it; Tanh where nothing is said."""
    name = module.config.get("activation_function", "torch.nn.modules.activation.Tanh")
    where = f"{module.named(files)}: activation_function"
    if not isinstance(name, str):
        raise BadInputError(f"must be a class's name, not {str(name)[:40]}", where=where)
    package, _, last = name.rpartition(".")
    if not (package == "torch.nn" or package.startswith("torch.nn.modules.")):
        raise UnsupportedError(f"{name[:80]} is not an activation of torch.nn", where=where)
    try:
        kind: Any = getattr(importlib.import_module(package), last)
        if not issubclass(kind, nn.Module):
            raise TypeError
        made = kind()
    except (ImportError, AttributeError, TypeError) as error:
        raise UnsupportedError(f"{name[:80]} is not an activation of torch.nn", where=where) from error
    if any(True for _ in made.parameters()):
        raise UnsupportedError(f"{name[:80]} has weights of its own", where=where)
    return made  # type: ignore[no-any-return]


def _require_sentence(module: Module, files: ModelFiles) -> None:
    config: Mapping[str, Any] = module.config
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            where = f"{module.named(files)}: {name}"
            raise UnsupportedError(f"{str(config[name])[:40]!r} is not the sentence's vector", where=where)
