"""What being cut into shared segments costs a model: the same engine serves it alone and within the fleet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from work.fleet import Fleet, sixteen_apps
from work.reference import Reference
from work.rounds import Rounds
from work.side import Side
from work.stock import stock

NAME = "serving.cut_parity"
CLAIMS = (
    Claim(name=NAME, room="serving", title="a model cut by the 16-app fleet vs the same model alone, same engine",
          reach=at_least(0.98), ratio="ours/baseline", unit="tokens/s", parity=True),
)  # fmt: skip
BATCH, PROMPT_TOKENS = 8, 64
KV_BYTES = 1 << 26
"""Twice what the batch needs, so that after the warm-up no page is new."""


def run(context: Context) -> Mapping[str, Outcome]:
    """The base, from which every other application was cut, eight sequences at once.

    In several pairs of processes: where a process happens to lie in memory moves it by more than the cuts do.
    """
    new_tokens, repeats, pairs = (32, 8, 1) if context.quick else (64, 20, 6)
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed)
    alone = Fleet(fleet.root, fleet.shape, fleet.apps[:1])
    zoos = {"in the fleet": context.scratch / "zoo", "alone": context.scratch / "alone"}
    models = {"in the fleet": [app.name for app in fleet.apps], "alone": ["base"]}
    stock(zoos["in the fleet"], fleet)
    stock(zoos["alone"], alone)
    cores = os.cpu_count() or 1
    rounds = Rounds(["base"] * BATCH, PROMPT_TOKENS, fleet.shape.vocab, context.seed)
    seconds: dict[str, list[float]] = {name: [] for name in zoos}
    segments: dict[str, int] = {}
    for pair in range(pairs):
        with ExitStack() as stack:
            sides = {
                name: stack.enter_context(Side("work.ours:OurModels", threads=cores, zoo=zoos[name],
                                               models=models[name], kv_bytes=KV_BYTES))
                for name in (list(zoos) if pair % 2 else reversed(zoos))
            }  # fmt: skip
            segments = {name: side.call("segments", "base") for name, side in sides.items()}
            arms = {
                name: rounds.arm(name, lambda requests, n, side=sides[name]: side.call("generate", requests, n),
                                 new_tokens)
                for name in zoos
            }  # fmt: skip
            samples = context.interleave(arms, repeats=repeats, warmup=3)
        for name in zoos:
            seconds[name].extend(sample.wall_s for sample in samples[name])
    with Reference({"base": fleet.base.path}) as reference:
        same = rounds.compare(reference, "in the fleet", "alone")
    rate = {name: [BATCH * new_tokens / s for s in taken] for name, taken in seconds.items()}
    return {
        NAME: Outcome(
            ours=rate["in the fleet"],
            baseline=rate["alone"],
            answers_equal=same.equal,
            details={"answers": same.summary(), "segments": segments, "threads": cores, "batch": BATCH,
                     "pairs_of_processes": pairs},
            rows=[{"base": name, "segments": segments[name]} for name in zoos],
        )
    }  # fmt: skip
