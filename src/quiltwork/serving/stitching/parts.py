"""From a trained chain to the parts of a model: blocks taken over stay the zoo's own, new ones are put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.core.servable import Json
from quiltwork.serving.stitching.chains import PlainChain, PlainLink
from quiltwork.serving.stitching.text import Splits
from quiltwork.zoo.derived import STITCHED, put_values
from quiltwork.zoo.manifest import make_block
from quiltwork.zoo.session import Session
from quiltwork.zoo.types import Block, Model, Part

_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16}


def new_stitch(weight: Tensor, bias: Tensor) -> PlainLink:
    """A stitch to be trained: weight (d_b, d_a), bias (d_b,)."""
    arch = {"input_size": weight.shape[1], "hidden_size": weight.shape[0]}
    tensors = {"linear.weight": weight.clone(), "linear.bias": bias.clone()}
    for tensor in tensors.values():
        tensor.requires_grad_()
    return PlainLink("stitch", arch, tensors, changed=True)


def named(chain: PlainChain) -> Iterator[tuple[str, PlainLink]]:
    """The links with their part names, layers numbered from 0."""
    yield "embed", chain.embed
    for i, layer in enumerate(chain.layers):
        for link in layer:
            yield (f"stitches.{i}" if link.kind == "stitch" else f"layers.{i}.{link.kind}"), link
    for link in chain.tail:
        yield (f"stitches.{len(chain.layers)}" if link.kind == "stitch" else "head"), link


def round_to_stored(chain: PlainChain) -> None:
    """Round changed tensors to the precision they will be stored in, so that what is measured is what is kept."""
    for link in chain.links:
        if link.changed:
            for role, tensor in link.tensors.items():
                kept = _TORCH.get(_dtype(link, role))
                if kept is not None:
                    tensor.data.copy_(tensor.data.to(kept).float())


def put_parts(session: Session, chain: PlainChain) -> list[Part]:
    """The parts of a chain, its new tensors put into the zoo."""
    parts = []
    for name, link in named(chain):
        block, attachments = _block(session, link)
        if link.low_rank:
            attachments = (*attachments, _lora(session, link))
        parts.append(Part(name, block, attachments))
    return parts


def owner(*models: Model) -> str:
    """The tenant that a model made of these belongs to. Raises BadInputError where two tenants own them."""
    tenants = {model.ref.tenant for model in models} - {PUBLIC}
    if len(tenants) > 1:
        raise BadInputError("belong to different tenants", where=" and ".join(str(model.ref) for model in models))
    return tenants.pop() if tenants else PUBLIC


def called(name: str | None, default: str, tenant: str) -> ModelRef:
    """The name asked for, else a default made safe."""
    return ModelRef(name if name is not None else default.replace("/", "-"), tenant)


def carried_files(model: Model) -> Mapping[str, str]:
    """The files that a model made from this one takes over: everything about text, nothing about weights."""
    weights = (".safetensors", ".bin", ".index.json", ".gguf", ".pt", ".pth")
    return {
        name: content
        for name, content in model.files.items()
        if "/" not in name
        and not name.endswith(weights)
        and name not in ("config.json", "adapter_config.json", "README.md")
    }


def stitched_config(models: Sequence[Model]) -> dict[str, Json]:
    """What serving reads of a configuration: the shortest length, and the tokens that begin and end a text."""
    shortest = longest_text(models)
    tokens = {key: models[0].config[key] for key in _TOKENS if key in models[0].config}
    limit = {} if shortest is None else {"max_position_embeddings": shortest}
    return {"model_type": STITCHED} | tokens | limit


def longest_text(models: Sequence[Model]) -> int | None:
    """Tokens that all these models can read; None where none of them says."""
    lengths = [int(m.config[key]) for m in models for key in _LENGTHS if isinstance(m.config.get(key), int)]
    return min(lengths, default=None)


def require_readable(splits: Splits, models: Sequence[Model]) -> None:
    """Raise BadInputError where the windows of a text are longer than one of the models can read."""
    limit, tokens = longest_text(models), splits.train.shape[1]
    if limit is not None and tokens > limit:
        raise BadInputError(f"{tokens} tokens are more than the {limit} that can be read", where="window")


_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _dtype(link: PlainLink, role: str) -> str:
    stored = {tensor.name: tensor.dtype for tensor in link.source.block.tensors} if link.source else {}
    return stored.get(role, "F32")


def _block(session: Session, link: PlainLink) -> tuple[Block, tuple[Block, ...]]:
    if link.source is not None and not link.changed:
        return link.source.block, link.source.attachments
    near = {tensor.name: tensor for tensor in link.source.block.tensors} if link.source else {}
    tensors = [
        put_values(
            session,
            role,
            value.detach().cpu().numpy(),
            _dtype(link, role),
            near[role].content if role in near and near[role].shape == tuple(value.shape) else None,
        )
        for role, value in link.tensors.items()
    ]
    return make_block(link.kind, link.arch, tensors), ()


def _lora(session: Session, link: PlainLink) -> Block:
    targets = {role: {"r": u.down.shape[0], "scale": 1.0, "dora": False} for role, u in link.low_rank.items()}
    tensors = [
        put_values(session, f"{role}.{which}", value.detach().cpu().numpy())
        for role, update in link.low_rank.items()
        for which, value in (("lora_A", update.down), ("lora_B", update.up))
    ]
    return make_block("lora", {"targets": targets}, tensors)
