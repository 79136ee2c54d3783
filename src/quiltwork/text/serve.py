"""Models of sentences behind the one door: vectors, and how alike sentences are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quiltwork.core.batcher import Batcher, BatchLimits
from quiltwork.core.errors import CapacityError, NotFoundError, QuiltworkError
from quiltwork.core.names import ModelRef, visible_to
from quiltwork.core.servable import Caller, Hosted, Input, Json, Part, Sample, Stream, TaskSchema
from quiltwork.text.answers import answer
from quiltwork.text.embedder import Embedded, Embedder
from quiltwork.text.figures import Figures
from quiltwork.text.hosts import Host, Hosts, told
from quiltwork.text.opinions import Opinions
from quiltwork.text.tasks import TASKS, Asked, understand
from quiltwork.zoo.explain import describe
from quiltwork.zoo.types import Model

LIMITS = BatchLimits(max_batch=64, max_wait=0.0, max_queue=512)
"""Nobody waits for company: what comes while a batch runs makes up the next."""

Embed = Callable[[Host, Embedder, Sequence[str]], Embedded]
"""Vectors of distinct sentences; a cache may stand in front of the model."""


@dataclass(frozen=True, eq=False)
class _Request:
    host: Host
    name: ModelRef
    """As it was asked for."""
    asked: Asked
    tenant: str
    task: str


def straight(host: Host, embedder: Embedder, sentences: Sequence[str]) -> Embedded:
    """Without any cache."""
    return embedder.embed(sentences)


class TextModels:
    """Hosts models of sentences of a zoo. Requests for one model are embedded together, each sentence once.

    Parameters
    ----------
    hosts : the models.
    takes : whether a model is of a kind that ``hosts`` can load.
    opinions : what is said of pairs besides their score.
    embed : what embeds, a cache perhaps; called in one thread.
    limits : of the queue and of a batch (requests).
    close : called last.
    """

    kind = "text"

    def __init__(
        self,
        hosts: Hosts,
        takes: Callable[[Model], bool],
        opinions: Opinions,
        *,
        embed: Embed = straight,
        limits: BatchLimits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
        further_status: Callable[[], Mapping[str, Json]] = dict,
        further_samples: Callable[[], Sequence[Sample]] = tuple,
    ) -> None:
        self._hosts, self._takes, self._opinions, self._embed = hosts, takes, opinions, embed
        self._clock, self._further_status, self._further_samples = clock, further_status, further_samples
        self._figures = Figures()
        self._loading: set[ModelRef] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._room = limits.max_queue
        self._batcher: Batcher[_Request] = Batcher(self._run, limits, alike=lambda r: r.host, clock=clock, name="text")

    def tasks(self) -> Mapping[str, TaskSchema]:
        """``embeddings`` and ``similarity``."""
        return TASKS

    def models(self) -> Sequence[Hosted]:
        """What may be asked for, in memory or not, and aliases of it."""
        with self._lock:
            loading = set(self._loading)
        hosts = {host.ref: host for host in self._hosts.all()}

        def state(host: Host) -> str:
            return "ready" if host.embedder is not None else "loading" if host.ref in loading else "absent"

        shown = [Hosted(ref, state(host), told(host)) for ref, host in hosts.items()]
        shown += [Hosted(ref, "loading") for ref in loading - set(hosts)]
        for alias, ref in self._hosts.other_names().items():
            if ref in hosts:
                shown.append(Hosted(alias, state(hosts[ref]), {**told(hosts[ref]), "alias_of": str(ref)}))
        return sorted(shown, key=lambda hosted: hosted.ref)

    def takes(self, ref: ModelRef) -> bool:
        """Whether a zoo model makes vectors of sentences in a way that is known here. Raises NotFoundError."""
        return self._takes(self._hosts.store().model(self._hosts.named(ref)))

    def load(self, ref: ModelRef) -> None:
        """Make a model ready, or bring it to the zoo's present version. Raises as ``Servable.load``."""
        self._put(ref, load=True)

    def offer(self, ref: ModelRef) -> None:
        """Take requests for a model; the first one has it loaded. From then on idle ones make room for others."""
        self._put(ref, load=False)

    def pin(self, ref: ModelRef, pinned: bool = True) -> None:
        """Load a model and keep it in memory, or let it go for others again."""
        if pinned:
            self._put(ref, load=True)
        self._hosts.pin(ref, pinned)

    def _put(self, ref: ModelRef, *, load: bool) -> None:
        with self._lock:
            if self._closing:
                raise _shutting_down()
            if load:
                self._loading.add(ref)
        try:
            self._hosts.put(ref, load=load)
        finally:
            with self._lock:
                self._loading.discard(ref)

    def unload(self, ref: ModelRef) -> None:
        """Take no new requests for a model; those that wait are still answered. Raises NotFoundError."""
        self._hosts.remove(ref)

    def submit(self, model: ModelRef, input: Input, options: Mapping[str, Json], *, caller: Caller) -> Stream:
        """Queue a request. Raises BadInputError naming the field, NotFoundError, CapacityError (too many wait)."""
        if not visible_to(self._hosts.named(model), caller.tenant):
            raise NotFoundError(f"{model} is not loaded", where="model")
        host = self._hosts.find(model)
        asked = understand(input, options)
        if self._closing:
            raise _shutting_down()
        try:
            return self._batcher.submit(_Request(host, model, asked, caller.tenant, input.task))
        except CapacityError as error:
            self._figures.refused(caller.tenant)
            raise CapacityError(error.what, hint="try again later", retry_after=1.0) from error

    def _run(self, requests: Sequence[_Request]) -> Sequence[Part | QuiltworkError]:
        """A batch of requests for one model."""
        began = self._clock()
        host = requests[0].host
        embedder = self._hosts.embedder(host)
        sentences = tuple(dict.fromkeys(sentence for request in requests for sentence in request.asked.sentences))
        embedded = self._embed(host, embedder, sentences)
        rows = {sentence: row for row, sentence in enumerate(sentences)}
        answers = [self._answer(request, embedder, embedded, rows) for request in requests]
        self._figures.ran(
            str(host.ref),
            [(request.task, request.tenant, len(request.asked.sentences)) for request in requests],
            distinct=len(sentences),
            tokens=int(embedded.used.sum()),
            seconds=self._clock() - began,
        )
        return answers

    def _answer(
        self, request: _Request, embedder: Embedder, embedded: Embedded, rows: Mapping[str, int]
    ) -> Part | QuiltworkError:
        asked = request.asked

        def picked(sentences: Sequence[str]) -> Embedded:
            at = np.fromiter((rows[sentence] for sentence in sentences), np.int64, len(sentences))
            return embedded.rows(at)

        try:
            return answer(
                asked, picked(asked.left), picked(asked.right), request.name.name, request.host.model, embedder.name,
                self._opinions,
            )  # fmt: skip
        except QuiltworkError as error:
            return error

    # --- how it stands ------------------------------------------------------------------------------------------

    def samples(self) -> Sequence[Sample]:
        """Metrics."""
        hosts = self._hosts
        gauges = {
            "quiltwork_text_waiting_requests": ("Requests that have not begun.", self._batcher.waiting),
            "quiltwork_text_resident_models": ("Models in memory.", sum(h.embedder is not None for h in hosts.all())),
            "quiltwork_text_resident_bytes": ("Bytes of the models in memory.", hosts.resident_bytes()),
        }
        counters = {
            "quiltwork_text_loads_total": ("Models brought into memory.", hosts.loads),
            "quiltwork_text_evictions_total": ("Models that left memory for others.", hosts.evictions),
        }
        return [
            *(Sample(name, "gauge", text, float(value)) for name, (text, value) in gauges.items()),
            *(Sample(name, "counter", text, float(value)) for name, (text, value) in counters.items()),
            *self._figures.samples(),
            *self._further_samples(),
        ]

    def status(self) -> Mapping[str, Json]:
        """Models and who shares their blocks, the queue, memory."""
        hosts = self._hosts.all()
        owners: dict[str, set[ModelRef]] = {}
        for host in hosts:
            for part in host.model.parts:
                owners.setdefault(part.block.id, set()).add(host.ref)
        resident = [host for host in hosts if host.embedder is not None]
        apart = sum(host.nbytes for host in resident)
        return {
            "models": [_row(host, owners) for host in hosts],
            "queue": {"running": 0, "waiting": self._batcher.waiting, "room": self._room},
            # Blocks are shared on disk; in memory each model has its own.
            "weights": {"bytes": apart, "without_sharing": apart},
            **self._further_status(),
        }

    def explain(self, model: ModelRef, *, tenant: str | None) -> Mapping[str, Json]:
        """A hosted model's parts and which hosted models have the same. Raises NotFoundError."""
        host = self._hosts.find(model)
        if tenant is not None and not visible_to(host.ref, tenant):
            raise NotFoundError(f"{model} is not loaded", where="model")
        models = [other.model for other in self._hosts.all()]
        return describe(host.model, (), models, {}, tenant=tenant).to_json()

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Refuse new requests, answer those that wait for a while, fail the rest, let go of the models."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._batcher.close(drain_seconds=drain_seconds)
        self._hosts.close()


def _row(host: Host, owners: Mapping[str, set[ModelRef]]) -> dict[str, Json]:
    model = host.model
    return {
        "model": str(host.ref),
        "name": host.ref.name,
        "tenant": host.ref.tenant,
        "family": model.family,
        "version": model.version,
        "parent": str(model.base) if model.base is not None else None,
        "resident": host.embedder is not None,
        "pinned": host.pinned,
        "segments": 0,
        "substituted": [],
        "cells": [
            {
                "part": part.name,
                "kind": part.block.kind,
                "block": part.block.id,
                "bytes": part.block.nbytes,
                "shared_by": len(owners[part.block.id]),
                "attachments": [],
            }
            for part in model.parts
        ],
    }


def _shutting_down() -> CapacityError:
    return CapacityError("the server is shutting down", retry_after=5.0)
