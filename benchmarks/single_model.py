"""One unshared model through zoo and engine against transformers' generate, batch 1 and 8, wall time, all cores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from work.fleet import one_model
from work.reference import Reference
from work.rounds import Rounds
from work.settings import COMPILED, EAGER_SWEEP, HfSettings
from work.side import Side
from work.stock import stock
from work.sweep import sweep

BATCHES = {"serving.single_b1_vs_hf": 1, "serving.single_b8_vs_hf": 8}
CLAIMS = tuple(
    Claim(name=name, room="serving", title=f"one unshared model vs transformers generate, batch {batch}",
          reach=at_least(1.2), ratio="ours/baseline", unit="tokens/s", parity=False)
    for name, batch in BATCHES.items()
)  # fmt: skip
PROMPT_TOKENS = 64
KV_BYTES = 1 << 26
"""Twice what the largest batch needs, so that after the warm-up no page is new: the baseline's cache is not either."""


def candidates(quick: bool) -> list[HfSettings]:
    """Attention, cache and threads; compiled where there is a C++ compiler and time."""
    cores = os.cpu_count() or 1
    chosen = [HfSettings(c.attention, c.cache, threads=cores) for c in EAGER_SWEEP]
    if quick:
        return chosen[:1]
    chosen.append(HfSettings("sdpa", "dynamic", threads=1))
    if shutil.which("g++"):
        chosen.append(HfSettings(COMPILED.attention, COMPILED.cache, compiled=True, threads=cores))
    return chosen


def run(context: Context) -> Mapping[str, Outcome]:
    """Settle both claims with one model and two processes."""
    new_tokens, repeats = (32, 5) if context.quick else (64, 20)
    fleet = one_model(context.scratch / "fleet", seed=context.seed)
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    cores = os.cpu_count() or 1
    outcomes = {}
    with (
        Reference({"base": fleet.base.path}) as reference,
        Side("work.ours:OurModels", threads=cores, zoo=zoo, models=["base"], kv_bytes=KV_BYTES) as ours,
        Side("work.hf:HfModels", threads=cores, models={"base": fleet.base.path}) as hf,
    ):
        asks = {
            "ours": lambda requests, n: ours.call("generate", requests, n),
            "hf": lambda requests, n: hf.call("generate", "base", [p for _, p in requests], n),
        }
        for claim, batch in BATCHES.items():
            trial = Rounds(["base"] * batch, PROMPT_TOKENS, fleet.shape.vocab, context.seed)
            best, rows = sweep(
                context, f"batch {batch}", candidates(context.quick), lambda c: hf.call("configure", c),
                trial.arm("hf", asks["hf"], new_tokens), clock="wall_s",
            )  # fmt: skip
            rounds = Rounds(["base"] * batch, PROMPT_TOKENS, fleet.shape.vocab, context.seed + 1)
            arms = {name: rounds.arm(name, ask, new_tokens) for name, ask in asks.items()}
            samples = context.interleave(arms, repeats=repeats, warmup=2)
            same = rounds.compare(reference, "ours", "hf")
            rate = {name: [batch * new_tokens / s.wall_s for s in samples[name]] for name in asks}
            outcomes[claim] = Outcome(
                ours=rate["ours"],
                baseline=rate["hf"],
                answers_equal=same.equal,
                details={"baseline_settings": best.label(), "answers": same.summary(), "threads": cores,
                         "prompt_tokens": PROMPT_TOKENS, "new_tokens": new_tokens,
                         "sides": {"ours": ours.call("conditions"), "hf": hf.call("conditions")}},
                rows=rows,
            )  # fmt: skip
    return outcomes
