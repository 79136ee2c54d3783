"""Weights in memory: equal content once, whatever models, blocks and names it appears under."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quiltwork.core import registry
from quiltwork.core.errors import UnsupportedError
from quiltwork.layers.protocol import Executor, Inner, LoadedAttachment, Placement
from quiltwork.zoo.types import Block, Part, RawTensor, TensorRef

Read = Callable[[TensorRef], RawTensor]

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


def to_torch(raw: RawTensor, placement: Placement) -> Tensor:
    """A tensor in the placement's device and, if it is a float, dtype. Shares the bytes where it can."""
    if raw.dtype not in TORCH_DTYPES:
        raise UnsupportedError(f"tensors of dtype {raw.dtype} are stored but not computed with", where="dtype")
    with warnings.catch_warnings():
        # The bytes may be a read-only map; nothing here writes to weights.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        flat = torch.from_numpy(raw.data)
    tensor = flat.view(TORCH_DTYPES[raw.dtype]).reshape(raw.shape)
    if tensor.is_floating_point():
        return tensor.to(device=placement.device, dtype=placement.dtype)
    return tensor.to(device=placement.device)


Content = tuple[str, ...]
"""What names a weight in the store: how it was made, and of which contents."""


@dataclass(frozen=True)
class Holding:
    """One weight in memory."""

    content: Content
    nbytes: int
    seconds: float
    """What reading and preparing it took."""
    refs: int


@dataclass
class _Entry:
    value: Any
    nbytes: int
    seconds: float
    refs: int = 0


class WeightStore:
    """Reference-counted weights by content. Safe to use from several threads.

    keeps : whether what nobody holds stays until it is dropped. clock : seconds.
    """

    def __init__(self, placement: Placement, clock: Callable[[], float] = time.monotonic) -> None:
        self.placement = placement
        self.keeps = False
        self.lock = threading.RLock()
        self._clock = clock
        self._entries: dict[Content, _Entry] = {}
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, each content once. Waits for nobody who is loading."""
        return self._nbytes

    def acquire(self, key: Content, make: Callable[[], Any], nbytes: int | Callable[[Any], int]) -> Any:
        """The value of ``key``, made if it is not there, held once more. ``nbytes`` of it, or how to tell."""
        with self.lock:
            entry = self._entries.get(key)
            if entry is None:
                began = self._clock()
                value = make()
                size = nbytes if isinstance(nbytes, int) else nbytes(value)
                entry = self._entries[key] = _Entry(value, size, max(self._clock() - began, 0.0))
                self._nbytes += size
            entry.refs += 1
            return entry.value

    def release(self, key: Content) -> None:
        """Hold ``key`` once less; the last one frees it, unless it is kept."""
        with self.lock:
            entry = self._entries[key]
            entry.refs -= 1
            if entry.refs == 0 and not self.keeps:
                self._free(key)

    def drop(self, keys: Iterable[Content]) -> None:
        """Free those of ``keys`` that are kept though nobody holds them."""
        with self.lock:
            for key in keys:
                if key in self._entries and not self._entries[key].refs:
                    self._free(key)

    def _free(self, key: Content) -> None:
        self._nbytes -= self._entries.pop(key).nbytes

    def holdings(self) -> dict[Content, Holding]:
        """All that is in memory."""
        with self.lock:
            return {key: Holding(key, e.nbytes, e.seconds, e.refs) for key, e in self._entries.items()}


class BlockWeights:
    """One block's view of the store: what the executors of ``layers`` ask for their weights.

    Raises UnsupportedError where something is attached to a block inside it.
    """

    def __init__(self, store: WeightStore, block: Block, read: Read) -> None:
        self._store, self._read = store, read
        self._refs = {ref.name: ref for ref in block.tensors}
        self._held: list[Content] = []
        self._within = {part.name: BlockWeights(store, part.block, read) for part in block.children}
        if any(part.attachments for part in block.children):
            raise UnsupportedError("what is inside a block takes no attachments", where=block.kind)
        self.inside: Mapping[str, Inner] = {
            part.name: Inner(part.block.kind, part.block.arch, self._within[part.name]) for part in block.children
        }

    @property
    def contents(self) -> frozenset[Content]:
        """What of the store it holds."""
        return frozenset(self._held).union(*(inner.contents for inner in self._within.values()))

    def _bytes(self, ref: TensorRef) -> int:
        width = torch.empty((), dtype=self._store.placement.dtype).element_size()
        count = 1
        for n in ref.shape:
            count *= n
        return count * width

    def _load(self, ref: TensorRef) -> Tensor:
        return to_torch(self._read(ref), self._store.placement)

    def get(self, role: str) -> Tensor | None:
        """The tensor of a role in the placement's dtype and device, or None."""
        ref = self._refs.get(role)
        if ref is None:
            return None
        key = ("tensor", ref.content, ref.stored_dtype, str(ref.shape))
        tensor: Tensor = self._store.acquire(key, lambda: self._load(ref), self._bytes(ref))
        self._held.append(key)
        return tensor

    def prepared(self, key: tuple[str, ...], roles: Sequence[str], prepare: Any) -> Any:
        """``prepare(*tensors)`` (None for an absent role), made once per key and contents."""
        refs = [self._refs.get(role) for role in roles]
        full = ("prepared", *key, *(f"{r.content}:{r.stored_dtype}:{r.shape}" if r else "-" for r in refs))
        value = self._store.acquire(
            full,
            lambda: prepare(*(self._load(r) if r else None for r in refs)),
            sum(self._bytes(r) for r in refs if r),
        )
        self._held.append(full)
        return value

    def close(self) -> None:
        """Let go of everything this block held."""
        for key in self._held:
            self._store.release(key)
        self._held.clear()
        for inner in self._within.values():
            inner.close()


