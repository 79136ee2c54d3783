"""A request as one agent knows it: pages at its segments, and what left them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.layout import Layout
from quiltwork.serving.agents.message import Run
from quiltwork.serving.execute import chain_key
from quiltwork.serving.kv import KVCache
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence


class History:
    """What left an agent for a request, row by row from its first token on: the inputs of whoever must start afresh."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []
        self.rows = 0
        self.nbytes = 0

    def put(self, at: int, rows: Tensor) -> None:
        """Keep rows from row ``at`` on. A gap before them makes what is kept worthless, and it is let go."""
        if at > self.rows:
            self.clear()
            return
        self.cut(at)
        self._append(rows)

    def cut(self, count: int) -> None:
        """Forget all rows but the first ``count``."""
        while self.rows > max(count, 0):
            last = self._pieces.pop()
            self.rows -= last.shape[0]
            self.nbytes -= last.numel() * last.element_size()
            if self.rows < count:
                self._append(last[: count - self.rows])

    def _append(self, rows: Tensor) -> None:
        self._pieces.append(rows)
        self.rows += rows.shape[0]
        self.nbytes += rows.numel() * rows.element_size()

    def upto(self, count: int) -> Tensor:
        """(count, d): the first rows. The caller has checked that there are as many."""
        if len(self._pieces) > 1:
            self._pieces = [torch.cat(self._pieces)]
        return self._pieces[0][:count] if self._pieces else torch.empty(0)

    def clear(self) -> None:
        """Let go of everything."""
        self._pieces = []
        self.rows = self.nbytes = 0


@dataclass
class Move:
    """Keys and values on their way here."""

    asked: float
    """When."""
    link_s: float
    """Seconds that the link alone takes."""
    expected_s: float
    """Seconds that all of it was expected to take."""
    nbytes: int = 0
    """Arrived so far."""


@dataclass(eq=False)
class Session:
    """Pages, progress and history of one request at one agent."""

    seq: Sequence
    layout: Layout
    first: int
    computed: list[int]
    """Per segment, tokens whose keys and values are here (or were never needed, where a segment keeps none)."""
    ahead: list[int]
    """The same with tokens that were only guessed when they were computed; never more after the front refused them."""
    epoch: int = 0
    coming: dict[int, int] = field(default_factory=dict)
    """Per segment whose pages are on their way, the number of the next one."""
    move: Move | None = None
    """What they are on their way by."""
    left: dict[int, History] = field(default_factory=dict)
    """Per segment index that was entered elsewhere next, what was sent there."""
    last_used: float = 0.0
    certain: int | None = None
    """Position from which on tokens are guesses, as far as is known; None where none is."""
    guesses: bool = False
    """Whether anything here was computed of guesses that may yet be refused."""

    def has(self, segment: int) -> int:
        """Tokens whose state a segment has here; one that keeps none lacks nothing."""
        if self.layout.cut.kv_bytes[segment] == 0:
            return 1 << 60
        return max(self.computed[segment], self.ahead[segment], self.first)

    def ran(self, segment: int, end: int) -> None:
        """All rows up to ``end`` are here now, the last ones maybe of guesses."""
        self.computed[segment] = max(self.computed[segment], self._without_guesses(end))
        self.ahead[segment] = max(end, self.computed[segment])
        self.guesses = self.guesses or self.ahead[segment] > self.computed[segment]

    def settle(self, segment: int, tokens: int, *, mine: bool) -> None:
        """The front goes on from ``tokens``. What was computed here of guesses before that was right where this is
        whose state the front goes on with (``mine``); all else of guesses is forgotten. Harmless if repeated."""
        if mine:
            right = min(self.ahead[segment], self._without_guesses(tokens))
            self.computed[segment] = max(self.computed[segment], right)
            self.ahead[segment] = max(min(self.ahead[segment], tokens), self.computed[segment])
        else:
            self.ahead[segment] = self.computed[segment]
        if segment + 1 in self.left:
            self.left[segment + 1].cut(self.ahead[segment] - self.first)

    def _without_guesses(self, end: int) -> int:
        return end if self.certain is None else min(end, self.certain)

    @property
    def history_bytes(self) -> int:
        """Bytes of hidden state kept."""
        return sum(history.nbytes for history in self.left.values())

    def history(self, segment: int) -> History:
        """What entered ``segment``, from here."""
        return self.left.setdefault(segment, History())


