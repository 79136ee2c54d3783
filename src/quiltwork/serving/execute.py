"""Running a step's work through the segments: what shares a segment runs through it as one batch.

Batches climb the chains from the bottom. At every hop those waiting at the same segment are joined, whichever models
they belong to; the lowest segment goes first, so that a batch meets as many others as it can.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from quiltwork.layers.protocol import PAGE_TOKENS, Gathered, PagedKV, Runs
from quiltwork.serving.experts import Spent
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
    stop: int
    """Index behind the last segment that is run here: the route's end, or where another agent goes on."""
    drafted: tuple[int, ...] = ()
    """Tokens to verify, which follow the sequence's own; ``count`` includes them."""
    beyond: tuple[int, ...] = ()
    """At most one token more that was drafted: it is no row, but may be what the last row is followed by."""

    @property
    def proposed(self) -> tuple[int, ...]:
        """All drafted tokens, in order."""
        return self.drafted + self.beyond


@dataclass(frozen=True)
class BatchRecord:
    """What one executed batch held: for metrics, the page and the curious."""

    blocks: int
    rows: int
    sequences: int
    models: int


Watch = Callable[[Segment, Seq[Work], BatchRecord], None]
"""Is told of every batch before it runs through a segment."""

Member = tuple[int, int, int, float]
"""A work as its group sees it: sequence, the sequence's route taken, rows, adapter scale."""


@dataclass(eq=False)
class _Batch:
    """Works that travel together, and what they have in common."""

    works: list[Work]
    x: Tensor
    runs: Runs
    members: tuple[Member, ...]
    models: int = 0
    prompt_rows: int = 0


@dataclass
class _Group:
    """What a batch needs at one segment, used again while its members stay the same."""

    gathered: dict[int, Gathered | None] = field(default_factory=dict)
    pages: list[int] = field(default_factory=list)
    table: Tensor | None = None


GroupKey = tuple[tuple[str, ...], tuple[Member, ...]]


