"""One answer being made: its tokens, what of it is computed, and the pages it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.serving.experts import Spent
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

    @property
    def vocab_size(self) -> int:
        """Ids it has rows for."""
        ...

    @property
    def virtual_tokens(self) -> int:
        """Tokens that stand before every prompt."""
        ...

    @property
    def max_len(self) -> int:
        """Most tokens, virtual ones included."""
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
    relaxed: float | None = None
    """Take drafted tokens that have this share of the most likely one's probability; None takes the model's own."""
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
    """Those of them that the model itself came to, or let stand."""
    relaxed_tokens: int = 0
    """Those of them that it let stand where it drew another."""
    spent: dict[str, Spent] = field(default_factory=dict)
    """What executors told that its rows took, by name, over all layers that told."""
    trace: Trace | None = None

    @property
    def pending(self) -> int:
        """Tokens known but not computed."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens made so far."""
        return len(self.tokens) - self.prompt_len

    def longest(self, version: Version) -> int:
        """Tokens that it may come to, a version's virtual ones included."""
        return version.virtual_tokens + len(self.prompt) + self.max_tokens

    def check(self, version: Version, fits: int) -> None:
        """Raise BadInputError where it is empty, foreign to the version or may come to be too long.

        fits : tokens whose keys and values fit the memory where nothing else runs; more than that never will.
        """
        if not self.prompt:
            raise BadInputError("the prompt has no tokens", where="prompt")
        if min(self.prompt) < 0 or max(self.prompt) >= version.vocab_size:
            raise BadInputError(f"token ids must be in [0, {version.vocab_size})", where="prompt")
        total = self.longest(version)
        if total > version.max_len:
            raise BadInputError(
                f"{len(self.prompt)} prompt tokens and max_tokens {self.max_tokens} exceed the model's"
                f" {version.max_len}",
                where="max_tokens",
            )
        if total > fits:
            raise BadInputError(
                f"{total} tokens never fit the memory for keys and values, which holds {fits}",
                where="max_tokens" if total - self.max_tokens < fits else "prompt",
                hint="ask for less, or raise the server's --memory",
            )

    def begin(self, version: Version) -> None:
        """Belong to a version from now on; its virtual tokens come before the prompt."""
        self.version = version
        self.tokens = [-1 - i for i in range(version.virtual_tokens)] + list(self.prompt)
        self.prompt_len = len(self.tokens)

    def take(self, token: Sampled) -> Emission:
        """Go on by a token; the first one brings the report on the prompt."""
        assert self.version is not None
        self.tokens.append(token.token)
        reason = None
        if self.sampler.error is not None:
            reason = "error"
        elif token.token in self.stop_ids or self.sampler.complete:
            reason = "stop"
        elif self.generated >= self.max_tokens or len(self.tokens) >= self.version.max_len:
            reason = "length"
        report = None
        if not self.reported:
            self.reported = True
            report = tuple(self.prompt_report) if self.prompt_logprobs is not None else None
        return Emission(self.id, token, reason, self.cached_tokens, report, self.sampler.error)

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
