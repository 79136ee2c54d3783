"""AdamW on named parameters that lie in one run of memory, as do their moments: a state is three copies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.trainable import Arrays

KINDS = ("weights", "exp_avg", "exp_avg_sq")
"""What a state holds for each parameter, as ``weights/NAME``; the moments are called as in torch."""
_ALIGN = 16
"""Numbers: every parameter begins at 64 bytes, since the rounding of matrix products may hang on that."""


class FlatAdamW:
    """Moves the parameters it is given into its own memory and updates them there.

    parameters : float32, by name. Those with two dimensions or more decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self._parameters = dict(parameters)
        device = next(iter(self._parameters.values())).device
        self._places = dict(self._place())
        size = sum(-(-p.numel() // _ALIGN) * _ALIGN for p in self._parameters.values())
        self._memory = {kind: torch.zeros(size, device=device) for kind in KINDS}
        groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
        for name, parameter in self._parameters.items():
            view = self._view("weights", name)
            view.copy_(parameter.detach())
            parameter.data = view
            groups[parameter.dim() > 1].append(parameter)
        self._optimiser = torch.optim.AdamW(
            [{"params": g, "weight_decay": d} for g, d in zip(groups, (0.0, weight_decay), strict=True) if g],
            lr=0.0,
            fused=True,
        )
        for name, parameter in self._parameters.items():
            moments = {kind: self._view(kind, name) for kind in KINDS[1:]}
            self._optimiser.state[parameter] = {"step": torch.zeros((), device=device), **moments}

    @property
    def count(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self._parameters.values())

    def zeros(self) -> dict[str, npt.NDArray[np.float32]]:
        """A gradient of nothing."""
        return {name: np.zeros(tuple(p.shape), dtype=np.float32) for name, p in self._parameters.items()}

    def forget_gradients(self) -> None:
        """Clear what a ``backward`` that did not come to its end has left."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def take_gradients(self) -> dict[str, npt.NDArray[np.float32]]:
        """What ``backward`` has left at the parameters, without copying where it is on the CPU; then it is theirs."""
        taken = {}
        for name, parameter in self._parameters.items():
            found = parameter.grad
            grad = torch.zeros_like(parameter) if found is None else found
            taken[name] = grad.detach().cpu().contiguous().numpy()
        self.forget_gradients()
        return taken

    def step(self, gradients: Arrays, done: int, rate: float, clip: float) -> float:
        """Take a step with a gradient, which is left as it is; returns its norm, before it is cut to ``clip``.

        Raises BadInputError naming a gradient of a wrong shape, QuiltworkError where one is not finite; nothing has
        changed then.
        """
        grads = {name: self._given(gradients, name, "gradients") for name in self._parameters}
        if len(gradients) != len(grads):
            unknown = min(set(gradients) - set(grads))
            raise BadInputError("is not a parameter that is trained here", where=f"gradients: {unknown}")
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
        copies = {kind: memory.to("cpu", copy=True) for kind, memory in self._memory.items()}
        return {f"{kind}/{name}": self._view(kind, name, copies).numpy() for kind in KINDS for name in self._parameters}

    def load(self, arrays: Arrays, done: int) -> None:
        """Take over what ``state`` gave after ``done`` steps. Raises BadInputError naming what does not fit."""
        wanted = [(kind, name) for kind in KINDS for name in self._parameters]
        given = {(kind, name): self._given(arrays, name, "state", f"{kind}/") for kind, name in wanted}
        if len(arrays) != len(given):
            unknown = min(set(arrays) - {f"{kind}/{name}" for kind, name in wanted})
            raise BadInputError("is not a parameter that is trained here", where=f"state: {unknown}")
        for (kind, name), value in given.items():
            self._view(kind, name).copy_(value)
        for state in self._optimiser.state.values():
            state["step"].fill_(float(done))

    def _given(self, arrays: Arrays, name: str, what: str, prefix: str = "") -> Tensor:
        array, parameter = arrays.get(prefix + name), self._parameters[name]
        if array is None:
            raise BadInputError("is missing", where=f"{what}: {prefix}{name}")
        if array.shape != tuple(parameter.shape) or array.dtype != np.float32:
            has, wants = f"{array.dtype} {list(array.shape)}", f"float32 {list(parameter.shape)}"
            raise BadInputError(f"is {has} instead of {wants}", where=f"{what}: {prefix}{name}")
        # A tensor cannot stand on memory that may not be written, though nobody writes to it here.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(parameter.device)

    def _place(self) -> Iterator[tuple[str, int]]:
        at = 0
        for name, parameter in self._parameters.items():
            yield name, at
            at += -(-parameter.numel() // _ALIGN) * _ALIGN

    def _view(self, kind: str, name: str, memory: Mapping[str, Tensor] | None = None) -> Tensor:
        shape, at = self._parameters[name].shape, self._places[name]
        return (memory or self._memory)[kind][at : at + shape.numel()].view(shape)
