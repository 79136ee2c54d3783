"""Whether a token late in a long answer costs what an early one does: position 512 against position 16, batch 1."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from work.fleet import one_model
from work.prompts import prompts
from work.side import Side
from work.stock import stock

NAME = "serving.flat_decode"
CLAIMS = (
    Claim(name=NAME, room="serving", title="time per token at position 512 vs position 16, batch 1, 1,024 positions",
          reach=at_most(1.5), ratio="ours/baseline", unit="s per token", parity=False),
)  # fmt: skip
PROMPT_TOKENS, EARLY, LATE, AROUND = 4, 16, 512, 8
"""The cost at a position is the median over AROUND tokens on either side of it."""


def cost_at(position: int, times: Sequence[float]) -> float:
    """Seconds per token around a position, from the times at which the tokens after the prompt arrived."""
    at = position - PROMPT_TOKENS
    return median(times[i] - times[i - 1] for i in range(at - AROUND, at + AROUND + 1))


def run(context: Context) -> Mapping[str, Outcome]:
    """Long answers, one after another; both positions are taken from each, so that they share its conditions."""
    repeats = 4 if context.quick else 20
    fleet = one_model(context.scratch / "fleet", seed=context.seed)
    stock(context.scratch / "zoo", fleet)
    early, late = [], []
    cores = os.cpu_count() or 1
    with Side("work.ours:OurModels", threads=cores, zoo=context.scratch / "zoo", models=["base"]) as ours:
        texts = prompts(repeats + 1, PROMPT_TOKENS, fleet.shape.vocab, seed=context.seed)
        for turn, prompt in enumerate(texts):
            context.progress(f"answer {turn + 1} of {len(texts)}")
            _, times = ours.call("token_times", "base", prompt, LATE + AROUND + 1)
            if turn:  # the first is for warming up
                early.append(cost_at(EARLY, times))
                late.append(cost_at(LATE, times))
    return {
        NAME: Outcome(
            ours=late,
            baseline=early,
            details={"positions": [EARLY, LATE], "max_positions": fleet.shape.positions, "threads": cores},
            rows=[{"position": EARLY, "ms per token": round(1e3 * median(early), 3)},
                  {"position": LATE, "ms per token": round(1e3 * median(late), 3)}],
        )
    }  # fmt: skip
