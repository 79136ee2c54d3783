"""Prefill work that variants of one base save each other: a system prompt over four top-1 and four top-2 variants.

Counted by the engine: attention blocks run, summed over prompt tokens. Each request ends in words of its own, which
every system must compute; they are taken off both sides. Eight variants of eight layers need 64 layers per token
without reuse; the six or seven lower layers that variants have in common need to be run once, which leaves 19.
"""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from work.fleet import top_variants
from work.prompts import prompts
from work.reference import Reference
from work.side import Side
from work.stock import stock

NAME = "serving.prefix_token_layers"
CLAIMS = (
    Claim(name=NAME, room="serving",
          title="prefill token-layers of a 256-token system prompt over 4 top-1 and 4 top-2 variants of 8 layers",
          reach=at_most(0.30), ratio="ours/baseline", unit="token-layers", parity=False),
)  # fmt: skip
SYSTEM_TOKENS, SUFFIX_TOKENS = 256, 24


def run(context: Context) -> Mapping[str, Outcome]:
    """Both orders of arrival, one request after another and all at once; the worse one counts."""
    new_tokens = 8 if context.quick else 32
    fleet = top_variants(context.scratch / "fleet", seed=context.seed)
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    variants = [app.name for app in fleet.apps[1:]]
    suffix_layers = len(variants) * fleet.shape.layers * SUFFIX_TOKENS
    counted: dict[str, float] = {}
    rows = []
    with (
        Reference({app.name: app.path for app in fleet.apps}) as reference,
        Side("work.ours:OurEngine", threads=1, zoo=zoo, models=variants, prefix_cache=True) as reusing,
        Side("work.ours:OurEngine", threads=1, zoo=zoo, models=variants, prefix_cache=False) as plain,
    ):
        sides = {"reuse": reusing, "no reuse": plain}
        asked, answers = {}, {name: {} for name in sides}
        for arrival in ("one after another", "all at once"):
            system = prompts(1, SYSTEM_TOKENS, fleet.shape.vocab, seed=context.seed, repeat=arrival)[0]
            tails = prompts(len(variants), SUFFIX_TOKENS, fleet.shape.vocab, seed=context.seed + 1, repeat=arrival)
            requests = [(name, system + tail) for name, tail in zip(variants, tails, strict=True)]
            batches = [requests] if arrival == "all at once" else [[request] for request in requests]
            for name, side in sides.items():
                before = side.call("counters")["prefill_token_layers"]
                given = [answer for batch in batches for answer in side.call("generate", batch, new_tokens)]
                layers = side.call("counters")["prefill_token_layers"] - before - suffix_layers
                counted[f"{name}, {arrival}"] = layers
                rows.append({"requests come": arrival, "engine": name, "token-layers": layers})
                answers[name] |= {f"{arrival}/{i}": answer for i, answer in enumerate(given)}
            asked |= {f"{arrival}/{i}": request for i, request in enumerate(requests)}
        same = reference.compare(asked, answers["reuse"], answers["no reuse"])
    expected = len(variants) * fleet.shape.layers * SYSTEM_TOKENS
    return {
        NAME: Outcome(
            ours=[max(counted["reuse, one after another"], counted["reuse, all at once"])],
            baseline=[counted["no reuse, all at once"]],
            answers_equal=same.equal,
            details={"token_layers": counted, "without_reuse_by_shape": expected, "answers": same.summary()},
            rows=rows,
        )
    }
