"""One engine with and without a draft, and what its steps took. Built in a process of its own (``work.side``).

With one compute thread the process's CPU time is what a step takes on an idle machine, and what others do to this one
is not in it. So it is both what is measured and the clock by which the engine learns what drafting costs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.names import ModelRef
from quiltwork.serving import Engine, EngineConfig, SamplerState, SamplingOptions
from quiltwork.serving import Sequence as TokenSequence
from quiltwork.zoo import Zoo

KV_BYTES = 1 << 27


@dataclass(frozen=True)
class Mode:
    """Which model drafts, and how much: a fixed number of tokens, or as many as the engine finds to pay."""

    draft: str | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Answered:
    """What asking a few prompts at once came to."""

    answers: list[list[int]]
    seconds: float
    """Of CPU time, from the first prompt to the last token."""
    steady_tokens: int
    steady_seconds: float
    """While all answers were under way: between the step that gave the last first token and the first last token."""
    step_seconds: list[float]
    """Of the steady steps, in which every answer drafted as much as it was to."""
    verified: int
    drafted: int
    accepted: int


class Speculating:
    """Answers by the target, with a draft or none. One engine for each mode, loaded when it is first asked."""

    def __init__(self, zoo: Path, target: str) -> None:
        self._zoo, self._target = zoo, target
        self._engines: dict[Mode, Engine] = {}
        self._ids = 0

    def start_over(self, mode: Mode) -> None:
        """Have the engine of a mode forget what it knows of its draft."""
        engine = self._engine(mode)
        target = ModelRef(self._target)
        engine.draft_with(target, None)
        if mode.draft is not None:
            engine.draft_with(target, ModelRef(mode.draft))

    def answer(
        self,
        mode: Mode,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] = (),
        speculate: bool = True,
    ) -> Answered:
        """Ask all prompts at once and step until all have ended."""
        engine = self._engine(mode)
        answers: dict[int, list[int]] = {}
        before = engine.stats().speculation
        began = time.process_time()
        for at, prompt in enumerate(prompts):
            self._ids += 1
            answers[self._ids] = []
            options = SamplingOptions(temperature=temperature, seed=seeds[at] if seeds else 0)
            sampler = SamplerState(options, list(prompt))
            engine.add(
                TokenSequence(self._ids, ModelRef(self._target), list(prompt), sampler, new_tokens,
                              speculation=speculate)
            )  # fmt: skip
        steady_tokens, steady_seconds, steps = 0, 0.0, []
        wanted = len(prompts) * (mode.tokens or 0)
        while engine.has_work:
            all_under_way = all(0 < len(answer) < new_tokens for answer in answers.values())
            drafted = engine.stats().speculation.draft_tokens if wanted else 0
            at_start = time.process_time()
            emissions = engine.step()
            took = time.process_time() - at_start
            for emission in emissions:
                assert emission.token is not None
                answers[emission.sequence_id].append(emission.token.token)
            if all_under_way:
                steady_tokens += len(emissions)
                steady_seconds += took
                if not wanted or engine.stats().speculation.draft_tokens - drafted == wanted:
                    steps.append(took)
        seconds = time.process_time() - began
        after = engine.stats().speculation
        return Answered(
            list(answers.values()), seconds, steady_tokens, steady_seconds, steps, after.drafts - before.drafts,
            after.draft_tokens - before.draft_tokens, after.accepted_tokens - before.accepted_tokens,
        )  # fmt: skip

    def _engine(self, mode: Mode) -> Engine:
        if mode not in self._engines:
            config = EngineConfig(kv_bytes=KV_BYTES, prefix_cache=False, draft_tokens=mode.tokens)
            engine = self._engines[mode] = Engine(config, time.process_time)
            with Zoo(self._zoo) as opened:
                for name in (self._target, *([mode.draft] if mode.draft else [])):
                    engine.install(engine.prepare(opened.chain(ModelRef(name)), opened.read))
            if mode.draft is not None:
                engine.draft_with(ModelRef(self._target), ModelRef(mode.draft))
        return self._engines[mode]
