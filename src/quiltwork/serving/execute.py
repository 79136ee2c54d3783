"""Running a step's work through the segments: what shares a segment runs through it as one batch.

Batches climb the chains from the bottom. At every hop those waiting at the same segment are joined, whichever models
they belong to; the lowest segment goes first, so that a batch meets as many others as it can.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quiltwork.layers.protocol import PAGE_TOKENS, Gathered, PagedKV, Runs
from quiltwork.serving.kv import KVCache
from quiltwork.serving.route import Route, Segment
from quiltwork.serving.sequence import Sequence


@dataclass(eq=False)
class Work:
    """Consecutive tokens of one sequence on their way up its chain."""

    seq: Sequence
    route: Route
    start: int
    count: int
    hop: int
    """Index of the next segment of the route."""
    hidden: Tensor | None
    """(count, d) where it starts above cached activations; None where it starts from token ids."""
    wants: int
    """Rows, counted from the end, that need logits: 0, 1, or all of them."""


@dataclass(frozen=True)
class BatchRecord:
    """What one executed batch held: for metrics, the page and the curious."""

    blocks: int
    rows: int
    sequences: int
    models: int


@dataclass
class _Gathering:
    """What a group of sequences needs at every block of a segment; used again while the group stays the same."""

    starts: Tensor
    gathered: dict[int, Gathered | None] = field(default_factory=dict)


@dataclass(eq=False)
class _Batch:
    works: list[Work]
    x: Tensor


GroupKey = tuple[tuple[str, ...], tuple[tuple[int, int, float], ...]]


class Executor:
    """Runs works to their logits. Keeps from one step to the next only what speeds up an unchanged group."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._groups: dict[GroupKey, _Gathering] = {}
        self.records: list[BatchRecord] = []
        self.prefill_token_layers = 0
        self.hops = 0

    def run(self, works: Seq[Work]) -> list[tuple[list[Work], Tensor]]:
        """Run all works to the end of their chains.

        Returns groups of works that wanted logits, each with its (rows, vocabulary) logits: rows in the order of the
        works, ``wants`` rows each.
        """
        self.records = []
        fresh: dict[GroupKey, _Gathering] = {}
        waiting = self._enter(works)
        done: list[tuple[list[Work], Tensor]] = []
        while waiting:
            segment = min(
                (batch.works[0].route[batch.works[0].hop] for batch in waiting), key=lambda s: (s.start, s.key)
            )
            here = [b for b in waiting if b.works[0].route[b.works[0].hop].key == segment.key]
            waiting = [b for b in waiting if b not in here]
            works_here, x = _join(here)
            works_here, x = self._run_segment(segment, works_here, x, fresh)
            if not works_here:
                continue
            if segment.last:
                done.append((works_here, x))
            else:
                waiting.extend(_part(works_here, x))
        self._groups = fresh
        return done

    def _enter(self, works: Seq[Work]) -> list[_Batch]:
        """Initial batches: ids for works that start at the bottom, hidden states for those that start higher."""
        device = self._cache.device
        batches: list[_Batch] = []
        by_key: dict[tuple[str, ...], list[Work]] = {}
        for work in works:
            if work.hidden is None:
                by_key.setdefault(work.route[0].key, []).append(work)
            else:
                batches.append(_Batch([work], work.hidden))
        for group in by_key.values():
            ids: list[int] = []
            for work in group:
                ids.extend(work.seq.tokens[work.start : work.start + work.count])
            batches.append(_Batch(group, torch.tensor(ids, dtype=torch.int64).to(device)))
        return batches

    def _run_segment(
        self, segment: Segment, works: list[Work], x: Tensor, fresh: dict[GroupKey, _Gathering]
    ) -> tuple[list[Work], Tensor]:
        """Run a batch through one segment; after the head only works that wanted logits are left."""
        runs, group = self._group(segment, works, fresh)
        tables = self._tables(segment, works) if segment.kv_blocks else None
        hop_links = [work.route[work.hop].links for work in works]
        self.records.append(BatchRecord(len(segment.links), runs.rows, len(works), len({w.seq.model for w in works})))
        self.hops += len(works)
        layer = 0
        for index, link in enumerate(segment.links):
            if link.kind == "head":
                keep(self._cache, works, x)
                return self._run_head(segment, index, works, x)
            kv: PagedKV | None = None
            if link.kv_shape is not None:
                assert tables is not None
                assert segment.pool is not None
                kv = PagedKV(segment.pool.tensor, tables[layer])
                layer += 1
            if index not in group.gathered:
                group.gathered[index] = self._gather(link.executor, [links[index] for links in hop_links], works, runs)
            x = link.executor(x, runs, kv, group.gathered[index])
        self.prefill_token_layers += segment.kv_blocks * sum(w.count for w in works if w.start < w.seq.prompt_len)
        keep(self._cache, works, x)
        return works, x

    def _run_head(self, segment: Segment, index: int, works: list[Work], x: Tensor) -> tuple[list[Work], Tensor]:
        """The last rows of works that want logits, through the head."""
        self.prefill_token_layers += segment.kv_blocks * sum(w.count for w in works if w.start < w.seq.prompt_len)
        rows: list[int] = []
        at = 0
        for work in works:
            at += work.count
            rows.extend(range(at - work.wants, at))
        asking = [work for work in works if work.wants]
        if not asking:
            return [], x
        if len(rows) != x.shape[0]:
            x = x.index_select(0, torch.tensor(rows, device=x.device))
        runs = _runs(asking, [work.wants for work in asking], x.device)
        links = [work.route[work.hop].links[index] for work in asking]
        gathered = self._gather(links[0].executor, links, asking, runs)
        return asking, segment.links[index].executor(x, runs, None, gathered)

    def _group(self, segment: Segment, works: list[Work], fresh: dict[GroupKey, _Gathering]) -> tuple[Runs, _Gathering]:
        key = (segment.key, tuple((w.seq.id, w.count, w.seq.adapter_scale) for w in works))
        group = self._groups.get(key)
        if group is None:
            bounds = np.zeros(len(works) + 1, dtype=np.int32)
            np.cumsum([w.count for w in works], out=bounds[1:])
            group = _Gathering(torch.from_numpy(bounds))
        fresh[key] = group
        return _runs(works, [w.count for w in works], self._cache.device, group.starts), group

    def _tables(self, segment: Segment, works: list[Work]) -> Tensor:
        """(attention blocks, sequences, pages) int32 page numbers."""
        pages = [-(-(w.start + w.count) // PAGE_TOKENS) for w in works]
        table = np.zeros((segment.kv_blocks, len(works), max(pages)), dtype=np.int32)
        for i, (work, count) in enumerate(zip(works, pages, strict=True)):
            table[:, i, :count] = work.seq.tables[work.hop][:, :count]
        return torch.from_numpy(table)

    @staticmethod
    def _gather(executor: Any, links: Seq[Any], works: Seq[Work], runs: Runs) -> Gathered | None:
        attached = [link.attached for link in links]
        if not any(a is not None for a in attached):
            return None
        gathered: Gathered | None = executor.gather(attached, [w.seq.adapter_scale for w in works], runs)
        return gathered


def keep(cache: KVCache, works: Seq[Work], x: Tensor) -> None:
    """Publish the whole pages that prompt chunks completed, and keep what left them where models part ways above."""
    at = 0
    for work in works:
        seq, segment, end = work.seq, work.route[work.hop], work.start + work.count
        if segment.kv_blocks and end <= seq.prompt_len and work.count > 1:
            publish(cache, seq, segment, work.hop, work.start // PAGE_TOKENS, end // PAGE_TOKENS)
            if segment.keeps_activation:
                for page in range(-(-work.start // PAGE_TOKENS), end // PAGE_TOKENS):
                    row = at + page * PAGE_TOKENS - work.start
                    cache.keep_activation(seq.runs[work.hop][page], x[row : row + PAGE_TOKENS])
        at += work.count


def publish(cache: KVCache, seq: Sequence, segment: Segment, hop: int, first: int, end: int) -> None:
    """Make pages ``first`` to ``end`` (exclusive) of a sequence findable at one segment."""
    if not segment.kv_blocks:
        return
    for page in range(first, min(end, len(seq.page_hashes))):
        cache.publish(seq.runs[hop][page], (seq.page_hashes[page], chain_key(seq, segment)))


def chain_key(seq: Sequence, segment: Segment) -> bytes:
    """What a segment's state depends on besides the tokens: the chain below, and the options that change state."""
    key = segment.chain_hash
    if segment.attached_below and seq.adapter_scale != 1.0:
        key += f"|scale={seq.adapter_scale!r}"
    if seq.state_options:
        key += "|" + repr(sorted(seq.state_options.items()))
    return key.encode()


def _runs(works: Seq[Work], counts: Seq[int], device: torch.device, starts: Tensor | None = None) -> Runs:
    ends = [w.start + w.count for w in works]
    if len(works) == sum(counts):
        positions = np.array(ends, dtype=np.int64) - 1
    else:
        positions = np.concatenate([np.arange(e - c, e, dtype=np.int64) for e, c in zip(ends, counts, strict=True)])
    if starts is None:
        bounds = np.zeros(len(works) + 1, dtype=np.int32)
        np.cumsum(counts, out=bounds[1:])
        starts = torch.from_numpy(bounds)
    options = [w.seq.state_options for w in works] if any(w.seq.state_options for w in works) else ()
    return Runs(
        positions=torch.from_numpy(positions).to(device),
        starts=starts,
        lengths=torch.tensor(ends, dtype=torch.int32),
        options=options,
    )


def _join(batches: Seq[_Batch]) -> tuple[list[Work], Tensor]:
    """One batch of several, in the order of sequence ids, so that an unchanged group looks unchanged."""
    if len(batches) == 1:
        return batches[0].works, batches[0].x
    pieces: list[tuple[Work, Tensor]] = []
    for batch in batches:
        pieces.extend(zip(batch.works, batch.x.split([w.count for w in batch.works]), strict=True))
    pieces.sort(key=lambda piece: piece[0].seq.id)
    return [work for work, _ in pieces], torch.cat([x for _, x in pieces])


def _part(works: list[Work], x: Tensor) -> list[_Batch]:
    """A batch that left a segment, by where its works go next."""
    for work in works:
        work.hop += 1
    keys = [work.route[work.hop].key for work in works]
    if all(key == keys[0] for key in keys):
        return [_Batch(works, x)]
    pieces = x.split([w.count for w in works])
    batches: list[_Batch] = []
    for key in dict.fromkeys(keys):
        chosen = [i for i, other in enumerate(keys) if other == key]
        batches.append(_Batch([works[i] for i in chosen], torch.cat([pieces[i] for i in chosen])))
    return batches
