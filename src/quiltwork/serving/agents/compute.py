"""Running works: for real, or by waiting as long as a profile says they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from quiltwork.serving.execute import BatchRecord, Executor, Watch, Work
from quiltwork.serving.kv import KVCache
from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.route import Segment

Ran = list[tuple[list[Work], Tensor]]


class Compute(Protocol):
    """What an agent needs of the arithmetic."""

    records: list[BatchRecord]
    """The batches of the last run."""
    watch: Watch | None
    """Is told of every batch, where set."""
    prefill_token_layers: int

    def run(self, works: Sequence[Work]) -> Ran:
        """Run works as far as they go here; see ``Executor.run``."""
        ...


def computing(cache: KVCache) -> Compute:
    """The real arithmetic."""
    return Executor(cache)


class Paced:
    """Waits as long as each segment's batch would take, and hands out zeros: real queues, links and decisions on a
    machine too small for the arithmetic.

    profiles : seconds per batch, by instance; every segment that runs must be in it.
    wait : seconds -> None, after which that time has passed.
    width : of hidden states. vocab : of logits; token 0 is always the likeliest.
    """

    def __init__(
        self,
        profiles: Callable[[Instance], SegmentProfile],
        wait: Callable[[float], None],
        width: int,
        vocab: int,
    ) -> None:
        self._profiles, self._wait, self._width, self._vocab = profiles, wait, width, vocab
        self.records: list[BatchRecord] = []
        self.watch: Watch | None = None
        self.prefill_token_layers = 0

    def run(self, works: Sequence[Work]) -> Ran:
        """As ``Executor.run``: each segment once, all works that pass through it in one batch."""
        batches: dict[Instance, list[Work]] = {}
        segments: dict[Instance, Segment] = {}
        for work in works:
            for segment in work.route[work.hop : work.stop]:
                segments.setdefault(segment.key, segment)
                batches.setdefault(segment.key, []).append(work)
        self.records = []
        total = 0.0
        for key, members in batches.items():
            rows = sum(work.count for work in members)
            pairs = [(work.count > 1, work.count * work.start + work.count * (work.count + 1) / 2) for work in members]
            context = sum(n for prompt, n in pairs if not prompt)
            of_prompts = sum(n for prompt, n in pairs if prompt)
            total += self._profiles(key).batch_s(rows, context, of_prompts)
            self.records.append(BatchRecord(len(key), rows, len(members), len({w.seq.model for w in members})))
            if self.watch is not None:
                self.watch(segments[key], members, self.records[-1])
        self._wait(total)
        done: Ran = []
        for work in works:
            ends = work.stop == len(work.route)
            if not ends:
                done.append(([work], torch.zeros(work.count, self._width)))
            elif work.wants:
                logits = torch.zeros(work.wants, self._vocab)
                logits[:, 0] = 1.0
                done.append(([work], logits))
        return done
