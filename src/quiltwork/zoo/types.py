"""The nouns of the zoo: tensors, blocks, trees of named parts, models, chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json


@dataclass(frozen=True)
class RawTensor:
    """A tensor as bytes. ``dtype`` is a safetensors name (``F32``, ``BF16``, ``I64`` ...); ``data`` is flat uint8.

    bfloat16 has no numpy type, so bytes are the common ground between the zoo (no torch) and who computes.
    ``data`` may be a read-only memory map.
    """

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorRef:
    """A tensor of a block: its name inside the block, what it looks like, and where its bytes are."""

    name: str
    """The role within the block (``q_proj.weight``), or the checkpoint's own name in an unknown family."""
    dtype: str
    """The dtype the model has, a safetensors name."""
    shape: tuple[int, ...]
    content: str
    """blake3 (hex) of the canonical bytes: the narrowest float dtype that holds the values exactly."""
    stored_dtype: str
    """The dtype of those canonical bytes; widened to ``dtype`` on reading."""

    @property
    def nbytes(self) -> int:
        """Bytes in the model's own dtype."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPE_BITS[self.dtype] // 8


DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element of every safetensors dtype that the zoo stores."""


@dataclass(frozen=True)
class Block:
    """A piece of a model that is stored, shared and executed as one: same maths, same weights, same id.

    ``id`` is the blake3 of kind, ``arch`` and the tensors' names, dtypes, shapes and contents, children included, so
    two blocks with equal ids compute the same function.
    """

    id: str
    kind: str
    """``embed``, ``attn``, ``ffn``, ``moe`` (with an ``expert`` in each child), ``head``, ``stitch``; attachments
    ``lora``, ``ia3``, ``norm``, ``bias``, ``prefix``, ``prompt``;
    ``tensors`` for what an unknown family keeps together."""
    arch: Mapping[str, Json]
    """The configuration that changes the maths; keys in docs/blocks.md."""
    tensors: tuple[TensorRef, ...]
    children: tuple[Part, ...] = ()
    """Named parts inside (experts, towers)."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, children included, in the model's dtype."""
        return sum(t.nbytes for t in self.tensors) + sum(p.block.nbytes for p in self.children)

    def walk(self) -> Iterator[TensorRef]:
        """All tensors, children's included."""
        yield from self.tensors
        for part in self.children:
            yield from part.block.walk()

    def named(self, prefix: str = "") -> Iterator[tuple[str, TensorRef]]:
        """All tensors with the names they have seen from here: ``experts.0/up_proj.weight`` for a child's."""
        for tensor in self.tensors:
            yield f"{prefix}{tensor.name}", tensor
        for part in self.children:
            yield from part.block.named(f"{prefix}{part.name}/")


@dataclass(frozen=True)
class Part:
    """A named place in a model's tree: the block that fills it, and what a fine-tune attached to it."""

    name: str
    """``embed``, ``layers.3.attn``, ``layers.3.ffn``, ``head``; another family's own words elsewhere."""
    block: Block
    attachments: tuple[Block, ...] = ()

    def walk(self) -> Iterator[Part]:
        """It and all inside it, those with their whole names (``layers.3.ffn.experts.0``)."""
        yield self
        for child in self.block.children:
            yield from Part(f"{self.name}.{child.name}", child.block, child.attachments).walk()


@dataclass(frozen=True)
class Substitution:
    """A part of an adapted model that another model's block serves, and what that was measured to cost.

    Nats and shares are on the part of the text that decided; what the rest of it said is in ``Model.measured``.
    """

    part: str
    original: tuple[str, ...]
    """Ids of the block of the exact model and of what is attached to it."""
    serving: tuple[str, ...]
    """Ids of the block that serves, and of what is attached to it."""
    source: ModelRef
    """The model that those are of."""
    delta_loss: float
    """Nats per token more than the exact model, this substitution alone."""
    kl: float
    """KL(exact || with it alone), nats."""
    agreement: float
    """Share of tokens with the same most likely next one, with it alone."""
    total_delta_loss: float
    """As ``delta_loss``, with all substitutions listed before it."""
    total_agreement: float
    """As ``agreement``, with all substitutions listed before it."""
    budget: float
    """Nats per token that all substitutions together were allowed to cost."""
    text: str
    """sha256 of the text it was measured on; empty for one that computes the same function, which needs none."""

    def to_json(self) -> dict[str, Json]:
        """As it stands in manifests and replies."""
        named = {"name": self.source.name, "tenant": self.source.tenant}
        return {**asdict(self), "original": list(self.original), "serving": list(self.serving), "source": named}


@dataclass(frozen=True)
class Model:
    """One version of a model: a tree of named parts, the files around it, and where it came from."""

    ref: ModelRef
    version: str
    """blake3 of the manifest without name and notes: the same files give the same version."""
    family: str
    """A row of the family table, or ``unknown`` (stored tensor by tensor, cannot be served)."""
    parts: tuple[Part, ...]
    config: Mapping[str, Json]
    """config.json of the model itself, or of its base."""
    files: Mapping[str, str]
    """Small files a server needs (tokenizer.json, chat_template.jinja, generation_config.json ...) -> content id."""
    base: ModelRef | None = None
    """The model an adapter was made for."""
    unservable: tuple[str, ...] = ()
    """Why it may be stored but not served: one line per configuration field or tensor that is not implemented."""
    lossy: Mapping[str, Json] = field(default_factory=dict)
    """Per tensor kept in a lossy code: the code and its measured error. Empty for an exact model."""
    notes: tuple[str, ...] = ()
    """What ingest had to decide or warn about, for people to read."""
    measured: Mapping[str, Json] = field(default_factory=dict)
    """For a model made here from others: how good it was on held-out text, beside those (docs/zoo.md). Else empty."""
    substitutions: tuple[Substitution, ...] = ()
    """For an adapted model: the parts that other models' blocks serve. Empty for an exact one."""


@dataclass(frozen=True)
class Chain:
    """A model as an ordered run of links, embed first and head last: the view that serving executes.

    Two chains share KV up to the first link whose block or attachments differ.
    """

    model: Model
    links: tuple[Part, ...]
