"""Experts one by one under the names that files have for them, and stacked as layers have them."""

from __future__ import annotations

import torch
from torch import Tensor

from quiltwork.moe.checkpoints.sparse_families import SparseFamily
from quiltwork.moe.experts import Experts

_GATE_UP, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"


def expert_names(family: SparseFamily, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What files hold for a parameter of a transformers model: names and shapes."""
    folder = f".{family.folder}."
    if name.endswith(_GATE_UP):
        head, (experts, both, width) = name.removesuffix(_GATE_UP), shape
        return {
            f"{head}{folder}experts.{e}.{which}": (both // 2, width)
            for e in range(experts) for which in (family.gate, family.up)
        }  # fmt: skip
    if name.endswith(_DOWN):
        head = name.removesuffix(_DOWN)
        return {f"{head}{folder}experts.{e}.{family.down}": shape[1:] for e in range(shape[0])}
    if name.endswith(".mlp.gate.weight"):
        return {name.replace(".mlp.", folder): shape}
    return {name: shape}


def split_experts(experts: Experts, family: SparseFamily) -> dict[str, Tensor]:
    """Every matrix of gated experts without biases, by its name below the family's block."""
    split: dict[str, Tensor] = {}
    for e in range(experts.count):
        gate, up = experts.up[e].detach().chunk(2)
        split[f"experts.{e}.{family.gate}"] = gate
        split[f"experts.{e}.{family.up}"] = up
        split[f"experts.{e}.{family.down}"] = experts.down[e].detach()
    return split


def own_names(experts: Experts) -> dict[str, Tensor]:
    """Every tensor of any experts, by its name in our own format: ``experts.N.up.weight`` and so on."""
    split: dict[str, Tensor] = {}
    for kind in ("up", "down"):
        stacked, biases = getattr(experts, kind), getattr(experts, f"{kind}_bias")
        for e in range(experts.count):
            split[f"experts.{e}.{kind}.weight"] = stacked[e].detach()
            if biases is not None:
                split[f"experts.{e}.{kind}.bias"] = biases[e].detach()
    return split


def stack_own(tensors: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The inverse of ``own_names``: up, down and the biases that there are, stacked. Raises KeyError naming one."""
    stacked = {}
    for kind in ("up", "down"):
        stacked[kind] = torch.stack([tensors[f"experts.{e}.{kind}.weight"] for e in range(count)])
        if f"experts.0.{kind}.bias" in tensors:
            stacked[f"{kind}_bias"] = torch.stack([tensors[f"experts.{e}.{kind}.bias"] for e in range(count)])
    return stacked