def open_session(run: Run, layout: Layout, opened: int) -> Session:
    """A session without any state; ``opened`` sets it apart from earlier ones of the same request."""
    seq = Sequence(
        id=run.request,
        model=layout.chain.model.ref,
        prompt=[],
        sampler=SamplerState(SamplingOptions()),
        max_tokens=0,
        adapter_scale=run.scale,
        state_options=dict(run.options),
    )
    seq.take_route(layout.route)
    seq.departures = opened
    seq.prompt_len = run.prompt_len
    return Session(seq, layout, run.first, [0] * len(layout.route), [0] * len(layout.route), run.epoch)


def allocate(session: Session, cache: KVCache, segments: range, tokens: int) -> bool:
    """Make sure that pages for ``tokens`` tokens are held at the segments here. False where memory ran out."""
    pages = -(-tokens // PAGE_TOKENS)
    for index in segments:
        segment = session.seq.route[index]
        if segment.pool is None:
            continue
        while len(session.seq.runs[index]) < pages:
            run = cache.allocate(segment.pool, segment.kv_blocks)
            if run is None:
                return False
            session.seq.append_run(index, run)
    return True


def note_hashes(session: Session, run: Run) -> None:
    """Learn what is in the pages that a piece of work completes, so that others can find them."""
    known, page = session.seq.page_hashes, run.hashes_from
    if page <= len(known):
        known[page : page + len(run.hashes)] = [bytes.fromhex(text) for text in run.hashes]


def take_cached(session: Session, cache: KVCache, run: Run) -> int:
    """Take whole pages that somebody computed already, for work that runs through the whole chain here.

    Returns the rows that need not be computed; the last one always is where its logits are wanted.
    """
    if run.start % PAGE_TOKENS or run.wants > 1:
        return 0
    seq, route, spared = session.seq, session.layout.route, 0
    keeping = [i for i, segment in enumerate(route) if segment.kv_blocks]
    while run.rows.shape[0] - spared >= PAGE_TOKENS + run.wants:
        page = (run.start + spared) // PAGE_TOKENS
        if page >= len(seq.page_hashes) or any(len(seq.runs[i]) != page for i in keeping):
            break
        cache.counters.queries += 1
        found = [cache.find((seq.page_hashes[page], chain_key(seq, route[i]))) for i in keeping]
        held = [run for run in found if run is not None]
        if len(held) < len(keeping):
            break
        cache.counters.hits += 1
        for i, pages in zip(keeping, held, strict=True):
            seq.append_run(i, cache.hold(pages))
            session.computed[i] = (page + 1) * PAGE_TOKENS
        spared += PAGE_TOKENS
    return spared


def needs_bytes(session: Session, segments: range, tokens: int) -> int:
    """Bytes of new pages for ``tokens`` tokens in all at the segments here."""
    pages = -(-tokens // PAGE_TOKENS)
    sizes = session.layout.page_bytes
    return sum(max(pages - len(session.seq.runs[i]), 0) * sizes[i] for i in segments)


def copy_prefix(session: Session, cache: KVCache, segment: int) -> bool:
    """Write a prefix attachment's keys and values into a segment's first pages. False where memory ran out."""
    layout, seq = session.layout, session.seq
    count = layout.virtual_tokens
    if not allocate(session, cache, range(segment, segment + 1), count):
        return False
    here, layer = layout.route[segment], 0
    for link in here.links:
        if link.kv_shape is None:
            continue
        assert here.pool is not None
        prefix = link.attached.prefix if link.attached is not None else None
        assert prefix is not None
        key, value = prefix
        for page in range(-(-count // PAGE_TOKENS)):
            rows = slice(page * PAGE_TOKENS, min((page + 1) * PAGE_TOKENS, count))
            into = here.pool.tensor[seq.runs[segment][page].pages[layer]]
            into[0, :, : rows.stop - rows.start] = key[rows].transpose(0, 1)
            into[1, :, : rows.stop - rows.start] = value[rows].transpose(0, 1)
        layer += 1
    session.computed[segment] = count
    return True


def drop(session: Session, cache: KVCache) -> None:
    """Give everything back."""
    for index in range(len(session.seq.runs)):
        drop_segment(session, cache, index)
    session.left.clear()
    session.coming.clear()


def drop_segment(session: Session, cache: KVCache, segment: int) -> None:
    """Give back the pages at one segment."""
    for run in reversed(session.seq.runs[segment]):
        cache.release(run)
    session.seq.runs[segment] = []
    session.computed[segment] = session.ahead[segment] = 0
