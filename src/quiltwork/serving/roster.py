"""The models an engine has loaded: prepared on any thread, put into service and taken out of it between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import Placement
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.kv import KVCache, KVShape, PagePool
from quiltwork.serving.route import Cuts, Link, Served, cut_chains, lay_routes
from quiltwork.serving.spare import return_freed_memory
from quiltwork.serving.weights import Library, LoadedBlock, Read
from quiltwork.zoo.segments import kv_shape
from quiltwork.zoo.types import Chain

MAX_LEN_KEYS = ("max_position_embeddings", "n_positions", "n_ctx")


def placement(config: EngineConfig) -> Placement:
    """Device and precision of an engine. Raises BadInputError where the device is not there."""
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise BadInputError(f"{config.device!r} is not a device", where="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("no CUDA device here", where="device", hint="use --device cpu")
    name = config.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return Placement(device, getattr(torch, name))


def _check_widths(chain: Chain) -> None:
    """Raise BadInputError where a block cannot take what the one below it gives."""
    width = None
    for part in chain.links:
        arch = part.block.arch
        takes = arch.get("input_size", arch.get("hidden_size"))
        if width is not None and takes != width:
            raise BadInputError(f"takes {takes} features, the block below gives {width}", where=part.name)
        width = arch.get("hidden_size")


@dataclass(frozen=True)
class Dimensions:
    """What is known of a chain without loading it."""

    max_len: int
    """Tokens of prompt and answer together, virtual ones included."""
    virtual_tokens: int
    vocab_size: int


def dimensions(chain: Chain, max_model_len: int | None) -> Dimensions:
    """The dimensions of a chain. Raises UnsupportedError where it does not run from an embed to a head block."""
    kinds = [part.block.kind for part in chain.links]
    if not kinds or kinds[0] != "embed" or kinds[-1] != "head":
        raise UnsupportedError("a chain runs from an embed block to a head block", where=str(chain.model.ref))
    virtual = [int(a.arch["num_virtual_tokens"]) for p in chain.links for a in p.attachments
               if "num_virtual_tokens" in a.arch]  # fmt: skip
    limit = next((int(chain.model.config[k]) for k in MAX_LEN_KEYS if chain.model.config.get(k)), 1 << 20)
    return Dimensions(
        max_len=limit if max_model_len is None else min(limit, max_model_len),
        virtual_tokens=max(virtual, default=0),
        vocab_size=int(chain.links[-1].block.arch["vocab_size"]),
    )


class Roster:
    """Who is served, by which version, over which blocks. All methods but ``prepare`` belong to the engine's thread."""

    def __init__(
        self,
        config: EngineConfig,
        placement: Placement,
        cache: KVCache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.library = Library(placement, clock)
        self.served: dict[ModelRef, Served] = {}
        self.retired: set[Served] = set()
        """Versions out of service that running sequences finish on."""
        self.offered: dict[ModelRef, Chain] = {}
        """Chains that are cut with those in service, in memory or not, so that cuts, and with them the keys and values
        kept, stay what they are when a model comes or goes."""
        self.reserved_bytes = 0
        """Of weights on their way in."""
        self.most_kv_bytes: int | None = None
        """What keys and values may take, whatever the weights leave; None for all of that."""
        self._cut: tuple[dict[ModelRef, Chain], Cuts] = ({}, cut_chains({}))
        self._cache = cache
        self._memory_bytes = config.memory_bytes
        self._max_model_len = config.max_model_len

    def find(self, ref: ModelRef) -> Served:
        """The version in service. Raises NotFoundError."""
        served = self.served.get(ref)
        if served is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        return served

    def leave(self, served: Served) -> None:
        """A sequence has ended; the last one of a retired version frees its weights."""
        served.running -= 1
        if served.retired and served.running == 0:
            self.retired.discard(served)
            self._drop(served)

    def prepare(self, chain: Chain, read: Read) -> Served:
        """Load what a chain needs that is not loaded yet. Any thread; running sequences go on meanwhile.

        Raises UnsupportedError naming what cannot be executed; then nothing stays loaded.
        """
        loaded: list[LoadedBlock] = []
        links: list[Link] = []
        try:
            for part in chain.links:
                block = self.library.acquire(part.block, read)
                loaded.append(block)
                attached = self.library.attach(block, part.attachments, read)
                shape = kv_shape(part.block.arch)
                kept = None if shape is None else KVShape(*shape)
                links.append(Link(part.name, part.block.kind, block.executor, attached, kept))
            served = self._describe(chain, tuple(loaded), tuple(links))
        except BaseException:
            for block, part in zip(loaded, chain.links[: len(links)], strict=False):
                self.library.detach(block, part.attachments)
            for block in loaded:
                self.library.release(block)
            raise
        return_freed_memory()
        return served

    def _describe(self, chain: Chain, loaded: tuple[LoadedBlock, ...], links: tuple[Link, ...]) -> Served:
        size = dimensions(chain, self._max_model_len)
        _check_widths(chain)
        copied = [link.attached is not None and link.attached.prefix is not None for link in links if link.kv_shape]
        if any(copied) and not all(copied):
            raise UnsupportedError("prefix keys and values on some layers only", where=str(chain.model.ref))
        return Served(
            ref=chain.model.ref,
            chain=chain,
            loaded=loaded,
            links=links,
            max_len=size.max_len,
            virtual_tokens=size.virtual_tokens,
            vocab_size=size.vocab_size,
            weight_bytes=sum(part.block.nbytes for part in chain.links),
            copies_prefix=any(copied),
        )

    def install(self, served: Served) -> None:
        """Serve a prepared chain under its name from now on; running sequences of an old version finish on it."""
        if self._memory_bytes is not None:
            room = self._kv_room()
            if room < self._cache.held_bytes or room <= 0:
                weights = self.library.nbytes
                self._drop(served)
                raise CapacityError(
                    f"weights would take {weights} of {self._memory_bytes} bytes",
                    where=str(served.ref),
                    hint="raise --memory or serve fewer models",
                )
            self._cache.shrink_to(room)
        old = self.served.get(served.ref)
        self.served[served.ref] = served
        self._lay_routes()
        if old is not None:
            self._retire(old)

    def unload(self, ref: ModelRef) -> None:
        """Take no new sequences for a model; its weights go with its last running sequence."""
        served = self.served.pop(ref, None)
        if served is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        self._lay_routes()
        self._retire(served)

    def take_out(self, refs: Collection[ModelRef]) -> None:
        """Serve models no longer, with one look at the cuts."""
        leaving = [self.served.pop(ref) for ref in refs if ref in self.served]
        self._lay_routes()
        for served in leaving:
            self._retire(served)

    def settle(self) -> None:
        """Give keys and values what weights, loaded and on their way, leave."""
        if self._memory_bytes is not None:
            self._cache.shrink_to(max(self._kv_room(), 0))

    def _kv_room(self) -> int:
        assert self._memory_bytes is not None
        room = self._memory_bytes - self.library.nbytes - self.reserved_bytes
        return room if self.most_kv_bytes is None else min(room, self.most_kv_bytes)

    def _cuts(self) -> Cuts:
        chains = {**self.offered, **{ref: served.chain for ref, served in self.served.items()}}
        known, cuts = self._cut
        # Chains are never changed: the same ones give the same cuts.
        if len(known) != len(chains) or any(known.get(ref) is not chain for ref, chain in chains.items()):
            cuts = cut_chains(chains)
            self._cut = (chains, cuts)
        return cuts

    def _lay_routes(self) -> None:
        for ref, route in lay_routes(self.served, self._cuts(), self._cache).items():
            served = self.served[ref]
            blocks: dict[PagePool, int] = {}
            for segment in route:
                if segment.pool is not None:
                    blocks[segment.pool] = blocks.get(segment.pool, 0) + segment.kv_blocks
            served.route = route
            served.page_bytes = sum(count * pool.page_bytes for pool, count in blocks.items())
            served.most_pages = min((pool.tensor.shape[0] // count for pool, count in blocks.items()), default=0)

    def _retire(self, served: Served) -> None:
        served.retired = True
        if served.running == 0:
            self._drop(served)
        else:
            self.retired.add(served)

    def _drop(self, served: Served) -> None:
        for block, part in zip(served.loaded, served.chain.links, strict=True):
            self.library.detach(block, part.attachments)
            self.library.release(block)
        if self._memory_bytes is not None:
            self._cache.capacity = max(self._kv_room(), 0)
