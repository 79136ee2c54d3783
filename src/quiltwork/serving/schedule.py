"""What to compute in the next step: a pure decision over plain numbers.

Decoding sequences go first (a token each, oldest first), then prompt chunks, then new arrivals, within a token budget
and the pages that are free. Where pages run out the youngest sequence gives its pages back and is recomputed later, so
the oldest always advances: there is no deadlock and no request fails for want of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def plan(running: Sequence[Job], waiting: Sequence[Job], free_bytes: int, limits: Limits) -> Plan:
    """Decide the next step.

    Parameters
    ----------
    running : jobs that hold pages, oldest first.
    waiting : jobs that hold none, in the order they are to start.
    free_bytes : bytes of pages that nobody holds (evictable ones included).
    """
    chunks: list[tuple[int, int]] = []
    preempted: list[Job] = []
    budget = limits.step_tokens
    alive = list(running)

    def make_room(need: int, keep: Job) -> bool:
        """Free ``need`` bytes by preempting jobs younger than ``keep``, the youngest first."""
        nonlocal free_bytes
        while need > free_bytes and alive and alive[-1] is not keep:
            victim = alive.pop()
            preempted.append(victim)
            free_bytes += victim.holds
        return need <= free_bytes

    decoding = [job for job in running if job.pending == 1]
    prefilling = [job for job in running if job.pending > 1]
    for job in decoding + prefilling:
        if job in preempted or budget <= 0:
            continue
        tokens = min(job.pending, limits.prefill_chunk, budget)
        if tokens < job.pending:  # stop at a page boundary, so that whole pages can be shared
            tokens = max((job.computed + tokens) // PAGE * PAGE - job.computed, min(tokens, PAGE))
        if not make_room(job.needs(tokens), job):
            if alive and alive[0] is not job:
                continue  # an older job holds the pages; wait for it
            preempted.append(job)
            alive.remove(job)
            continue
        free_bytes -= job.needs(tokens)
        chunks.append((job.id, tokens))
        budget -= tokens

    dropped = {job.id for job in preempted}
    chunks = [(id, tokens) for id, tokens in chunks if id not in dropped]

    admitted: list[int] = []
    if not preempted:
        seats = limits.sequences - len(alive)
        for job in waiting:
            # A newcomer starts only where its whole prompt fits, so that it does not evict itself half-way.
            if seats <= 0 or budget <= 0 or job.needs(job.pending) > free_bytes:
                break
            tokens = min(job.pending, limits.prefill_chunk, budget)
            if tokens < job.pending:
                tokens = max(tokens // PAGE * PAGE, min(tokens, PAGE))
            free_bytes -= job.needs(job.pending)
            admitted.append(job.id)
            chunks.append((job.id, tokens))
            budget -= tokens
            seats -= 1
    return Plan(tuple(chunks), tuple(admitted), tuple(job.id for job in preempted))


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
