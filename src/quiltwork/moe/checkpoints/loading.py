"""Loading a checkpoint with mixture-of-experts layers, whoever wrote it, to run by any gate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.moe.checkpoints.adoption import adopt
from quiltwork.moe.checkpoints.expert_names import stack_own
from quiltwork.moe.checkpoints.saving import OWN
from quiltwork.moe.checkpoints.sparse_block import SparseBlock, restore_gates, set_gates
from quiltwork.moe.checkpoints.sparse_families import FAMILIES, weights_of
from quiltwork.moe.checkpoints.transformers_folder import (
    check_sizes,
    model_class,
    read_config,
    read_model,
    told_of,
)
from quiltwork.moe.checkpoints.upcycling import upcycle
from quiltwork.moe.gate import Gate
from quiltwork.moe.gate_settings import FIELD, gates_of
from quiltwork.zoo.source import scan
from quiltwork.zoo.sparse import with_calibration


def load_moe(
    folder: str | os.PathLike[str], gate: Gate | Mapping[int, Gate] | None = None, *, weights: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:  # fmt: skip
    """A transformers model with our layers in it, for evaluation.

    Parameters
    ----------
    folder : a checkpoint of the families mixtral, qwen2_moe, qwen3_moe or olmoe, or what ``save_moe`` wrote.
    gate : for all layers, or by layer (``read_thresholds(path).gates()``). Where None, the gates of the calibration
        beside config.json, else those that were saved with the model; where none were, the fixed number of experts
        that it was trained with.
    weights : ``sum_to_one`` or ``raw``; as the model was trained where None.

    Raises NotFoundError, BadInputError for a file that is damaged or does not fit its configuration, UnsupportedError
    for another family.
    """
    path = Path(folder)
    config = with_calibration(read_config(path), path)
    where = f"{path / 'config.json'}"
    family = config.get("model_type")
    known = FAMILIES.get(family) if isinstance(family, str) else None
    kind = None if known is None else weights_of(known, config.get("norm_topk_prob"))
    written = config.get(FIELD)
    saved = {} if written is None else gates_of(written, f"{where}: {FIELD}", kind)
    if family == OWN:
        model = _read_own(path, config, saved, dtype)
    elif known is not None:
        model = adopt(read_model(path, dtype))
    else:
        ours = ", ".join([*FAMILIES, OWN])
        hint = "upcycle a dense model first" if family else None
        raise UnsupportedError(f"{family!r} is no family with experts: {ours}", where=where, hint=hint)
    with _blaming(f"{where}: {FIELD}"):
        restore_gates(model, saved, weights=weights)
    if gate is not None:
        set_gates(model, gate, weights=weights)
    return model.eval()


def _read_own(path: Path, config: Mapping[str, Json], gates: Mapping[int, Gate], dtype: torch.dtype) -> Any:
    where = str(path / "config.json")
    base, document = config.get("base"), config.get(FIELD)
    experts = document.get("experts") if isinstance(document, Mapping) else None
    if not isinstance(base, Mapping):
        raise BadInputError("is no configuration", where=f"{where}: base")
    if not isinstance(experts, int) or not gates:
        raise BadInputError("does not say how many experts and which gates there are", where=f"{where}: {FIELD}")
    check_sizes(base, f"{where}: base")
    architectures = base.get("architectures")
    made = model_class(architectures[0] if isinstance(architectures, list) and architectures else None, where)
    tensors = _tensors(path)
    with told_of(path), torch.random.fork_rng(devices=[]):  # weights are drawn first: nobody else's business
        model = made(made.config_class.from_dict(dict(base)))
    with _blaming(f"{where}: {FIELD}"):
        upcycle(model, experts, next(iter(gates.values())), layers=gates)
    for parameter in model.parameters():  # not its buffers: rotary frequencies stay exact
        parameter.data = parameter.data.to(dtype)
    _fill(model, tensors, path)
    return model


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    scan(path)  # tells better than safetensors what is wrong with a file
    try:
        return load_file(path / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise BadInputError(f"cannot be read: {error}", where=str(path / "model.safetensors")) from error


def _fill(model: Any, tensors: dict[str, Tensor], path: Path) -> None:
    """Put a file's tensors into a model. Raises BadInputError naming one that is missing or of another shape."""
    state: dict[str, Tensor] = {}
    wanted = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, SparseBlock):
            at, count = f"{name}.", module.layer.experts.count
            inside = {key.removeprefix(at): value for key, value in tensors.items() if key.startswith(at)}
            try:
                stacked = stack_own(inside, count)
                state[f"{at}layer.router"] = inside["router.weight"]
            except KeyError as error:
                raise BadInputError(f"lacks {at}{error.args[0]}", where=str(path)) from error
            except RuntimeError as error:
                raise BadInputError("has experts of different shapes", where=f"{path}: {name}") from error
            state |= {f"{at}layer.experts.{kind}": tensor for kind, tensor in stacked.items()}
    for name, tensor in wanted.items():
        found = state.get(name, tensors.get(name))
        if found is None and name in model.all_tied_weights_keys:
            continue
        if found is None:
            raise BadInputError(f"lacks {name}", where=str(path))
        if found.shape != tensor.shape:
            what = f"{name} has the shape {list(found.shape)}, the configuration says {list(tensor.shape)}"
            raise BadInputError(what, where=str(path))
        state[name] = found
    model.load_state_dict(state, strict=False)


@contextmanager
def _blaming(where: str) -> Iterator[None]:
    """Errors name the file that led to them."""
    try:
        yield
    except BadInputError as error:
        raise type(error)(str(error), where=where) from error
