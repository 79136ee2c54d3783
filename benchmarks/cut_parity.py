"""What being cut into shared segments costs a model: the same engine serves it alone and within the fleet."""

from __future__ import annotations

import os
from collections.abc import Mapping

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


def run(context: Context) -> Mapping[str, Outcome]:
    """The base, from which every other application was cut, eight sequences at once."""
    new_tokens, repeats = (32, 8) if context.quick else (64, 60)
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed)
    alone = Fleet(fleet.root, fleet.shape, fleet.apps[:1])
    stock(context.scratch / "zoo", fleet)
    stock(context.scratch / "alone", alone)
    cores = os.cpu_count() or 1
    rounds = Rounds(["base"] * BATCH, PROMPT_TOKENS, fleet.shape.vocab, context.seed)
    with (
        Reference({"base": fleet.base.path}) as reference,
        Side("work.ours:OurModels", threads=cores, zoo=context.scratch / "zoo",
             models=[app.name for app in fleet.apps]) as shared,
        Side("work.ours:OurModels", threads=cores, zoo=context.scratch / "alone", models=["base"]) as single,
    ):  # fmt: skip
        sides = {"in the fleet": shared, "alone": single}
        arms = {
            name: rounds.arm(name, lambda requests, n, side=side: side.call("generate", requests, n), new_tokens)
            for name, side in sides.items()
        }
        samples = context.interleave(arms, repeats=repeats, warmup=3)
        same = rounds.compare(reference, "in the fleet", "alone")
        segments = {name: side.call("segments", "base") for name, side in sides.items()}
    rate = {name: [BATCH * new_tokens / s.wall_s for s in samples[name]] for name in sides}
    return {
        NAME: Outcome(
            ours=rate["in the fleet"],
            baseline=rate["alone"],
            answers_equal=same.equal,
            details={"answers": same.summary(), "segments": segments, "threads": cores, "batch": BATCH},
            rows=[{"base": name, "segments": segments[name]} for name in sides],
        )
    }
