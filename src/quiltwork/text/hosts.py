"""Models of sentences that may be asked for: in memory, or on disk until the first request for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from quiltwork.core.errors import CapacityError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.core.units import format_bytes
from quiltwork.text.embedder import Embedder
from quiltwork.text.files import ModelFiles
from quiltwork.text.zoo_files import ModelStore, ZooFiles
from quiltwork.zoo.types import Model

Load = Callable[[ModelFiles], Embedder]


class OpenZoo(ModelStore, Protocol):
    """The part of a zoo that is read here, to be closed."""

    def close(self) -> None: ...


@dataclass(eq=False)
class Host:
    """One version of a model that may be asked for."""

    files: ZooFiles
    nbytes: int
    """Of its arrays in memory, halves widened."""
    embedder: Embedder | None = None
    """None while it is on disk."""
    pinned: bool = False
    used: int = 0
    """Rises with every use; only which is less matters."""

    @property
    def model(self) -> Model:
        """Its manifest."""
        return self.files.model

    @property
    def ref(self) -> ModelRef:
        """Its name."""
        return self.model.ref


@dataclass
class Hosts:
    """The models of one server.

    open_zoo : called when a model is first asked about. load : makes an embedder of a model's files.
    memory_bytes : that the models may take together; None for any. aliases : further names -> models.

    A model that is taken out of memory while it embeds is freed when that ends: for so long there is more than the
    limit.
    """

    open_zoo: Callable[[], OpenZoo]
    load_embedder: Load
    memory_bytes: int | None = None
    aliases: Mapping[ModelRef, ModelRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._zoo: OpenZoo | None = None
        self._lock = threading.RLock()
        """Held by who changes what follows, a load included; who only looks does not wait for it."""
        self._hosts: dict[ModelRef, Host] = {}
        self._names = dict(self.aliases)
        self._uses = count(1)
        self._on_demand = False
        """From the first model that was offered without being loaded: idle ones then leave memory for others."""
        self.loads = self.evictions = 0

    def store(self) -> OpenZoo:
        """The zoo."""
        with self._lock:
            if self._zoo is None:
                self._zoo = self.open_zoo()
            return self._zoo

    def close(self) -> None:
        """Let go of the zoo and of all models."""
        with self._lock:
            self._hosts.clear()
            if self._zoo is not None:
                self._zoo.close()
                self._zoo = None

    def named(self, ref: ModelRef) -> ModelRef:
        """The model that a name stands for."""
        return self._names.get(ref, ref)

    def all(self) -> Sequence[Host]:
        """Every host, by name."""
        hosts = dict(self._hosts)
        return [hosts[ref] for ref in sorted(hosts)]

    def other_names(self) -> Mapping[ModelRef, ModelRef]:
        """Aliases of hosts."""
        return {alias: ref for alias, ref in dict(self._names).items() if ref in self._hosts and alias != ref}

    def find(self, ref: ModelRef) -> Host:
        """Raises NotFoundError where it is not hosted."""
        found = self._hosts.get(self.named(ref))
        if found is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        return found

    def put(self, ref: ModelRef, *, load: bool) -> Host:
        """Host a model in the zoo's present version; with ``load`` in memory, else when it is first used.

        Raises NotFoundError, what reading its files raises, CapacityError where it does not fit.
        """
        files = ZooFiles(self.store(), self.named(ref))
        with self._lock:
            name = files.model.ref
            if ref != name:
                self._names[ref] = name
            present = self._hosts.get(name)
            if present is not None and present.model.version == files.model.version:
                host = present
            else:
                host = Host(files, _size(files.model), pinned=present is not None and present.pinned)
            self._fits_alone(host)
            if load:
                self._bring(host, besides=present)
            else:
                self._on_demand = True
            self._hosts[name] = host
        return host

    def remove(self, ref: ModelRef) -> None:
        """Host it no more; who embeds with it goes on. Raises NotFoundError."""
        with self._lock:
            host = self.find(ref)
            del self._hosts[host.ref]

    def pin(self, ref: ModelRef, pinned: bool) -> None:
        """Load a model and keep it in memory, or let it go again for others. Raises what ``put`` raises."""
        with self._lock:
            if pinned:
                self.put(ref, load=True)
            self.find(ref).pinned = pinned

    def embedder(self, host: Host) -> Embedder:
        """What embeds, loaded where it is not; others leave memory where that is allowed and needed."""
        if (embedder := host.embedder) is not None:
            host.used = next(self._uses)
            return embedder
        with self._lock:
            return self._bring(host)

    def resident_bytes(self) -> int:
        """Of the models in memory."""
        return sum(host.nbytes for host in dict(self._hosts).values() if host.embedder is not None)

    def _bring(self, host: Host, besides: Host | None = None) -> Embedder:
        host.used = next(self._uses)
        if (embedder := host.embedder) is None:
            self._make_room(host, besides)
            embedder = host.embedder = self.load_embedder(host.files)
            self.loads += 1
        return embedder

    def _fits_alone(self, host: Host) -> None:
        if self.memory_bytes is not None and host.nbytes > self.memory_bytes:
            raise CapacityError(
                f"needs {format_bytes(host.nbytes)} of memory, {format_bytes(self.memory_bytes)} are allowed",
                where=f"model {host.ref}",
            )

    def _make_room(self, host: Host, besides: Host | None) -> None:
        """besides : the version that it takes the place of, which needs no room any more."""
        if self.memory_bytes is None:
            return
        others = [other for other in self._hosts.values() if other.embedder is not None and other is not besides]
        free = self.memory_bytes - sum(other.nbytes for other in others)
        idle = sorted((other for other in others if self._on_demand and not other.pinned), key=lambda other: other.used)
        while free < host.nbytes and idle:
            gone = idle.pop(0)
            gone.embedder = None
            free += gone.nbytes
            self.evictions += 1
        if free < host.nbytes:
            raise CapacityError(
                f"needs {format_bytes(host.nbytes)} of memory, {format_bytes(max(free, 0))} are free",
                where=f"model {host.ref}",
            )


def _size(model: Model) -> int:
    tensors = {t.content: t for part in model.parts for t in part.block.walk()}
    return sum(t.nbytes * (2 if t.dtype in ("F16", "BF16") else 1) for t in tensors.values())


def told(host: Host) -> dict[str, Json]:
    """Facts of a model to show."""
    model, embedder = host.model, host.embedder
    return {
        "family": model.family,
        "parent": str(model.base) if model.base is not None else None,
        "version": model.version,
        "dimensions": embedder.dimensions if embedder is not None else None,
        "bytes": host.nbytes,
        "pinned": host.pinned,
        "notes": list(model.notes),
    }
