"""Mixtral's layout on the disk: what transformers, and every engine that knows Mixtral, loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quiltwork.core.errors import UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.moe.checkpoints.expert_names import split_experts
from quiltwork.moe.checkpoints.sparse_families import MIXTRAL
from quiltwork.moe.gate import Gate
from quiltwork.moe.gate_settings import FIELD, gates_document
from quiltwork.moe.layer import MoELayer

_LEFT = ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", FIELD)


def write_mixtral(
    folder: Path, config: Mapping[str, Json], layers: Mapping[int, MoELayer], rest: Mapping[str, Tensor],
    architecture: str = "MixtralForCausalLM",
) -> None:  # fmt: skip
    """Write config.json and model.safetensors into a folder that is there.

    Parameters
    ----------
    config : MixtralConfig's fields: widths, heads, vocabulary, tokens, ``rope_parameters`` ... What the layers say
        themselves (number of experts, inner width, activation) may be left out.
    layers : the sparse layers by index, all that the model has.
    rest : all other tensors under transformers' names (``model.embed_tokens.weight``,
        ``model.layers.0.self_attn.q_proj.weight``, ..., ``lm_head.weight`` unless tied).

    Raises UnsupportedError in one line where Mixtral cannot express the layers.
    """
    from transformers import MixtralConfig

    count = config.get("num_hidden_layers")
    if (reason := why_not_mixtral(layers, count if isinstance(count, int) else 0)) is not None:
        raise UnsupportedError(reason, where="Mixtral's format")
    experts = next(iter(layers.values())).experts
    own: dict[str, Any] = {
        "num_local_experts": experts.count,
        "num_experts_per_tok": _fixed(layers),
        "intermediate_size": experts.down.shape[2],
        "hidden_size": experts.down.shape[1],
        "hidden_act": experts.activation,
    }
    given = {name: value for name, value in config.items() if name not in _LEFT}
    settings = MixtralConfig(**(given | own), architectures=[architecture], dtype=_dtype(experts.down))
    setattr(settings, FIELD, gates_document({index: layer.gate for index, layer in layers.items()}))
    settings.save_pretrained(folder)
    tensors = dict(rest)
    prefix = "" if architecture == "MixtralModel" else "model."
    for index, layer in layers.items():
        at = f"{prefix}layers.{index}.{MIXTRAL.folder}"
        tensors[f"{at}.gate.weight"] = layer.router.detach()
        tensors |= {f"{at}.{name}": tensor for name, tensor in split_experts(layer.experts, MIXTRAL).items()}
    write_tensors(folder / "model.safetensors", tensors)


def why_not_mixtral(layers: Mapping[int, MoELayer], count: int) -> str | None:
    """What of a model's ``count`` layers Mixtral cannot express, or None.

    A gate that takes a number of experts of its own is no hindrance: transformers runs the model with the most that
    the gate may take.
    """
    if dense := sorted(set(range(count)) - set(layers)):
        return f"layer {dense[0]} is dense, and Mixtral has none"
    shapes = {(layer.experts.up.shape, layer.router.shape) for layer in layers.values()}
    if len(shapes) > 1:
        return "layers differ in shape"
    for layer in layers.values():
        experts = layer.experts
        if not experts.gated:
            return "experts are not gated, and Mixtral's are"
        if experts.up_bias is not None or experts.down_bias is not None:
            return "experts have biases, and Mixtral's have none"
        if layer.shared is not None:
            return "there is a shared expert, and Mixtral has none"
        if layer.router.shape[0] != experts.count:
            return "there are null experts, and Mixtral has none"
        if getattr(layer.gate, "weights", "sum_to_one") != "sum_to_one":
            return "weights are raw, and Mixtral's sum to one"
    return None


def _fixed(layers: Mapping[int, MoELayer]) -> int:
    """How many experts transformers takes: the most that a gate may; 2 where its gate knows no such number."""
    experts = next(iter(layers.values())).experts.count
    return max(min(most_of(layer.gate) or 2, experts) for layer in layers.values())


def most_of(gate: Gate) -> int | None:
    """The most experts that a gate takes for a token, where it has such a setting."""
    most = getattr(gate, "k", None) or getattr(gate, "most", None)
    return most if isinstance(most, int) else None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file as transformers reads it. Of several names of one tensor the first is kept."""
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for name, tensor in tensors.items():
        place = (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tuple(tensor.shape))
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor.detach().cpu().contiguous()
        seen.add(place)
    save_file({name: _unshared(tensor) for name, tensor in kept.items()}, path, {"format": "pt"})


def _unshared(tensor: Tensor) -> Tensor:
    """safetensors refuses views of a storage that others have as well."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _dtype(tensor: Tensor | nn.Parameter) -> str:
    return str(tensor.dtype).removeprefix("torch.")
