"""AdamW over named parameters, whose state is arrays by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.trainable import Arrays

KINDS = ("weights", "exp_avg", "exp_avg_sq")
"""What a state holds for each parameter, as ``weights/NAME``; the moments are called as in torch."""


class NamedAdamW:
    """Updates the parameters it is given in their places. Those with two dimensions or more decay."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self._parameters = dict(parameters)
        of = {kind: [p for p in self._parameters.values() if (p.dim() > 1) == kind] for kind in (False, True)}
        groups = [{"params": of[kind], "weight_decay": weight_decay if kind else 0.0} for kind in of if of[kind]]
        self._optimiser = torch.optim.AdamW(groups, lr=0.0)
        for p in self._parameters.values():
            zeros = torch.zeros(()), torch.zeros_like(p), torch.zeros_like(p)
            self._optimiser.state[p] = dict(zip(("step", *KINDS[1:]), zeros, strict=True))

    @property
    def count(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self._parameters.values())

    def zeros(self) -> dict[str, npt.NDArray[np.float32]]:
        """A gradient of nothing."""
        return {name: np.zeros(tuple(p.shape), np.float32) for name, p in self._parameters.items()}

    def forget_gradients(self) -> None:
        """Clear what a ``backward`` has left."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def take_gradients(self) -> dict[str, npt.NDArray[np.float32]]:
        """What ``backward`` has left at the parameters; it is forgotten."""
        grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self._parameters.items()}
        self.forget_gradients()
        return {name: grad.detach().cpu().contiguous().numpy() for name, grad in grads.items()}

    def step(self, gradients: Arrays, done: int, rate: float, clip: float) -> float:
        """Take a step; returns the gradient's norm, before it is cut to ``clip``. Raises BadInputError for a gradient
        that does not fit, QuiltworkError for one that is not finite; nothing has changed then."""
        if unknown := sorted(set(gradients) - set(self._parameters)):
            raise BadInputError("is not a parameter that is trained here", where=f"gradients: {unknown[0]}")
        grads = {name: self._given(gradients, name, "gradients", name) for name in self._parameters}
        norm = float(nn.utils.get_total_norm(list(grads.values())))
        if not math.isfinite(norm):
            hint = "a lower rate may help; the last checkpoint is sound"
            raise QuiltworkError("the gradient is not finite", where=f"step {done + 1}", hint=hint)
        for name, parameter in self._parameters.items():
            parameter.grad = grads[name] * (clip / norm) if 0 < clip < norm else grads[name]
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self.forget_gradients()
        return norm

    def state(self) -> dict[str, npt.NDArray[np.float32]]:
        """A copy of weights and moments, by ``kind/name``."""
        return {
            f"{kind}/{name}": self._tensor(kind, p).detach().cpu().numpy().copy()
            for kind in KINDS
            for name, p in self._parameters.items()
        }

    def load(self, arrays: Arrays, done: int) -> None:
        """Take over what ``state`` gave after ``done`` steps. Raises BadInputError naming what does not fit."""
        wanted = [(kind, name) for kind in KINDS for name in self._parameters]
        if unknown := sorted(set(arrays) - {f"{kind}/{name}" for kind, name in wanted}):
            raise BadInputError("is not a parameter that is trained here", where=f"state: {unknown[0]}")
        given = {(kind, name): self._given(arrays, name, "state", f"{kind}/{name}") for kind, name in wanted}
        with torch.no_grad():
            for (kind, name), value in given.items():
                self._tensor(kind, self._parameters[name]).copy_(value)
        for p in self._parameters.values():
            self._optimiser.state[p]["step"].fill_(float(done))

    def _tensor(self, kind: str, parameter: nn.Parameter) -> torch.Tensor:
        return parameter if kind == "weights" else self._optimiser.state[parameter][kind]

    def _given(self, arrays: Arrays, name: str, what: str, key: str) -> torch.Tensor:
        array, parameter = arrays.get(key), self._parameters[name]
        if array is None:
            raise BadInputError("is missing", where=f"{what}: {key}")
        if array.shape != tuple(parameter.shape) or array.dtype != np.float32:
            has, wants = f"{array.dtype} {list(array.shape)}", f"float32 {list(parameter.shape)}"
            raise BadInputError(f"is {has} instead of {wants}", where=f"{what}: {key}")
        return torch.tensor(array, device=parameter.device)
