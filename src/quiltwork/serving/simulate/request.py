"""A request on its way through its chain."""

from __future__ import annotations

from dataclasses import dataclass, field

from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.queueing import Waiting, WorkClass
from quiltwork.serving.simulate.world import App, Arrival


@dataclass(eq=False, slots=True)
class Running:
    """Where a request is, what of it is computed, and who holds its keys and values."""

    arrival: Arrival
    app: App
    known: int = 0
    """Tokens of prompt and answer so far."""
    computed: int = 0
    """Tokens whose keys and values exist in all segments."""
    computed_once: int = 0
    """The most that ``computed`` has been: what is computed below it is computed again."""
    generated: int = 0
    first_token: float = -1.0
    hop: int = 0
    """Index in the route of the segment that comes next, or that it waits at."""
    end: int = 0
    """Index after the last segment that the agent at hand runs without a hop."""
    rows: int = 0
    """Tokens of the work under way."""
    again: int = 0
    """Tokens that this stage computes again, before its own rows."""
    weight: int = 0
    """Rows that agents count for it in their queues."""
    context: int = 0
    """Tokens that they count its rows to attend over."""
    lost: bool = False
    owners: list[str | None] = field(default_factory=list)
    """Per segment of the route, the agent that holds its keys and values."""
    pages: list[int] = field(default_factory=list)
    """Per segment, pages held there."""
    waiting_at: str | None = None
    work: Waiting | None = None
    preempted: int = 0

    @classmethod
    def of(cls, arrival: Arrival, app: App) -> Running:
        """A request that has just come."""
        hops = len(app.route)
        return cls(arrival, app, known=arrival.prompt_tokens, owners=[None] * hops, pages=[0] * hops)

    @property
    def pending(self) -> int:
        """Tokens known but not computed."""
        return self.known - self.computed

    @property
    def work_class(self) -> WorkClass:
        """How urgent its next work is."""
        if self.again or (self.lost and self.pending > 1):
            return WorkClass.VERIFY
        return WorkClass.DECODE if self.generated and self.pending == 1 else WorkClass.PREFILL

    def run_end(self, hop: int) -> int:
        """Index after the last segment from ``hop`` on that the same agent holds."""
        owner, end = self.owners[hop], hop + 1
        while end < len(self.owners) and self.owners[end] == owner:
            end += 1
        return end


@dataclass(eq=False, slots=True)
class Batch:
    """What rides together through one segment in one step."""

    start: int
    profile: SegmentProfile
    best_row_s: float
    rows: int = 0
    useful_rows: int = 0
    attached_rows: int = 0
    context: float = 0.0
    prompt_context: float = 0.0
    useful_context_s: float = 0.0

    def add(self, seq: Running) -> None:
        """Let a request's rows ride along."""
        rows, first, profile = seq.rows + seq.again, seq.computed - seq.again, self.profile
        again = min(max(seq.computed_once - seq.computed, 0), seq.rows) + seq.again
        self.rows += rows
        self.useful_rows += rows - again
        if seq.app.attached:
            self.attached_rows += rows
        if rows == 1:
            pairs = float(first + 1)
            self.context += pairs
            seconds = pairs * profile.context_s
        else:
            pairs = rows * (first + (rows + 1) / 2)
            self.prompt_context += pairs
            seconds = profile.batch_s(0, prompt_context=pairs)
        if not again:
            self.useful_context_s += seconds
