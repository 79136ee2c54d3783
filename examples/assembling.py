"""Who answers for a model that was adapted, asked by a tenant who allows it and by one who does not?"""

from __future__ import annotations

from pathlib import Path

from quiltwork.core.names import parse_ref
from quiltwork.core.servable import Caller, Input, Json, Stream
from quiltwork.serving import language_servable

PROMPT = "def read(self, size"
BUSY, TOKENS, LONG = 6, 16, 200


def assembled(zoo: Path, report: dict, budget: float, agreement: float) -> str:
    """Serve an adapted model beside the exact one and those its blocks are of, and tell who answered, and why.

    report : of ``quiltwork zoo adapt --json``.
    """
    exact, adapted = report["exact"], report["model"]
    others = sorted({one["model"] for one in report["substitutions"]})
    allows, exactly = Caller(quality_budget=budget, least_agreement=agreement), Caller()
    host = language_servable({"zoo": str(zoo), "assemble": [adapted], "seed": 0})
    running: list[Stream] = []

    def ask(model: str, caller: Caller, tokens: int = TOKENS) -> Stream:
        options = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "explain": True}
        return host.submit(parse_ref(model), Input("completion", {"prompt": PROMPT}), options, caller=caller)

    try:
        for model in (exact, adapted, *others):
            host.load(parse_ref(model))
        for _ in range(3):  # what steps cost is learnt while serving
            ask(exact, allows).wait()
        running = [ask(others[i % len(others)], exactly, LONG) for i in range(BUSY)]
        for stream in running:
            next(iter(stream))
        replies = {caller: ask(exact, caller).wait()[-1].fields for caller in (allows, exactly)}
    finally:
        for stream in running:
            stream.cancel()
        host.close()
    by_allowing, by_exact = replies[allows], replies[exactly]
    return (
        f"While {BUSY} requests for {', '.join(others)} run, a tenant who allows {budget} nats asks for {exact}:\n"
        f"  {by_allowing['served']['model']} answers. {why(by_allowing)}\n"
        f"  By one who allows none: {by_exact['served']['model']} answers."
    )


def why(reply: dict[str, Json]) -> str:
    """What was weighed, in words."""
    told = reply["explain"]["choices"][0].get("assembly")
    if told is None:
        return "On text that had no part in the choice the adapted one is not within that."
    costs = [f"{1000 * one['seconds']:.1f} ms for {one['model']}" for one in told["candidates"]]
    return f"Expected: {', '.join(costs)}."
