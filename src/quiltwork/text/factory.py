"""From settings to a host of sentence models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json, Sample
from quiltwork.core.settings import references, setting
from quiltwork.text.cache import CacheCounts, Cached, VectorCache
from quiltwork.text.embedder import Embedded, Embedder
from quiltwork.text.files import ModelFiles
from quiltwork.text.hosts import Host, Hosts, OpenZoo
from quiltwork.text.models import load, takes
from quiltwork.text.opinions import Shipped
from quiltwork.text.serve import TextModels
from quiltwork.text.zoo_files import ZooFiles

CACHE_BYTES = 128 << 20
WARM_UP = ("a sentence to begin with",)
"""Embedded once while a model is loaded: what is compiled or opened with the first use is there before any request."""


@dataclass(frozen=True)
class _Version:
    """An embedder that says which version of a model it is."""

    embedder: Embedder
    digest: str

    @property
    def name(self) -> str:
        return self.embedder.name

    @property
    def dimensions(self) -> int:
        return self.embedder.dimensions

    def embed(self, sentences: Sequence[str]) -> Embedded:
        return self.embedder.embed(sentences)


def text_servable(settings: Mapping[str, Json]) -> TextModels:
    """A host of the sentence models of a zoo, with none of them loaded yet.

    Settings: ``zoo`` (its folder; required), ``memory_bytes`` (of all models in memory together), ``threads`` (cores
    that an encoder uses), ``aliases`` (name -> model), ``cache_bytes`` (of vectors kept for sentences that come again;
    0 for none). Others are for hosts of other kinds, and not looked at. One that is None is as if absent. Raises
    BadInputError naming the setting.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    path = setting(given, "zoo", str, "")
    if not path:
        raise BadInputError("is missing: the folder of the zoo", where="zoo")
    threads, memory = setting(given, "threads", int, 0), setting(given, "memory_bytes", int, 0)
    kept = setting(given, "cache_bytes", int, CACHE_BYTES)
    for name, value in (("threads", threads), ("memory_bytes", memory), ("cache_bytes", kept)):
        if value < 0:
            raise BadInputError(f"{value} is negative", where=name)

    def open_zoo() -> OpenZoo:
        from quiltwork.zoo import Zoo

        return Zoo(path)

    def load_embedder(files: ModelFiles) -> Embedder:
        name = files.model.ref.name if isinstance(files, ZooFiles) else None
        embedder = load(files, name=name, threads=threads or None)
        embedder.embed(WARM_UP)
        return embedder

    cache = VectorCache(kept)

    def embed(host: Host, embedder: Embedder, sentences: Sequence[str]) -> Embedded:
        # The version, and not the weights alone: it is that of every file.
        return Cached(_Version(embedder, host.model.version), cache).embed(sentences)

    return TextModels(
        Hosts(open_zoo, load_embedder, memory or None, references(given.get("aliases", {}), "aliases")),
        takes,
        Shipped(),
        embed=embed,
        further_status=lambda: {"cache": vars(cache.counts())},
        further_samples=lambda: _samples(cache.counts()),
    )


def _samples(counts: CacheCounts) -> list[Sample]:
    return [
        Sample("quiltwork_text_cache_hits_total", "counter", "Sentences whose vector was kept.", float(counts.hits)),
        Sample("quiltwork_text_cache_misses_total", "counter", "Sentences that were computed.", float(counts.misses)),
        Sample("quiltwork_text_cache_bytes", "gauge", "Bytes of kept vectors.", float(counts.bytes)),
    ]
