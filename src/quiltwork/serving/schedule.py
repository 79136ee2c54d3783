"""What to compute in the next step: a pure decision over plain numbers.

Decoding sequences go first (a token each, oldest first), then prompt chunks, then new arrivals, within a token budget
and the pages that are free. Where pages run out the youngest sequence gives its pages back and is recomputed later, so
the oldest always advances: there is no deadlock and no request fails for want of memory.

Among several tenants the one that was served least comes first, and pages are given back by the one beyond its quota,
else by the one served most, each time by its youngest sequence (see ``fairness``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.serving.fairness import EQUALS, Standings, Turns, ranked

PAGE = 16


@dataclass(frozen=True)
class Job:
    """What the decision needs to know of a sequence."""

    id: int
    pending: int
    """Tokens known but not yet computed; 1 while decoding."""
    computed: int
    """Tokens whose keys and values are held."""
    page_bytes: int
    """Bytes of one page of tokens over all blocks of its chain."""
    tenant: str = ""
    """Who pays for it."""

    def needs(self, tokens: int) -> int:
        """Bytes of new pages for the next ``tokens`` tokens."""
        held = -(-self.computed // PAGE)
        return (-(-(self.computed + tokens) // PAGE) - held) * self.page_bytes

    @property
    def holds(self) -> int:
        """Bytes of the pages it holds, shared ones included."""
        return -(-self.computed // PAGE) * self.page_bytes


@dataclass(frozen=True)
class Limits:
    """What one step may take."""

    sequences: int
    step_tokens: int
    prefill_chunk: int


@dataclass(frozen=True)
class Plan:
    """What the step does: chunks of (job id, tokens), and who gives pages back first."""

    chunks: tuple[tuple[int, int], ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]
    yielding: tuple[int, ...] = ()
    """Job ids in the order in which they would give way if pages ran out after all; none before those behind it."""


def plan(
    running: Sequence[Job], waiting: Sequence[Job], free_bytes: int, limits: Limits, standings: Standings = EQUALS
) -> Plan:
    """Decide the next step.

    Parameters
    ----------
    running : jobs that hold pages, oldest first.
    waiting : jobs that hold none, each tenant's in the order they are to start; as many as have a seat are enough.
    free_bytes : bytes of pages that nobody holds (evictable ones included).
    """
    chunks: list[tuple[int, int]] = []
    taken: dict[int, tuple[int, int]] = {}
    """By job: bytes and tokens that its chunk takes; both come back with who is dropped after all."""
    preempted: list[Job] = []
    budget = limits.step_tokens
    alive, beyond = ranked(running, standings)
    several = len({job.tenant for job in (*running, *waiting)}) > 1

    def drop_last() -> None:
        nonlocal free_bytes, budget
        victim = alive.pop()
        preempted.append(victim)
        need, tokens = taken.pop(victim.id, (0, 0))
        free_bytes += victim.holds + need
        budget += tokens

    def advance(job: Job) -> int:
        """Give a running job its chunk, at the expense of those ranked behind it; the tokens, 0 where it waits."""
        nonlocal free_bytes, budget
        tokens = _chunk(job, min(limits.prefill_chunk, budget))
        need = job.needs(tokens)
        while need > free_bytes and alive and alive[-1] is not job:
            drop_last()
        if need > free_bytes:
            if not alive or alive[0] is job:  # otherwise one before it holds the pages; wait for it
                preempted.append(job)
                alive.remove(job)
            return 0
        free_bytes -= need
        chunks.append((job.id, tokens))
        taken[job.id] = need, tokens
        budget -= tokens
        return tokens

    decoding = [job for job in alive if job.pending == 1]
    prefilling = [job for job in running if job.pending > 1]
    # One tenant's answers must not keep another one's prompt waiting for ever.
    first = max(budget - PAGE, 1) if several and prefilling and len(decoding) >= budget else len(decoding)
    for job in decoding[:first]:
        if job not in preempted and budget > 0:
            advance(job)

    pressed = bool(preempted)
    seats = limits.sequences - len(alive)
    admitted: list[int] = []
    left = {job.id: job for job in prefilling}
    turns = Turns(prefilling, waiting, standings)
    while budget > 0 and (turn := turns.take(newcomers=not pressed)) is not None:
        job, new = turn
        if not new:
            del left[job.id]
            before = len(preempted)
            if job not in preempted:
                turns.give(job, advance(job), new=False)
            pressed = pressed or len(preempted) > before
            continue
        # A newcomer starts only where its whole prompt fits, so that it does not evict itself half-way.
        need = job.needs(job.pending)
        spoken_for = sum(j.needs(_chunk(j, limits.prefill_chunk)) for j in left.values() if j not in preempted)
        if seats > 0 and standings.within_quota(job.tenant, need):
            lent = sum(j.holds for j in alive if j.id in beyond)
            while free_bytes < need + spoken_for <= free_bytes + lent:
                lent -= alive[-1].holds
                drop_last()
        if seats <= 0 or need + spoken_for > free_bytes:
            pressed = True
            continue
        tokens = _chunk(job, min(limits.prefill_chunk, budget))
        free_bytes -= need
        admitted.append(job.id)
        chunks.append((job.id, tokens))
        budget -= tokens
        seats -= 1
        turns.give(job, tokens, new=True)
    for job in decoding[first:]:
        if job not in preempted and budget > 0:
            advance(job)

    dropped = {job.id for job in preempted}
    return Plan(
        tuple((id, tokens) for id, tokens in chunks if id not in dropped),
        tuple(admitted),
        tuple(job.id for job in preempted),
        (*reversed(admitted), *(job.id for job in reversed(alive))),
    )


def _chunk(job: Job, most: int) -> int:
    """Tokens to compute of a job, at most ``most``; up to a page's end, so that whole pages can be shared."""
    tokens = min(job.pending, most)
    if tokens < job.pending:
        tokens = in_whole_pages(job.computed, tokens)
    return tokens


def in_whole_pages(start: int, count: int) -> int:
    """So many of ``count`` rows from ``start`` on that a page is complete with them; a page of rows at the least."""
    return max((start + count) // PAGE * PAGE - start, min(count, PAGE))


SHARED_READ = 32 << 20
"""Bytes of weights from which reading them gains by more than one thread (measured on two cores)."""
SHARED_WORK = 512 << 20
"""Rows times bytes of weights from which multiplying does."""


def threads_for(rows: Sequence[tuple[int, int]], available: int) -> int:
    """Compute threads for a step: one where its matrices are so small that dividing them costs more than it saves.

    It costs little on idle cores, but much on busy ones: at each of hundreds of small divisions, whichever thread is
    done waits for one that the system has put aside.

    rows : (tokens, bytes of weights each goes through) of every sequence in the step.
    """
    heaviest = max((weights for _, weights in rows), default=0)
    work = sum(tokens * weights for tokens, weights in rows)
    return available if heaviest >= SHARED_READ or work >= SHARED_WORK else 1