class Executor:
    """Runs works to their logits. Keeps from one step to the next only what speeds up an unchanged group."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._groups: dict[GroupKey, _Group] = {}
        self.records: list[BatchRecord] = []
        self.watch: Watch | None = None
        self.prefill_token_layers = 0
        self.hops = 0

    def run(self, works: Seq[Work]) -> list[tuple[list[Work], Tensor]]:
        """Run all works to the end of their chains, or to where another agent goes on.

        Returns groups of works that arrived together, each with its rows in the order of the works: at a chain's end
        (rows, vocabulary) logits, ``wants`` rows of each work that wanted any; else the (rows, d) hidden state.
        """
        self.records = []
        fresh: dict[GroupKey, _Group] = {}
        waiting = self._enter(works)
        done: list[tuple[list[Work], Tensor]] = []
        while waiting:
            segment = min((_next(batch) for batch in waiting), key=lambda s: (s.height, s.key))
            here = [b for b in waiting if _next(b).key == segment.key]
            waiting = [b for b in waiting if b not in here]
            batch = here[0] if len(here) == 1 else _join(here)
            left = self._run_segment(segment, batch, fresh)
            if left is None:
                continue
            for part in _part(left):
                arrived = part.works[0].hop == part.works[0].stop
                if arrived:
                    done.append((part.works, part.x))
                else:
                    waiting.append(part)
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
                batches.append(_batch([work], work.hidden))
        for group in by_key.values():
            ids: list[int] = []
            for work in group:
                ids.extend(work.seq.tokens[work.start : work.start + work.count])
                ids.extend(work.drafted)
            batches.append(_batch(group, torch.tensor(ids, dtype=torch.int64).to(device)))
        return batches

    def _run_segment(self, segment: Segment, batch: _Batch, fresh: dict[GroupKey, _Group]) -> _Batch | None:
        """Run a batch through one segment; after the head only works that wanted logits are left, or None."""
        works, x, runs = batch.works, batch.x, batch.runs
        key = (segment.key, batch.members)
        group = fresh[key] = self._groups.get(key) or _Group()
        table = _table(segment, works, group) if segment.kv_blocks else None
        record = BatchRecord(len(segment.links), runs.rows, len(works), batch.models)
        self.records.append(record)
        if self.watch is not None:
            self.watch(segment, works, record)
        self.hops += len(works)
        self.prefill_token_layers += segment.kv_blocks * batch.prompt_rows
        layer = 0
        for index, link in enumerate(segment.links):
            if link.kind == "head":
                if batch.prompt_rows:
                    keep(self._cache, works, x)
                if any(work.wants != work.count for work in works):
                    asking = _asking(works, x)
                    if asking is None:
                        return None
                    gathered = _gather(index, asking.works, asking.runs)
                    return replace(asking, x=link.executor(asking.x, asking.runs, None, gathered))
            if index not in group.gathered:
                group.gathered[index] = _gather(index, works, runs)
            kv: PagedKV | None = None
            if link.kv_shape is not None:
                assert table is not None
                assert segment.pool is not None
                kv = PagedKV(segment.pool.tensor, table[layer])
                layer += 1
            x = link.executor(x, runs, kv, group.gathered[index])
        if batch.prompt_rows and not segment.last:
            keep(self._cache, works, x)
        batch.x = x
        return batch


def _next(batch: _Batch) -> Segment:
    work = batch.works[0]
    return work.route[work.hop]


def _batch(works: list[Work], x: Tensor) -> _Batch:
    """A batch of works, (rows, ...) of input each in their order."""
    members = tuple((w.seq.id, w.seq.departures, w.count, w.seq.adapter_scale) for w in works)
    return _Batch(
        works,
        x,
        _runs(works, [w.count for w in works], x.device),
        members,
        models=len({w.seq.model for w in works}),
        prompt_rows=sum(w.count for w in works if w.start < w.seq.prompt_len),
    )


def _asking(works: list[Work], x: Tensor) -> _Batch | None:
    """The works that want logits with just the rows they want, their last ones; None where there are none."""
    asking = [work for work in works if work.wants]
    if not asking:
        return None
    rows: list[int] = []
    at = 0
    for work in works:
        at += work.count
        rows.extend(range(at - work.wants, at))
    chosen = x.index_select(0, torch.tensor(rows, device=x.device))
    return _Batch(asking, chosen, _runs(asking, [w.wants for w in asking], x.device), ())


def _gather(index: int, works: Seq[Work], runs: Runs) -> Gathered | None:
    """The attachments that works have at one link of their segment."""
    links = [work.route[work.hop].links[index] for work in works]
    if not any(link.attached is not None for link in links):
        return None
    return links[0].executor.gather([k.attached for k in links], [w.seq.adapter_scale for w in works], runs)


def _table(segment: Segment, works: Seq[Work], group: _Group) -> Tensor:
    """(attention blocks, sequences, pages) int32 page numbers; the group's own while no page is added."""
    pages = [-(-(w.start + w.count) // PAGE_TOKENS) for w in works]
    if group.table is None or group.pages != pages:
        table = np.zeros((segment.kv_blocks, len(works), max(pages)), dtype=np.int32)
        for i, (work, count) in enumerate(zip(works, pages, strict=True)):
            table[:, i, :count] = work.seq.tables[work.hop][:, :count]
        group.pages, group.table = pages, torch.from_numpy(table)
    return group.table


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
        cache.publish(seq.runs[hop][page], (seq.page_hashes[page], chain_key(seq, segment)), (seq.model, seq.tenant))


def chain_key(seq: Sequence, segment: Segment) -> bytes:
    """What a segment's state depends on besides the tokens: the chain below, where the segment begins (cut elsewhere, a
    run holds other blocks' pages) and the options that change state."""
    key = f"{segment.chain_hash}/{segment.start}"
    if segment.attached_below and seq.adapter_scale != 1.0:
        key += f"|scale={seq.adapter_scale!r}"
    if seq.state_options:
        key += "|" + repr(sorted(seq.state_options.items()))
    return key.encode()


def _runs(works: Seq[Work], counts: Seq[int], device: torch.device) -> Runs:
    ends = [w.start + w.count for w in works]
    if len(works) == sum(counts):
        positions = np.array(ends, dtype=np.int64) - 1
    else:
        positions = np.concatenate([np.arange(e - c, e, dtype=np.int64) for e, c in zip(ends, counts, strict=True)])
    bounds = np.zeros(len(works) + 1, dtype=np.int32)
    np.cumsum(counts, out=bounds[1:])
    first = bounds[:-1]

    def tell(name: str, numbers: Tensor) -> None:
        sums = np.add.reduceat(numbers.numpy(force=True), first)
        for work, total, count in zip(works, sums.tolist(), counts, strict=True):
            work.seq.spent.setdefault(name, Spent()).add(total, count)

    options = [w.seq.state_options for w in works] if any(w.seq.state_options for w in works) else ()
    return Runs(
        positions=torch.from_numpy(positions).to(device),
        starts=torch.from_numpy(bounds),
        lengths=torch.tensor(ends, dtype=torch.int32),
        options=options,
        tell=tell,
    )


def _join(batches: Seq[_Batch]) -> _Batch:
    """One batch of several, in the order of sequence ids, so that an unchanged group looks unchanged."""
    pieces: list[tuple[Work, Tensor]] = []
    for batch in batches:
        pieces.extend(zip(batch.works, torch.split(batch.x, [w.count for w in batch.works]), strict=True))
    pieces.sort(key=lambda piece: piece[0].seq.id)
    return _batch([work for work, _ in pieces], torch.cat([x for _, x in pieces]))


def _part(batch: _Batch) -> list[_Batch]:
    """A batch that left a segment, by where its works go next (or not); the same batch where they stay together."""
    works = batch.works
    for work in works:
        work.hop += 1
    keys = [work.route[work.hop].key if work.hop < work.stop else None for work in works]
    if keys.count(keys[0]) == len(keys):
        return [batch]
    pieces = torch.split(batch.x, [w.count for w in works])
    batches: list[_Batch] = []
    for key in dict.fromkeys(keys):
        chosen = [i for i, other in enumerate(keys) if other == key]
        batches.append(_batch([works[i] for i in chosen], torch.cat([pieces[i] for i in chosen])))
    return batches
