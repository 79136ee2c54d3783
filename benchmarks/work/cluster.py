"""The paper's cluster and fleet: four servers with 2, 2, 4 and 4 A100, twenty fine-tunes of two bases.

Twenty apps in the proportions of the sixteen-app fleet: 2 bases, 10 adapters of low rank, 5 fine-tunes of the upper
quarter of the layers, 3 full fine-tunes. Adapters are merged into models of their own where nothing is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quiltwork.core.bench import Context
from quiltwork.core.errors import NotFoundError
from quiltwork.core.traces import Trace, read_azure, read_gentd_popularity, shares_of
from quiltwork.serving.policy.cost import joined
from quiltwork.serving.simulate import Arrival, Outcome, Settings
from quiltwork.serving.simulate.arms import Arm
from quiltwork.serving.simulate.describe import Described, described
from quiltwork.serving.simulate.planning import run_world
from quiltwork.serving.simulate.workload import arrivals_of

PAPER = {
    "servers": [2, 2, 4, 4],
    "device": "a100",
    "links": {
        "inside": {"table": "network/a100_dgx/send_recv.csv"},
        "between": {"gbit_per_s": 100, "latency_us": 24},
    },
    "families": [
        {"name": "llama-7b", "operators": "compute/a100/Llama-2-7b-hf.mlp.csv", "layers": 32, "top_layers": 8,
         "apps": {"base": 1, "lora": 6, "top": 3, "full": 2}},
        {"name": "internlm-20b", "operators": "compute/a100/internlm-20b.mlp.csv", "layers": 60, "top_layers": 15,
         "apps": {"base": 1, "lora": 4, "top": 2, "full": 1}},
    ],
    "settings": {"hop_us": 100},
}  # fmt: skip
"""The latency between servers is the smallest that Vidur measured there."""


@dataclass(frozen=True)
class Bed:
    """A world, the trace that loads it, and how popular its apps are."""

    world: Described
    trace: Trace
    """Of the requests that are reported."""
    before: Trace
    """Of others, by which settings are chosen: the next ones of the same recording."""
    popularity: tuple[tuple[str, float], ...]

    def shares(self, seed: int) -> dict[str, float]:
        """Popularity dealt out to the apps."""
        return shares_of(self.world.apps, self.popularity, seed=seed)

    def run(
        self,
        arm: Arm,
        rate: float,
        seed: int,
        settings: Settings,
        servers: int | None = None,
        *,
        tuning: bool = False,
    ) -> tuple[Outcome, list[Arrival]]:
        """One simulated run: of the reported requests, or of those that settings are chosen by."""
        shares = self.shares(seed)
        arrivals = arrivals_of(self.before if tuning else self.trace, shares, rate, seed=seed + 1000 * tuning)
        outcome = run_world(self.world, arm, arrivals, shares, rate, servers=servers, settings=settings)
        return outcome, arrivals

    def alone(self, arm: Arm, seed: int, settings: Settings, q: float) -> float:
        """Seconds that the share ``q`` of the requests would take at most, each by itself on a device."""
        apps = {app.name: app for app in self.world.served(arm)}
        taken = []
        for a in arrivals_of(self.trace, self.shares(seed), 1.0, seed=seed):
            app = apps[a.app]
            profile = joined([piece.profile for piece in app.route])
            attached = 1 + settings.attached_share * app.attached
            chunks, rest = divmod(a.prompt_tokens, settings.prefill_chunk)
            rows_s = chunks * profile.rows.at(settings.prefill_chunk) + profile.rows.at(rest)
            steps = a.output_tokens - 1
            rows_s += steps * profile.rows.at(1)
            seconds = rows_s * attached + profile.batch_s(0, prompt_context=a.prompt_tokens * (a.prompt_tokens + 1) / 2)
            seconds += profile.batch_s(0, context=steps * (a.prompt_tokens + (steps + 1) / 2))
            hops = sum(piece.start > 0 for piece in app.route)
            taken.append(seconds + hops * settings.hop_s * (steps + chunks + (rest > 0)))
        return float(np.quantile(taken, q))


def bed(context: Context, count: int, *, tenants: int | None = None) -> Bed:
    """The paper's cluster under the first ``count`` requests of the Azure conversation trace.

    tenants : so many apps in about the same proportions, asked for as GenTD26's tenants asked; twenty where absent,
        asked for as its base models were. Raises NotFoundError where the data is not there.
    """
    if context.data is None:
        raise NotFoundError("needs operator tables and traces", where="data", hint="set QUILTWORK_DATA")
    root = context.data / "llm/profiles/vidur"
    document = dict(PAPER)
    if tenants is not None:
        document["families"] = [
            family | {"apps": _scaled(family["apps"], tenants / 20)}  # type: ignore[index, operator]
            for family in PAPER["families"]  # type: ignore[attr-defined]
        ]
    asked = context.data / "llm/traces/gentd26/lora_request_trace.csv"
    column = {} if tenants is None else {"column": "groupId"}
    path = context.data / Path("llm/traces/azure2023/AzureLLMInferenceTrace_conv.csv")
    recorded = read_azure(path, limit=count + count // 2)
    return Bed(
        described(document, root, "the paper's cluster"),
        recorded[:count],
        tuple(replace(r, arrival=r.arrival - recorded[count].arrival) for r in recorded[count:]),
        read_gentd_popularity(asked, **column),
    )


def _scaled(apps: dict[str, int], factor: float) -> dict[str, int]:
    """One base however many tenants there are; the rest grows with them."""
    grown = {kind: max(round(n * factor), 1) for kind, n in apps.items() if kind != "base"}
    grown["lora"] += round(apps["base"] * (factor - 1))
    return {"base": 1, **grown}