@dataclass(eq=False)
class LoadedBlock:
    """A block ready to run, held by every chain that contains it."""

    block: Block
    executor: Executor
    weights: BlockWeights
    refs: int = 0


class Library:
    """Loaded blocks and attachments by id. A block is loaded by the first chain that needs it, freed by the last."""

    def __init__(self, placement: Placement, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = WeightStore(placement, clock)
        self._blocks: dict[str, LoadedBlock] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of weights and attachments in memory."""
        return self.store.nbytes

    def acquire(self, block: Block, read: Read) -> LoadedBlock:
        """Load a block or hold it once more. Raises UnsupportedError naming what its kind cannot do."""
        with self.store.lock:
            loaded = self._blocks.get(block.id)
            if loaded is None:
                weights = BlockWeights(self.store, block, read)
                try:
                    factory = registry.find(registry.EXECUTORS, block.kind)
                    executor = factory(block.arch, weights, self.store.placement)
                except BaseException:
                    weights.close()
                    raise
                loaded = self._blocks[block.id] = LoadedBlock(block, executor, weights)
            loaded.refs += 1
            return loaded

    def release(self, loaded: LoadedBlock) -> None:
        """Hold a block once less."""
        with self.store.lock:
            loaded.refs -= 1
            if loaded.refs == 0:
                del self._blocks[loaded.block.id]
                loaded.weights.close()

    def attach(self, loaded: LoadedBlock, attachments: Sequence[Block], read: Read) -> LoadedAttachment | None:
        """Make attachments ready for a block, or hold them once more; None where there are none."""
        if not attachments:
            return None

        def make() -> LoadedAttachment:
            return loaded.executor.attach(
                [
                    (a.kind, a.arch, {r.name: to_torch(read(r), self.store.placement).clone() for r in a.tensors})
                    for a in attachments
                ]
            )

        def nbytes(ready: LoadedAttachment) -> int:
            return ready.nbytes

        ready: LoadedAttachment = self.store.acquire(attached_content(loaded.block, attachments), make, nbytes)
        return ready

    def detach(self, loaded: LoadedBlock, attachments: Sequence[Block]) -> None:
        """Hold attachments once less."""
        if attachments:
            self.store.release(attached_content(loaded.block, attachments))


def attached_content(block: Block, attachments: Sequence[Block]) -> Content:
    """What names a part's attachments in the store."""
    return ("attached", block.id, *(a.id for a in attachments))


def units(links: Iterable[Part]) -> Iterator[tuple[Content, tuple[Block, ...]]]:
    """What is loaded as one: blocks, and the attachments of a place together."""
    for part in links:
        yield (part.block.id,), (part.block,)
        if part.attachments:
            yield attached_content(part.block, part.attachments), tuple(part.attachments)


def weight_bytes(blocks: Iterable[Block], width: int) -> int:
    """Bytes of all tensors of blocks, and of blocks inside them, with ``width`` bytes a number."""
    total = 0
    for block in blocks:
        for ref in block.walk():
            count = 1
            for n in ref.shape:
                count *= n
            total += count * width
    return total
