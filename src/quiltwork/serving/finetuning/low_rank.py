"""LoRA on a transformers model: updates of its projections, and the PEFT adapter that they are saved as."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quiltwork.serving.finetuning.config import ALL_LINEAR, WHERE, FineTuning
from quiltwork.zoo.config import Fields
from quiltwork.zoo.formats.peft_targets import is_target


class LowRank(nn.Module):
    """A projection and its update: ``y += scale * (x @ A.T) @ B.T``."""

    def __init__(self, base: nn.Module, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        out, into = projection_shape(base)
        weight = next(base.parameters())
        # As PEFT begins: A as a linear layer does, B at zero, so that the model is unchanged.
        bound = into**-0.5
        down = torch.empty(rank, into).uniform_(-bound, bound, generator=generator)
        self.base, self.scale, self.enabled = base, scale, True
        self.lora_A = nn.Parameter(down.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y: Tensor = self.base(x)
        return y + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B) if self.enabled else y


def projection_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a projection."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    into, out = next(module.parameters()).shape  # GPT-2's, stored the other way round
    return out, into


def put_updates(model: Any, config: FineTuning, seed: int) -> dict[str, LowRank]:
    """Freeze a model and give its targets updates, by the projection's path.

    Raises BadInputError where a target names no projection.
    """
    projections = {path: module for path, module in model.named_modules() if _is_projection(module)}
    head = model.get_output_embeddings()
    named = ALL_LINEAR if config.targets == ALL_LINEAR else list(config.targets)
    fields = Fields({"target_modules": named}, {}, WHERE)
    chosen = [path for path, m in projections.items() if is_target(fields, path, linear=True, output=m is head)]
    for target in () if named == ALL_LINEAR else named:
        if not any(path == target or path.endswith(f".{target}") for path in chosen):
            there = ", ".join(sorted({path.rpartition(".")[2] for path in projections}))
            raise fields.error("targets", f"{target[:80]!r} names no projection of this model; it has {there}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for path in chosen:
        update = LowRank(projections[path], config.rank, config.alpha / config.rank, generator)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, update)
        updates[path] = update
    return updates


@contextmanager
def without(updates: Mapping[str, LowRank]) -> Iterator[None]:
    """The model as it was before."""
    for update in updates.values():
        update.enabled = False
    try:
        yield
    finally:
        for update in updates.values():
            update.enabled = True


def write_adapter(folder: Path, updates: Mapping[str, LowRank], config: FineTuning, base: str) -> None:
    """Save updates as PEFT saves them: ``adapter_config.json`` and ``adapter_model.safetensors``."""
    from safetensors.torch import save_file

    tensors = {}
    for path, update in updates.items():
        for name in ("lora_A", "lora_B"):
            value = getattr(update, name).detach().cpu().contiguous()
            tensors[f"base_model.model.{path}.{name}.weight"] = value
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    names = {path.rpartition(".")[2] for path in updates}
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(names if config.targets == ALL_LINEAR else config.targets),
        "fan_in_fan_out": any(not isinstance(update.base, nn.Linear) for update in updates.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(told, indent=2) + "\n")


def _is_projection(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)
