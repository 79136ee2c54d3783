"""A zoo of tiny trained models that are kin: a base, fine-tunes near and far from it, one of another size."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_trained import save_trained

from quiltwork.zoo import Zoo

GATE, QUERY = "model.layers.1.mlp.gate_proj.weight", "model.layers.2.self_attn.q_proj.weight"
VALUE = "model.layers.3.self_attn.v_proj.weight"


def noisy(source: Path, target: Path, amounts: Mapping[str, float]) -> Path:
    """A copy of a model with noise in some tensors, in relation to their size."""
    shutil.copytree(source, target)
    tensors, generator = load_file(source / "model.safetensors"), torch.Generator().manual_seed(3)
    for name, amount in amounts.items():
        noise = torch.randn(tensors[name].shape, generator=generator)
        tensors[name] = tensors[name] + amount * tensors[name].std() * noise
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def make_kin(folder: Path) -> Path:
    """A zoo's folder with ``base``, ``tuned`` (one block of it hardly, two clearly other than the base's), ``far`` (one
    block of it clearly other), ``wide`` (equal to ``halved``, which is kept in half the bytes) and ``small``."""
    base = save_trained("large", folder / "base", steps=60)
    tuned = noisy(base, folder / "tuned", {GATE: 0.003, QUERY: 0.3, VALUE: 0.3})
    far = noisy(base, folder / "far", {QUERY: 1.0})
    halved, wide = (folder / name for name in ("halved", "wide"))
    for name, kept in ((halved, torch.bfloat16), (wide, torch.float32)):
        shutil.copytree(base, name)
        tensors = load_file(base / "model.safetensors")
        rounded = {key: tensor.to(torch.bfloat16).to(kept) for key, tensor in tensors.items()}
        save_file(rounded, name / "model.safetensors", metadata={"format": "pt"})
    with Zoo(folder / "zoo") as zoo:
        for source in (base, tuned, far, halved, wide, save_trained("small", folder / "small", steps=30)):
            zoo.add(source)
    return folder / "zoo"
