"""What a sequence computes next: whole pages from the cache first, then work for the rest, on pages of its own."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import torch
from torch import Tensor

from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.execute import Work
from quiltwork.serving.kv import KVCache, PageRun
from quiltwork.serving.prefix import extend_hashes, missing_from, reusable_pages
from quiltwork.serving.sequence import Sequence


class Chunker:
    """Turns a step's decision into works, taking and allocating pages as it goes."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def start(self, seq: Sequence) -> None:
        """Give a sequence its way through the chain as it is now, and its copied prefix."""
        assert seq.served is not None
        seq.take_route(seq.served.route)
        extend_hashes(seq)

    def next_work(self, seq: Sequence, tokens: int, coming: set[bytes]) -> Work | None:
        """The work for the next ``tokens`` tokens of a sequence; None where pages ran out, count 0 to wait a step.

        Takes whole pages from the cache first. ``coming`` holds the pages that others compute in this step: rather than
        computing them twice, the sequence waits for them.
        """
        hop = 0
        while seq.computed % PAGE_TOKENS == 0 and seq.computed // PAGE_TOKENS < reusable_pages(seq):
            page = seq.computed // PAGE_TOKENS
            self._cache.counters.queries += 1
            hop, found = missing_from(self._cache, seq, seq.route, page)
            if hop < len(seq.route):
                break
            self._cache.counters.hits += 1
            self._hold(seq, found)
            if seq.trace is not None:
                seq.trace.found(page, found, seq.model, seq.tenant, whole=True)
            seq.computed += PAGE_TOKENS
            if seq.generated == 0:
                seq.cached_tokens += PAGE_TOKENS
        if seq.prefix_to_copy:
            if not self._copy_prefix(seq):
                return None
            hop = 0
        start = seq.computed
        count = min(tokens, seq.pending)
        pages = range(start // PAGE_TOKENS, -(-(start + count) // PAGE_TOKENS))
        if start % PAGE_TOKENS == 0 and pages.start < reusable_pages(seq) and self._cache.keep:
            if seq.page_hashes[pages.start] in coming:
                if seq.trace is not None:
                    seq.trace.kv.waits += 1
                return Work(seq, seq.route, start, 0, 0, None, 0, len(seq.route))
            if 0 < hop < len(seq.route):
                return self._resume(seq, hop, pages)
            # A page that another model left half-way is resumed in a chunk of its own.
            for page in pages[1:]:
                if page < reusable_pages(seq) and missing_from(self._cache, seq, seq.route, page)[0]:
                    pages = range(pages.start, page)
                    count = page * PAGE_TOKENS - start
                    break
        if not self._allocate(seq, pages.stop, 0):
            return None
        for page in pages:
            if page < len(seq.page_hashes):
                coming.add(seq.page_hashes[page])
        return self._work(seq, start, count, 0, None)

    def stretch(self, work: Work, drafted: Tokens[int]) -> None:
        """Let a decoding sequence's work verify drafted tokens as well, as many as there are pages for."""
        seq, after = work.seq, work.start + work.count
        if not self._allocate(seq, -(-(after + len(drafted)) // PAGE_TOKENS), 0):
            drafted = drafted[: -after % PAGE_TOKENS]
        work.drafted = tuple(drafted)
        work.count += len(drafted)
        work.wants += len(drafted)

    def truncate(self, seq: Sequence, tokens: int) -> None:
        """Forget what was computed beyond ``tokens`` tokens and the pages that held only that; harmless if repeated.

        Unverified tokens are never published, so the pages are the sequence's own.
        """
        seq.computed = min(seq.computed, tokens)
        pages = -(-seq.computed // PAGE_TOKENS)
        if not any(len(runs) > pages for runs in seq.runs):
            return
        for runs in seq.runs:
            while len(runs) > pages:
                self._cache.release(runs.pop())
        seq.departures += 1

    def _resume(self, seq: Sequence, hop: int, pages: range) -> Work | None:
        """Work on pages whose lower segments are cached, from the activations kept below segment ``hop``."""
        hidden: list[Tensor] = []
        for page in pages:
            if page >= reusable_pages(seq):
                break
            start, found = missing_from(self._cache, seq, seq.route, page)
            if start != hop:
                break
            held = found[hop - 1]
            assert held is not None
            assert held.activation is not None
            hidden.append(held.activation)
            if not self._allocate(seq, page + 1, hop):
                hidden.pop()
                break
            self._hold(seq, found)
            if seq.trace is not None:
                seq.trace.found(page, found, seq.model, seq.tenant, whole=False)
        if not hidden:
            return None
        return self._work(seq, seq.computed, len(hidden) * PAGE_TOKENS, hop, torch.cat(hidden))

    def _work(self, seq: Sequence, start: int, count: int, hop: int, hidden: Tensor | None) -> Work:
        wants = 1 if start + count == len(seq.tokens) else 0
        if seq.prompt_logprobs is not None and not seq.reported:
            wants = count
        return Work(seq, seq.route, start, count, hop, hidden, wants, len(seq.route))

    def _hold(self, seq: Sequence, found: list[PageRun | None]) -> None:
        """Hold runs found in the cache as the next page of the lowest segments."""
        for hop, run in enumerate(found):
            if run is not None:
                seq.append_run(hop, self._cache.hold(run))

    def _allocate(self, seq: Sequence, pages: int, first_hop: int) -> bool:
        """Make sure a sequence holds ``pages`` page runs at every segment from ``first_hop`` up."""
        for hop, segment in enumerate(seq.route):
            if hop < first_hop or segment.pool is None:
                continue
            while len(seq.runs[hop]) < pages:
                run = self._cache.allocate(segment.pool, segment.kv_blocks, seq.tenant)
                if run is None:
                    return False
                seq.append_run(hop, run)
        return True

    def _copy_prefix(self, seq: Sequence) -> bool:
        """Write a prefix attachment's keys and values into the sequence's first pages. False where pages ran out."""
        assert seq.served is not None
        count = seq.served.virtual_tokens
        if not self._allocate(seq, -(-count // PAGE_TOKENS), 0):
            return False
        for hop, segment in enumerate(seq.route):
            layer = 0
            for link in segment.links:
                if link.kv_shape is None:
                    continue
                assert segment.pool is not None
                prefix = link.attached.prefix if link.attached is not None else None
                assert prefix is not None
                key, value = prefix
                for page in range(seq.computed // PAGE_TOKENS, -(-count // PAGE_TOKENS)):
                    rows = slice(page * PAGE_TOKENS, min((page + 1) * PAGE_TOKENS, count))
                    into = segment.pool.tensor[seq.runs[hop][page].pages[layer]]
                    into[0, :, : rows.stop - rows.start] = key[rows].transpose(0, 1)
                    into[1, :, : rows.stop - rows.start] = value[rows].transpose(0, 1)
                layer += 1
        seq.computed = count
        return True
