"""One answer being made: its tokens, what of it is computed, and the pages it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.serving.sampling import Sampled, SamplerState

if TYPE_CHECKING:
    from quiltwork.serving.kv import PageRun
    from quiltwork.serving.route import Route, Served
    from quiltwork.serving.trace import Trace
    from quiltwork.zoo.types import Chain


class Version(Protocol):
    """Which version of a model answers."""

    @property
    def chain(self) -> Chain:
        """It, block by block."""
        ...

    @property
    def route(self) -> Sized:
        """Its segments."""
        ...


@dataclass(frozen=True)
class Emission:
    """What one step brought for one sequence."""

    sequence_id: int
    token: Sampled | None
    finish_reason: str | None = None
    """``stop`` (an end token; it is the emission's token), ``length``, or ``error``; None while it goes on."""
    cached_tokens: int = 0
    """Prompt tokens that no attention block of the chain had to compute."""
    prompt_logprobs: tuple[Sampled | None, ...] | None = None
    """With the first token, if asked for: per prompt token its log-probability; None for the first."""
    error: QuiltworkError | None = None
    """Why it ended, where the reason is ``error``; the token then means nothing."""


@dataclass(eq=False)
class Sequence:
    """A prompt and what follows it. The first group is the request; the second is the engine's."""

    id: int
    model: ModelRef
    prompt: list[int]
    sampler: SamplerState
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    """End tokens, the model's own (unless ignored) and the request's."""
    tenant: str = PUBLIC
    public_prefix: bool = False
    """Whether the prompt's KV may be shared with other tenants."""
    adapter_scale: float = 1.0
    state_options: Mapping[str, Any] = field(default_factory=dict)
    """Options that change cached state; part of every key of what is computed."""
    prompt_logprobs: int | None = None
    """How many alternatives to report per prompt token, or None for no report."""
    speculation: bool = True
    """Whether its tokens may be drafted where its model has a draft; they are the same either way."""
    explain: bool = False
    """Whether to keep a trace of what it goes through."""

    version: Version | None = None
    served: Served | None = None
    """The same, where this process computes it."""
    route: Route = ()
    tokens: list[int] = field(default_factory=list)
    """Virtual tokens (negative), prompt and output."""
    prompt_len: int = 0
    """Virtual tokens and prompt."""
    computed: int = 0
    cached_tokens: int = 0
    runs: list[list[PageRun]] = field(default_factory=list)
    """Per segment of its route, the page runs in order; none where the segment keeps no KV."""
    tables: list[npt.NDArray[np.int32]] = field(default_factory=list)
    """Per segment, (attention blocks, capacity) page numbers."""
    page_hashes: list[bytes] = field(default_factory=list)
    """Hash of the tokens up to the end of each complete page."""
    published: int = 0
    """Complete pages that have been offered to the cache."""
    prompt_report: list[Sampled | None] = field(default_factory=list)
    reported: bool = False
    charged: int = 0
    """Tokens of the prompt that its tenant has been charged for, or found cached."""
    departures: int = 0
    """How often it gave pages back: what it holds afterwards are others."""
    drafted: int = 0
    """Tokens that a draft proposed."""
    accepted: int = 0
    """Those of them that the model itself came to."""
    trace: Trace | None = None

    @property
    def pending(self) -> int:
        """Tokens known but not computed."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens made so far."""
        return len(self.tokens) - self.prompt_len

    def take_route(self, route: Route) -> None:
        """Start from nothing on a way through the chain."""
        self.route = route
        self.departures += 1
        self.runs = [[] for _ in route]
        self.tables = [np.zeros((segment.kv_blocks, 8), dtype=np.int32) for segment in route]

    def append_run(self, hop: int, run: PageRun) -> None:
        """Put a run it holds at the end of its pages in one segment."""
        page, table = len(self.runs[hop]), self.tables[hop]
        if page == table.shape[1]:
            table = self.tables[hop] = np.concatenate([table, np.zeros_like(table)], axis=1)
        table[:, page] = run.pages
        self.runs[hop].append(run)

    @property
    def prefix_to_copy(self) -> int:
        """Virtual tokens whose keys and values come ready-made and are not in its pages yet."""
        assert self.served is not None
        count = self.served.virtual_tokens if self.served.copies_prefix else 0
        return count if self.computed < count else 0
