"""Getting at keys and values: whoever holds them, over the link, or computed again; ours weighs, the others do one.

Two agents hold a model, one of them also another that comes in bursts. When the first is busy, going to the other one
pays if the keys and values come cheaply enough. Agents are paced: real processes, letters and decisions, batches that
take as long as a profile of the 30 M body says (measured first, one thread), pages that really travel over a link as
slow as it is set. Latency is the mean over the model's requests, from arrival to the last token. Who holds what stays
as it is laid out: no replicas are added meanwhile.

The prediction has what moving costs beyond the link, per byte, as the fixed policy's moves showed it at all links
together; ours has to learn it by itself. The table tells what a move took, and what the agents had expected.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from work.fleet import BODY_30M, SMALL_BODY, Shape, sixteen_apps
from work.stock import stock

if TYPE_CHECKING:
    from quiltwork.serving.agents.message import Beat
    from quiltwork.serving.policy.cost import Handling, SegmentProfile
    from work.paced import Asked

NEAR_BEST = "serving.kv_policy_near_best"
SWITCH = "serving.kv_policy_switch"
GBITS = (0.1, 0.3, 1.0, 3.0, 10.0)
FIXED = ("owner", "move", "recompute")
CLAIMS = (
    Claim(name=NEAR_BEST, room="serving",
          title="mean latency against the best fixed KV policy, at the worst of the links from 0.1 to 10 Gb/s",
          reach=at_most(1.10), ratio="ours/baseline", unit="s", parity=False),
    Claim(name=SWITCH, room="serving",
          title="links at which fetching and computing again are chosen as the formula predicts, of all links",
          reach=at_least(1.0), ratio="ours/baseline", unit="links", parity=True),
)  # fmt: skip
PROMPT, ANSWER = 384, 32
LATENCY_S = 1e-4
AGENTS = ("agent0", "agent1")


def run(context: Context) -> Mapping[str, Outcome]:
    """A crew for each link and policy, those of a link at the same time; the same requests for all."""
    import torch

    from quiltwork.serving.agents.settings import AgentSettings
    from quiltwork.serving.policy.cost import Link, SegmentProfile
    from quiltwork.serving.policy.kv import KVState, crossover_bytes_per_s
    from work.paced import instances, measured_rows
    from work.paced_apart import Crew, replayed

    quick = context.quick
    shape = SMALL_BODY if quick else BODY_30M
    gbits = GBITS[::4] if quick else GBITS
    seeds = [context.seed] if quick else [context.seed + i for i in range(3)]
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed, shape=shape)
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    model, other = fleet.base.name, next(app.name for app in fleet.apps if app.kind == "full")
    context.progress("profile")
    torch.set_num_threads(1)
    rows = measured_rows(zoo, model, repeats=4 if quick else 24, vocab=shape.vocab)
    kv_bytes = 2 * shape.layers * shape.hidden * 4
    profile = SegmentProfile(rows, kv_bytes=kv_bytes, hidden_bytes=shape.hidden * 4)
    profiles = {key: profile for keys in instances(zoo, [model, other]).values() for key in keys}
    work = {seed: requests(model, other, profile, shape, seed, count=4 if quick else 14) for seed in seeds}

    latency: dict[tuple[float, str], list[float]] = {}
    beats: dict[tuple[float, str], list[Beat]] = {}
    cores: dict[float, float] = {}
    for gbit in gbits:
        link = Link(LATENCY_S, gbit * 1e9 / 8)
        links = {(a, b): link for a in AGENTS for b in AGENTS if a != b}
        context.progress(f"{gbit} Gb/s")
        policies = ("best", *FIXED)
        crews = [
            Crew(zoo, {model: [AGENTS], other: [AGENTS[:1]]}, profiles,
                 AgentSettings(kv_policy=policy, links=links, rebalance_s=0), agents=2,
                 kv_bytes=1 << 24 if quick else 1 << 30, runs=[work[seed] for seed in seeds])
            for policy in policies
        ]  # fmt: skip
        for policy, found in zip(policies, replayed(crews), strict=True):
            latency[gbit, policy] = [statistics.fmean(run[model]) for run in found.latencies]
            beats[gbit, policy] = found.beats
            cores[gbit] = cores.get(gbit, 0.0) + found.cores

    handling = _handling({gbit: beats[gbit, "move"] for gbit in gbits})
    table = []
    worst: tuple[float, float, str] | None = None
    for gbit in gbits:
        means = {policy: statistics.fmean(latency[gbit, policy]) for policy in ("best", *FIXED)}
        best = min(FIXED, key=lambda policy: means[policy])
        ratio = means["best"] / means[best]
        worst = max(worst, (ratio, gbit, best)) if worst is not None else (ratio, gbit, best)
        table.append({"link Gb/s": gbit, **{f"{p} s": round(m, 3) for p, m in means.items()}, "best fixed": best,
                      "ours / best": round(ratio, 3), **_ways(beats[gbit, "best"]),
                      "predicted": _predicted(profile, gbit, handling),
                      **_move_seconds(beats[gbit, "best"] + beats[gbit, "move"]),
                      "cores": round(cores[gbit], 2)})  # fmt: skip
    assert worst is not None
    agreeing = [row for row in table if _agrees(row)]
    crossover = crossover_bytes_per_s(KVState(PROMPT, profile, Link(), 8, Link(), handling=handling)) * 8 / 1e9
    details = {"profile_rows": rows.amounts, "profile_s": rows.seconds, "kv_bytes_per_token": kv_bytes,
               "crossover_gbit": crossover, "handling_s_per_byte": handling.byte_s,
               "worst_link_gbit": worst[1], "seeds": seeds}  # fmt: skip
    return {
        NEAR_BEST: Outcome(ours=latency[worst[1], "best"], baseline=latency[worst[1], worst[2]], rows=table,
                           details=details),
        SWITCH: Outcome(ours=[max(len(agreeing), 1e-9)], baseline=[len(table)], rows=table, details=details),
    }  # fmt: skip


def requests(model: str, other: str, profile: SegmentProfile, shape: Shape, seed: int, *, count: int) -> list[Asked]:
    """The model's requests at a quarter of one agent's capacity; bursts of prompts for the other model, half the time.

    A burst asks twice of its agent what that can do while it lasts.
    """
    from work.paced import Asked

    rng = random.Random(seed)
    prompt, answer = min(PROMPT, shape.positions // 2), ANSWER
    alone = profile.prefill_s(prompt) + answer * profile.batch_s(1)
    found: list[Asked] = []
    at = 0.0
    for _ in range(count):
        at += rng.expovariate(0.25 / alone)
        words = tuple(rng.randrange(shape.vocab) for _ in range(prompt))
        found.append(Asked(at, model, words, answer))
    burst, now = 4 * alone, 0.0
    chunk = min(256, shape.positions // 2)
    while now < at:
        for i in range(max(int(burst / profile.prefill_s(chunk)), 1)):
            words = tuple(rng.randrange(shape.vocab) for _ in range(chunk))
            found.append(Asked(now + i * profile.prefill_s(chunk) / 2, other, words, 1))
        now += 2 * burst
    return found


def _handling(moved: Mapping[float, Sequence[Beat]]) -> Handling:
    """What moves cost beyond the link, per byte, by what agents said at each rate."""
    from quiltwork.serving.policy.cost import Handling

    over, nbytes = 0.0, 0
    for gbit, beats in moved.items():
        came = sum(beat.kv_moved_bytes for beat in beats)
        over += sum(beat.kv_move_s - LATENCY_S * beat.kv_moves for beat in beats) - came * 8 / (gbit * 1e9)
        nbytes += came
    return Handling(byte_s=max(over, 0.0) / nbytes if nbytes else 0.0)


def _ways(beats: Sequence[Beat]) -> dict[str, int]:
    """How often keys and values were fetched, and how often computed again."""
    return {"move": sum(b.kv_moves for b in beats), "recompute": sum(b.kv_recomputed for b in beats)}


def _move_seconds(beats: Sequence[Beat]) -> dict[str, float | None]:
    """Of a move on average: what it took, and what it was expected to take; None where there was none."""
    moves = sum(beat.kv_moves for beat in beats)
    took, expected = sum(beat.kv_move_s for beat in beats), sum(beat.kv_expected_s for beat in beats)
    return {"a move s": round(took / moves, 4) if moves else None,
            "expected s": round(expected / moves, 4) if moves else None}  # fmt: skip


def _predicted(profile: SegmentProfile, gbit: float, handling: Handling) -> str:
    """What the formula takes for a prompt's keys and values at an idle agent."""
    from quiltwork.serving.policy.cost import Link
    from quiltwork.serving.policy.kv import KVState, fetch

    return str(fetch(KVState(PROMPT, profile, Link(LATENCY_S, gbit * 1e9 / 8), 8, Link(), handling=handling))[0])


def _agrees(row: Mapping[str, object]) -> bool:
    """Whether the predicted way was taken more often than the other, and at all."""
    taken = {way: int(str(row[way])) for way in ("move", "recompute")}
    predicted = str(row["predicted"])
    return taken[predicted] > 0 and taken[predicted] == max(taken.values())
