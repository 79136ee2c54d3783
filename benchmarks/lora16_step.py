"""A decode step of 16 sequences on 16 different LoRAs, against PEFT's mixed batch and one transformers model per app.

CPU time of the whole process tree with one compute thread per side. A step is the difference between long and short
answers to equally long prompts, divided by the tokens between them; the context is 64 tokens on average.
"""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from work.fleet import sixteen_loras
from work.reference import Reference
from work.rounds import Rounds, per_step
from work.settings import EAGER_SWEEP, HfSettings
from work.side import Side
from work.stock import stock
from work.sweep import sweep

PEFT = "serving.lora16_step_vs_peft"
PER_APP = "serving.lora16_step_vs_hf_per_app"
WORK = "decode step, 16 sequences with 16 different LoRAs (r = 8 on q,k,v,o; 30 M llama; context 64)"
CLAIMS = (
    Claim(name=PEFT, room="serving", title=f"{WORK} vs PEFT mixed batch", reach=at_least(2.5),
          ratio="baseline/ours", unit="CPU-s per step", parity=False),
    Claim(name=PER_APP, room="serving", title=f"{WORK} vs HF one model per app", reach=at_least(7.0),
          ratio="baseline/ours", unit="CPU-s per step", parity=False),
)  # fmt: skip
CONTEXT_TOKENS = 64


def run(context: Context) -> Mapping[str, Outcome]:
    """Settle both claims in one interleaved run."""
    steps, repeats = (16, 3) if context.quick else (32, 11)
    fleet = sixteen_loras(context.scratch / "fleet", seed=context.seed)
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    folders = {app.name: app.path for app in fleet.apps[1:]}
    names = list(folders)
    rounds = Rounds(names, CONTEXT_TOKENS - steps // 2, fleet.shape.vocab, context.seed)
    with (
        Reference(folders) as reference,
        Side("work.ours:OurModels", threads=1, zoo=zoo, models=names) as ours,
        Side("work.hf:PeftMixed", threads=1, base=fleet.base.path, adapters=folders) as peft,
        Side("work.hf:HfModels", threads=1, models=folders) as per_app,
    ):
        asks = {
            "ours": lambda requests, n: ours.call("generate", requests, n),
            "peft": lambda requests, n: peft.call("generate", names, [p for _, p in requests], n),
            "hf": lambda requests, n: per_app.call("generate_each", requests, n),
        }
        rows = []
        chosen: dict[str, HfSettings] = {}
        for name, side in (("peft", peft), ("hf", per_app)):
            trial = Rounds(names, CONTEXT_TOKENS, fleet.shape.vocab, context.seed)
            candidates = EAGER_SWEEP[:1] if context.quick else EAGER_SWEEP
            chosen[name], found = sweep(
                context, name, candidates, lambda c, side=side: side.call("configure", c),
                trial.arm(name, asks[name], 9), clock="cpu_s",
            )  # fmt: skip
            rows += found
        arms = {
            f"{name} {kind}": rounds.arm(name, ask, tokens, kind)
            for name, ask in asks.items()
            for kind, tokens in (("short", 1), ("long", 1 + steps))
        }
        samples = context.interleave(arms, repeats=repeats, warmup=1)
        cost = {
            name: per_step(
                [s.cpu_s for s in samples[f"{name} long"]], [s.cpu_s for s in samples[f"{name} short"]], steps
            )
            for name in asks
        }
        sides = {"ours": ours.call("conditions"), "peft": peft.call("conditions"), "hf": per_app.call("conditions")}
        outcomes = {}
        for claim, baseline in ((PEFT, "peft"), (PER_APP, "hf")):
            same = rounds.compare(reference, "ours", baseline)
            outcomes[claim] = Outcome(
                ours=cost["ours"],
                baseline=cost[baseline],
                answers_equal=same.equal,
                details={
                    "baseline_settings": chosen[baseline].label(),
                    "answers": same.summary(),
                    "steps": steps,
                    "sides": sides,
                },
                rows=[row for row in rows if row["sweep"] == baseline],
            )
        return outcomes
