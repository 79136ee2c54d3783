"""An agent: holds segments of models, queues work for them, runs it in common batches, and sends it on.

It knows no processes and no sockets: messages come in by ``handle``, leave by ``outbox``, and each ``step`` runs one
batch. Every decision it takes is one of ``serving.policy``; the simulator takes the same ones.

Positions make work idempotent: rows that are computed again write the same keys and values. So whatever is lost (keys
and values, inputs, a whole agent) is made again by sending the same tokens once more, and no answer changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor

from quiltwork.core.errors import CapacityError, QuiltworkError
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.batches import Notes
from quiltwork.serving.agents.compute import Compute, Ran
from quiltwork.serving.agents.dispatching import Dispatcher
from quiltwork.serving.agents.layout import BlockSource, Layout, lay, let_go
from quiltwork.serving.agents.message import (
    FRONT,
    AskKV,
    Batches,
    Beat,
    DropState,
    Failed,
    Forget,
    Hop,
    Lack,
    Laid,
    Lay,
    Message,
    Output,
    Pages,
    Release,
    Run,
    Standings,
    Stop,
    with_hop,
    with_spent,
)
from quiltwork.serving.agents.pages import put_pages, read_pages
from quiltwork.serving.agents.scaling import label
from quiltwork.serving.agents.session import (
    Move,
    Session,
    allocate,
    copy_prefix,
    drop,
    needs_bytes,
    note_hashes,
    open_session,
    take_cached,
)
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Handlings, Timing
from quiltwork.serving.execute import Work, publish
from quiltwork.serving.kv import KVCache
from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.kv import KVChoice
from quiltwork.serving.policy.queueing import Instance, Waiting, WorkClass, next_batch, queue_seconds, ration
from quiltwork.serving.schedule import in_whole_pages
from quiltwork.serving.spare import return_freed_memory
from quiltwork.serving.weights import Library

WAITS_KEPT = 256


@dataclass
class _Queued:
    run: Run
    since: float
    ready: bool = True
    """False while its pages are on their way."""


@dataclass
class _Item:
    """A piece of work in a batch."""

    run: Run
    session: Session
    work: Work
    since: float
    reused: int


@dataclass
class _Instance:
    """What one instance has done, for its metrics."""

    rows: int = 0
    batches: int = 0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=WAITS_KEPT))


class Agent:
    """One agent's state and its reactions.

    Parameters
    ----------
    name : unique among the agents of a front.
    library : weights in memory. cache : pages. compute : runs works, really or by waiting as long.
    source : where chains and tensors are read.
    clock : seconds.
    memory_bytes : for weights and pages together; None leaves the cache its own capacity.
    """

    def __init__(
        self,
        name: str,
        library: Library,
        cache: KVCache,
        compute: Compute,
        source: BlockSource,
        clock: Callable[[], float],
        settings: AgentSettings | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.name, self.library, self.cache, self.clock = name, library, cache, clock
        self.settings = settings or AgentSettings()
        self.timing = Timing(self.settings.profiles)
        self.outbox: deque[tuple[str, Message]] = deque()
        self.stopping = False
        self._compute, self._source, self._memory_bytes = compute, source, memory_bytes
        self._dispatcher = Dispatcher(name, self.settings, self.timing, clock)
        self._notes = Notes(name, clock) if self.settings.log_batches else None
        if self._notes is not None:
            compute.watch = self._notes.watch
        self._layouts: dict[int, Layout] = {}
        self._forgotten: set[int] = set()
        self._sessions: dict[int, Session] = {}
        self._queue: dict[int, _Queued] = {}
        self._ids = count(1)
        self._instances: dict[Instance, _Instance] = {}
        self._busy_until = 0.0
        """When what is being computed should be done."""
        self._steps = self._hops = self._moves = self._moved_bytes = self._recomputed = self._dropped = 0
        self._busy_s = 0.0
        self._handlings = Handlings()
        self._move_s = self._expected_s = 0.0
        self._giving: deque[tuple[str, Iterator[Pages]]] = deque()

    # --- what comes in ------------------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """React to a message. Raises QuiltworkError where it is not for agents."""
        match message:
            case Run():
                self._arrive(message)
            case Release():
                self._release(message.request)
            case DropState():
                self._drop_state(message.request)
            case AskKV():
                self._give_pages(message)
            case Pages():
                self._take_pages(message)
            case Lay():
                self._lay(message)
            case Forget():
                self._forgotten.add(message.layout)
                self._forget()
            case Standings():
                self._dispatcher.standings = message
            case Stop():
                self.stopping = True
            case _:
                raise QuiltworkError(f"{type(message).__name__} is not for agents", where=self.name)

    def complain(self, error: QuiltworkError) -> None:
        """Let the front know of a message that made no sense."""
        self._send(FRONT, Failed(self.name, 0, 0, str(error)))

    def _send(self, to: str, message: Message) -> None:
        self.outbox.append((to, message))

    def _lack(self, run: Run, segment: int, *, everything: bool = False) -> None:
        self._send(FRONT, Lack(run.request, run.epoch, segment, everything))

    def _lay(self, message: Lay) -> None:
        present = self._layouts.get(message.layout)
        mine = {i for i, holders in enumerate(message.holders) if self.name in holders}
        if present is not None and mine == set(present.loaded):
            present.cut = replace(present.cut, holders=message.holders)
            self._laid(present)
            return
        try:
            layout = lay(message, self.name, self.library, self.cache, self._source)
            self._share_memory(layout)
        except QuiltworkError as error:
            self._send(FRONT, Laid(message.layout, self.name, self.library.nbytes, str(error)))
            return
        if present is not None:
            for session in [s for s in self._sessions.values() if s.layout is present]:
                self._release(session.seq.id)
            let_go(present.loaded, self.library)
        self._layouts[message.layout] = layout
        self._laid(layout)

    def _share_memory(self, layout: Layout | None = None) -> None:
        """Leave the pages what weights do not take: the youngest requests give theirs back where that is less than
        they hold. Raises CapacityError, having let go of ``layout``, where weights leave nothing."""
        if self._memory_bytes is None:
            return
        room = self._memory_bytes - self.library.nbytes
        if room < 1 and layout is not None:
            let_go(layout.loaded, self.library)
            raise CapacityError(
                f"{self.name} has {self._memory_bytes} bytes, which its part does not fit", hint="raise --memory"
            )
        while self.cache.held_bytes > max(room, 0):
            self._make_room()
        self.cache.shrink_to(max(room, self.cache.held_bytes))

    def _laid(self, layout: Layout) -> None:
        self._send(FRONT, Laid(layout.id, self.name, self.library.nbytes, "", layout.page_bytes))

    def _forget(self) -> None:
        """Let go of layouts that nobody uses any more."""
        used = {session.layout.id for session in self._sessions.values()}
        for id in [id for id in self._forgotten if id not in used]:
            self._forgotten.discard(id)
            layout = self._layouts.pop(id, None)
            if layout is not None:
                let_go(layout.loaded, self.library)
                return_freed_memory()
                self._share_memory()

    def _release(self, request: int) -> None:
        for id in [id for id, queued in self._queue.items() if queued.run.request == request]:
            del self._queue[id]
        session = self._sessions.pop(request, None)
        if session is not None:
            drop(session, self.cache)
        if self._forgotten:
            self._forget()

    def _drop_state(self, request: int) -> None:
        """Lose what is held for a request; work for it that waits here has to come again."""
        runs = [queued.run for queued in self._queue.values() if queued.run.request == request]
        self._release(request)
        for run in runs:
            self._lack(run, run.segment)

    def _arrive(self, run: Run) -> None:
        layout = self._layouts.get(run.layout)
        if layout is None or not layout.holds(run.segment):
            self._lack(run, run.segment)
            return
        session = self._sessions.get(run.request)
        if session is not None and session.layout is not layout:
            self._release(run.request)
            session = None
        if session is None:
            session = self._sessions[run.request] = open_session(run, layout, next(self._ids))
        if run.epoch < session.epoch:
            return
        if run.epoch > session.epoch:
            session.epoch = run.epoch
            session.coming.clear()
            for id in [id for id, queued in self._queue.items() if queued.run.request == run.request]:
                del self._queue[id]
        session.last_used = self.clock()
        session.certain = run.certain
        if session.guesses:
            self._settle(session, run)
        if run.fetch_from is not None and session.has(run.segment) < run.start:
            run = self._fetch(session, run)
        self._recomputed += run.kv == KVChoice.RECOMPUTE
        ready = run.segment not in session.coming
        self._queue[next(self._ids)] = _Queued(run, self.clock(), ready)

    def _settle(self, session: Session, run: Run) -> None:
        """Take in what the front made of guesses that were computed here."""
        for segment, owner in enumerate(run.visited):
            if segment >= run.segment or owner != self.name:
                session.settle(segment, run.settled, mine=owner == self.name)
        session.guesses = session.ahead != session.computed

    def _fetch(self, session: Session, run: Run) -> Run:
        """Ask for the pages of the segments that this agent takes over; the work, with them as its own."""
        self._moves += 1
        segments = range(run.segment, run.fetch_upto)
        session.coming |= dict.fromkeys(segments, 0)
        ask = AskKV(run.request, run.epoch, (segments.start, segments.stop), run.start, self.name)
        owner, now = run.fetch_from or FRONT, self.clock()
        nbytes = run.start * sum(session.layout.cut.kv_bytes[i] for i in segments)
        link_s = self.settings.link(owner, self.name).seconds(nbytes)
        session.move = Move(now, link_s, link_s + self._handlings.now(now).seconds(nbytes))
        self._send(owner, ask)
        visited = tuple(self.name if i in segments else owner for i, owner in enumerate(run.visited))
        return replace(run, visited=visited)

    # --- pages from one agent to another ------------------------------------------------------------------------

    def _give_pages(self, ask: AskKV) -> None:
        session = self._sessions.get(ask.request)
        if session is not None:
            session.last_used = self.clock()
        for segment in range(*ask.segments):
            if session is not None and session.guesses and ask.epoch >= session.epoch:
                session.settle(segment, ask.tokens, mine=True)
            self._giving.append((ask.to, read_pages(session, ask, segment)))

    def give(self) -> bool:
        """Put the next piece of pages that were asked for into the outbox; whether there was one.

        The caller sends it, and calls again until there is none, before the next message: one piece is on its way
        while the next is read.
        """
        while self._giving:
            to, pieces = self._giving[0]
            piece = next(pieces, None)
            if piece is not None:
                self._send(to, piece)
                return True
            self._giving.popleft()
        return False

    def _take_pages(self, pages: Pages) -> None:
        session = self._sessions.get(pages.request)
        if session is None or pages.epoch != session.epoch:
            return
        complete = put_pages(session, self.cache, pages)
        self._moved_bytes += pages.rows.numel() * pages.rows.element_size()
        waiting = [
            (id, queued)
            for id, queued in self._queue.items()
            if queued.run.request == pages.request and queued.run.segment == pages.segment and not queued.ready
        ]
        for id, queued in waiting:
            if complete:
                queued.ready = True
            elif complete is None:
                # Whoever made the inputs has them, or the front has the tokens: it is computed again.
                del self._queue[id]
                self._lack(queued.run, pages.segment)
        if complete is None:
            session.coming.pop(pages.segment, None)
            session.move = None
        elif session.move is not None:
            session.move.nbytes += pages.rows.numel() * pages.rows.element_size()
            if not session.coming:
                self._moved(session.move)
                session.move = None

    def _moved(self, move: Move) -> None:
        """Learn what a move took."""
        now = self.clock()
        self._move_s += now - move.asked
        self._expected_s += move.expected_s
        self._handlings.learn(move.nbytes, now - move.asked - move.link_s, now)

    # --- one step -----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether a step would run something."""
        return any(queued.ready for queued in self._queue.values())

    def step(self, run: Callable[[Callable[[], Ran]], Ran] = lambda job: job()) -> int:
        """Run the most urgent work as far as it goes here, all of it in common batches; how many pieces were run.

        run : does the arithmetic; while it does, ``handle`` may be called for requests for pages, and nothing else.
        """
        now = self.clock()
        items = self._batch(now)
        if not items:
            return 0
        self._busy_until = now + self._expected(items)
        try:
            outputs = _outputs(run(lambda: self._arithmetic([item.work for item in items])))
        except Exception as error:  # noqa: BLE001  whoever waits for these must learn of it, and others go on
            for item in items:
                self._release(item.run.request)
                self._send(
                    FRONT, Failed(self.name, item.run.request, item.run.epoch, f"{type(error).__name__}: {error}")
                )
            return len(items)
        for item in items:
            keep_pages(self.cache, item)
        self._busy_until = ended = self.clock()
        self._account(items, now, ended)
        for item in items:
            end = item.work.start + item.work.count
            for segment in range(item.run.segment, item.work.stop):
                item.session.ran(segment, end)
            hop = Hop(self.name, (item.run.segment, item.work.stop), _choice(item.run), now - item.since, ended - now,
                      sum(other.work.count for other in items), len(items),
                      len({other.run.layout for other in items}))  # fmt: skip
            self._send_on(item, outputs.get(id(item.work), torch.empty(0)), hop)
        self._trim_history()
        return len(items)

    @torch.inference_mode()
    def _arithmetic(self, works: list[Work]) -> Ran:
        return self._compute.run(works)

    def _batch(self, now: float) -> list[_Item]:
        waiting = self._ready()
        free = self.cache.free_bytes
        if any(w.kv_bytes > free and self._queue[w.id].run.request > 0 for w in waiting) and self._drop_drafts():
            waiting = self._ready()
        rations = self._rations(waiting)
        waiting = [replace(w, rows=rations[w.id]) if w.id in rations else w for w in waiting]
        chosen = next_batch(waiting, self.settings.limits, now, free_kv_bytes=self.cache.free_bytes)
        if waiting and not chosen:
            self._make_room()
            return []
        items: list[_Item] = []
        for id in chosen:
            queued = self._queue.get(id)
            if queued is None or any(item.run.request == queued.run.request for item in items):
                continue  # released meanwhile, or its earlier rows are in this very batch
            del self._queue[id]
            item = self._item(queued, rations.get(id))
            if item is not None:
                items.append(item)
        return items

    def _rations(self, waiting: Sequence[Waiting]) -> dict[int, int]:
        """Rows that pieces of prompts are cut to, by id: the front sends what is left of them again.

        Rows that are on their way up the chain stay together, and so do those that make lost state again.
        """
        if self.settings.slack == float("inf") or not any(w.work_class is WorkClass.PREFILL for w in waiting):
            return {}
        profiles: dict[Instance, SegmentProfile] = {}
        for w in waiting:
            run = self._queue[w.id].run
            if w.instance not in profiles:
                known = self.timing.known(self._sessions[run.request].layout.cut, run.segment)
                profiles |= {w.instance: known} if known is not None else {}
        whole = {w.id: self._queue[w.id].run for w in waiting}
        return {
            id: in_whole_pages(whole[id].start, rows)
            for id, rows in ration(waiting, profiles, self.settings.slack).items()
            if rows < whole[id].rows.shape[0] and whole[id].request > 0
            if whole[id].segment == 0 and whole[id].start == whole[id].settled
        }

    def _ready(self) -> list[Waiting]:
        return [self._waiting(id, queued) for id, queued in self._queue.items() if queued.ready]

    def _waiting(self, id: int, queued: _Queued) -> Waiting:
        run = queued.run
        session = self._sessions[run.request]
        need = needs_bytes(session, range(run.segment, self._stop(session, run)), run.start + run.rows.shape[0])
        instance = session.layout.route[run.segment].key
        return Waiting(id, instance, WorkClass(run.work_class), run.rows.shape[0], queued.since, need)

    def _expected(self, items: list[_Item]) -> float:
        """Seconds that a step of these should take."""
        rows: dict[Instance, int] = {}
        profiles: dict[Instance, SegmentProfile] = {}
        for item in items:
            cut = item.session.layout.cut
            for segment in range(item.run.segment, item.work.stop):
                key = cut.keys[segment]
                rows[key] = rows.get(key, 0) + item.work.count
                profiles[key] = self.timing.of(cut, segment)
        return queue_seconds(rows, profiles, max(rows.values()))

    def _stop(self, session: Session, run: Run) -> int:
        """Index behind the last segment that this work runs through here."""
        stop = run.segment + 1
        while stop < len(session.layout.route) and session.layout.holds(stop):
            owner = run.visited[stop]
            if owner is None and run.settled > run.first:
                break  # its state has to be made again from the first token on
            if owner not in (None, self.name) or session.has(stop) < run.start or stop in session.coming:
                break
            stop += 1
        return stop

    def _item(self, queued: _Queued, most: int | None) -> _Item | None:
        """The work to run, ``most`` rows of it at the most; None where it cannot be: then the front knows."""
        run = queued.run
        session = self._sessions[run.request]
        seq, layout = session.seq, session.layout
        stop = self._stop(session, run)
        if layout.copies_prefix and not all(
            seq.runs[i] or not layout.route[i].kv_blocks or copy_prefix(session, self.cache, i)
            for i in range(run.segment, stop)
        ):
            self._give_up(run)
            return None
        if session.has(run.segment) < run.start:
            self._lack(run, run.segment)
            return None
        note_hashes(session, run)
        reused = 0
        if stop == len(layout.route) and run.segment == 0:
            # Nobody waits for the rows of pages that are here already.
            reused = take_cached(session, self.cache, run)
            run = replace(run, rows=run.rows[reused:], start=run.start + reused)
            if not run.rows.shape[0]:
                here = (self.name,) * len(layout.route)
                self._send(FRONT, Output(run.request, run.epoch, run.start, here, torch.empty(0), reused, run.path))
                return None
        if most is not None and most < run.rows.shape[0]:
            run = replace(run, rows=run.rows[:most], wants=max(run.wants - run.rows.shape[0] + most, 0))
        end = run.start + run.rows.shape[0]
        if not allocate(session, self.cache, range(run.segment, stop), end):
            self._give_up(run)
            return None
        hidden = None
        if run.segment == 0:
            seq.tokens.extend([0] * max(run.start - len(seq.tokens), 0))
            seq.tokens[run.start : end] = run.rows.tolist()
        else:
            hidden = run.rows.to(self.cache.device)
        wants = run.wants if stop == len(layout.route) else 0
        work = Work(seq, layout.route, run.start, run.rows.shape[0], run.segment, hidden, wants, stop)
        return _Item(run, session, work, queued.since, reused)

    def _give_up(self, run: Run) -> None:
        """Memory ran out for a request: it starts afresh when there is some."""
        self._dropped += 1
        self._release(run.request)
        self._lack(run, run.segment, everything=True)

    def _make_room(self) -> None:
        """No waiting work finds pages: the youngest request gives its own back and starts afresh when there is room.

        So the oldest always goes on, and requests do not take pages from each other in turn.
        """
        if self._drop_drafts():
            return
        self._dropped += 1
        youngest = max(
            request
            for request, session in self._sessions.items()
            if any(session.seq.runs) or any(q.run.request == request for q in self._queue.values())
        )
        epoch = self._sessions[youngest].epoch
        self._release(youngest)
        self._send(FRONT, Lack(youngest, epoch, 0, True))

    def _drop_drafts(self) -> bool:
        """Have all requests that draft for others give their pages back. False where there is none."""
        drafts = [(id, session.epoch) for id, session in self._sessions.items() if id < 0]
        for id, epoch in drafts:
            self._release(id)
            self._send(FRONT, Lack(id, epoch, 0, True))
        return bool(drafts)

    def _send_on(self, item: _Item, rows: Tensor, hop: Hop) -> None:
        """Rows that left here: to the front at the end of the chain, else to whom the next segment is best run by."""
        run, session, stop = item.run, item.session, item.work.stop
        visited = tuple(self.name if run.segment <= i < stop else owner for i, owner in enumerate(run.visited))
        path, spent = with_hop(run, hop), with_spent(run, session.seq.spent)
        session.seq.spent.clear()
        end = item.work.start + item.work.count
        if stop == len(session.layout.route):
            self._send(FRONT, Output(run.request, run.epoch, end, visited, rows.float(), item.reused, path, spent))
            return
        history = session.history(stop)
        history.put(item.work.start - run.first, rows)
        moved = replace(run, segment=stop, visited=visited, path=path, spent=spent, fetch_from=None, fetch_upto=0)
        target = self._dispatcher.next(session.layout.cut, moved, history.rows >= end - run.first)
        if target is None:
            self._lack(run, stop, everything=history.rows < end - run.first)
            return
        moved = replace(moved, kv=str(target.kv))
        if target.kv is KVChoice.RECOMPUTE:
            moved = replace(moved, rows=history.upto(end - run.first), start=run.first)
        else:
            skip = max(run.settled - item.work.start, 0)
            moved = replace(moved, rows=rows[skip:], start=item.work.start + skip)
        if target.kv is KVChoice.MOVE:
            owner = visited[stop]
            upto = self._dispatcher.span(session.layout.cut, stop, target.agent, owner, visited)
            moved = replace(moved, fetch_from=owner, fetch_upto=upto)
        if target.agent == self.name:
            self._arrive(moved)
        else:
            self._send(target.agent, moved)

    def _trim_history(self) -> None:
        """Keep what left here within its budget: whoever has rested longest loses it first."""
        total = sum(s.history_bytes for s in self._sessions.values())
        for session in sorted(self._sessions.values(), key=lambda s: (s.last_used, s.seq.id)):
            if total <= self.settings.history_bytes:
                return
            total -= session.history_bytes
            session.left.clear()

    # --- how it stands ------------------------------------------------------------------------------------------

    def _account(self, items: list[_Item], began: float, ended: float) -> None:
        self._steps += 1
        self._hops += len(items)
        self._busy_s += ended - began
        records = self._compute.records
        blocks = sum(record.blocks for record in records)
        if blocks:
            rows = sum(record.rows * record.blocks for record in records) // blocks
            self.timing.learn(rows, blocks, ended - began)
        ran: set[Instance] = set()
        for item in items:
            route = item.session.layout.route
            for segment in range(item.run.segment, item.work.stop):
                key = route[segment].key
                ran.add(key)
                self._instances.setdefault(key, _Instance()).rows += item.work.count
            self._instances[route[item.run.segment].key].waits.append(began - item.since)
        for key in ran:
            self._instances[key].batches += 1

    def batches(self) -> Batches | None:
        """What the batches since the last call held, where that is logged; None where there were none."""
        return self._notes.letter() if self._notes is not None else None

    def beat(self) -> Beat:
        """A sign of life, and how it stands."""
        waiting: dict[Instance, int] = {}
        profiles: dict[Instance, SegmentProfile] = {}
        for queued in self._queue.values():
            layout = self._sessions[queued.run.request].layout
            key = layout.route[queued.run.segment].key
            waiting[key] = waiting.get(key, 0) + queued.run.rows.shape[0]
            profiles.setdefault(key, self.timing.of(layout.cut, queued.run.segment))
        now = self.clock()
        handling = self._handlings.now(now)
        return Beat(
            agent=self.name,
            queue_s=max(self._busy_until - now, 0.0) + queue_seconds(waiting, profiles, self.settings.limits.rows),
            waiting=len(self._queue),
            kv_free=self.cache.free_bytes,
            kv_capacity=self.cache.capacity,
            weight_bytes=self.library.nbytes,
            steps=self._steps,
            hops=self._hops,
            prefill_token_layers=self._compute.prefill_token_layers,
            kv_moved_bytes=self._moved_bytes,
            kv_moves=self._moves,
            kv_recomputed=self._recomputed,
            kv_dropped=self._dropped,
            busy_s=self._busy_s,
            kv_move_s=self._move_s,
            kv_expected_s=self._expected_s,
            handling=(handling.fixed_s, handling.byte_s),
            queues={
                label(key): {
                    "waiting_rows": float(waiting.get(key, 0)),
                    "rows": float(counts.rows),
                    "batches": float(counts.batches),
                    "wait_p95_s": sorted(counts.waits)[int(0.95 * (len(counts.waits) - 1))] if counts.waits else 0.0,
                }
                for key, counts in self._instances.items()
            },
            batches=tuple((r.blocks, r.rows, r.sequences, r.models) for r in self._compute.records),
        )


def _outputs(done: list[tuple[list[Work], Tensor]]) -> dict[int, Tensor]:
    """Each work's own rows, by the identity of the work."""
    found: dict[int, Tensor] = {}
    for group, rows in done:
        at = 0
        for work in group:
            size = work.wants if work.stop == len(work.route) else work.count
            found[id(work)] = rows[at : at + size]
            at += size
    return found


def keep_pages(cache: KVCache, item: _Item) -> None:
    """Make whole pages that this work completed findable for requests that begin alike."""
    # From the first page on that is new to this work: guesses before its rows have proved right since.
    first = min(item.work.start // PAGE_TOKENS, item.run.hashes_from)
    end = (item.work.start + item.work.count) // PAGE_TOKENS
    for segment in range(item.run.segment, item.work.stop):
        publish(cache, item.session.seq, item.session.layout.route[segment], segment, first, end)


def _choice(run: Run) -> str:
    """How a piece of work got at its keys and values."""
    if run.kv in (KVChoice.MOVE, KVChoice.RECOMPUTE):
        return run.kv
    return str(KVChoice.OWNER if run.settled > run.first else KVChoice.NONE)
