"""Exact speculation on a pair trained here: what it gains, what it could gain, what it costs where it cannot.

The text is a real request log, the target a llama that learnt its first four fifths, the draft a small one that learnt
from the target. Costs are measured on the next tenth, everything reported on the last tenth. One compute thread, whose
CPU time is taken on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any
from zlib import crc32

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.errors import NotFoundError
from quiltwork.zoo import Zoo
from work.answers import Comparison, Logits, compare_drawn, draws
from work.reference import Reference
from work.side import Side

GAIN, BOUND = "serving.speculation_gain", "serving.speculation_bound"
SAME, USELESS = "serving.speculation_identical", "serving.speculation_useless"
CLAIMS = (
    Claim(name=GAIN, room="serving", title="greedy answers with a draft vs without, batch 1, acceptance at least .8",
          reach=at_least(1.3), ratio="ours/baseline", unit="tokens per CPU-s", parity=False),
    Claim(name=BOUND, room="serving", title="speed-up vs what measured costs and acceptance allow, worst of a sweep",
          reach=at_least(0.9), ratio="ours/baseline", unit="speed-up", parity=False),
    Claim(name=SAME, room="serving", title="answers with a draft that are those without, over everything asked",
          reach=at_least(1.0), ratio="ours/baseline", unit="answers", parity=True),
    Claim(name=USELESS, room="serving", title="a draft of random weights vs none, batch 1",
          reach=at_least(0.98), ratio="ours/baseline", unit="tokens per CPU-s", parity=True),
)  # fmt: skip
TEXT = "llm/traces/gentd26/lora_request_trace.csv"
TEMPERATURES = (0.0, 1.0)
LEAST_ACCEPTANCE = 0.8
MOST_COST = 1 / 8
"""Of a token of the draft, in tokens of the target."""


@dataclass(frozen=True)
class Amount:
    """How much is asked."""

    new_tokens: int = 96
    batches: tuple[int, ...] = (1, 4, 16)
    lengths: tuple[int, ...] = (0, 1, 2, 4, 6, 8)
    """Tokens drafted whose costs make the profile."""
    gains: int = 8
    prompts: int = 16
    """Over which the acceptance that the gain is promised for is counted."""
    sweep: int = 8
    """Prompts that a point of the sweep answers and counts acceptance over; in larger batches, as many as those."""
    turns: int = 5
    """At every point of the sweep."""
    useless: int = 7
    answers: int = 12
    """In each repeat with a useless draft."""


QUICK = Amount(16, (1, 2), (0, 1, 4), gains=2, prompts=2, sweep=2, turns=2, useless=2, answers=2)


def log_text(data: Path | None) -> bytes:
    """The request log, without its head. Raises NotFoundError where the data is not there."""
    path = data / TEXT if data is not None else None
    if path is None or not path.is_file():
        raise NotFoundError("needs the request log", where=TEXT, hint="set QUILTWORK_DATA to the data's folder")
    return path.read_bytes().partition(b"\n")[2]


def run(context: Context) -> Mapping[str, Outcome]:
    """Train, profile, sweep, and settle all claims."""
    from work.pair import FULL, parts, prompts_of
    from work.pair import QUICK as QUICKLY

    quick = context.quick
    text = log_text(context.data)
    folder = context.scratch / "pair"
    context.progress("training the pair")
    # Threads that wait for each other busily train no faster, and far slower on a machine that does other things too.
    patient = {"OMP_WAIT_POLICY": "PASSIVE"}
    with Side("work.pair:Trainer", threads=1 if quick else os.cpu_count() or 1, environment=patient) as trainer:
        trained = trainer.call("train", text, folder, QUICKLY if quick else FULL, context.seed)
    zoo = context.scratch / "zoo"
    with Zoo(zoo) as opened:
        for name in ("target", "draft", "random"):
            opened.add(folder / name, name=name)
    _, second, third = parts(text)
    with Side("work.speculating:Speculating", threads=1, zoo=zoo, target="target") as side, \
         Side("work.speculating:Speculating", threads=1, zoo=zoo, target="draft") as small, \
         Reference({"target": folder / "target"}) as reference:  # fmt: skip
        amount = QUICK if quick else Amount()
        bench = _Bench(context, amount, side, reference)
        earlier = prompts_of(second, 64, context.seed)
        share = bench.cost_share(small, earlier[:1])
        fresh = prompts_of(third, 64, context.seed + 1)
        gain = bench.gain(fresh, share)
        sweep = bench.sweep(fresh, earlier)
        useless = bench.useless(fresh)
    details = {
        "pair": trained, "draft's cost per token, of the target's": round(share, 4), "new_tokens": amount.new_tokens,
        "threads": 1, "text": TEXT, "tested on": "the log's last tenth", "seed": context.seed,
    }  # fmt: skip
    same = bench.compared
    return {
        GAIN: Outcome(**gain, answers_equal=same.equal, details=details | bench.notes),
        BOUND: Outcome(**sweep, answers_equal=same.equal, details=details),
        SAME: Outcome(
            ours=[same.compared - bench.differing], baseline=[same.compared], answers_equal=same.equal,
            details=same.summary() | {"drawn": bench.drawn},
        ),
        USELESS: Outcome(**useless, answers_equal=same.equal, details=details | bench.useless_notes),
    }  # fmt: skip


class _Bench:
    """One target in one process, and the answers it gave."""

    def __init__(self, context: Context, amount: Amount, side: Side, reference: Reference) -> None:
        self._context, self._amount, self._side, self._reference = context, amount, side, reference
        self.new_tokens = amount.new_tokens
        self.compared = Comparison()
        self.differing = 0
        self.drawn = 0
        self.notes: dict[str, Any] = {}
        self.useless_notes: dict[str, Any] = {}
        self._plain: dict[tuple[float, int, bytes], list[int]] = {}

    def ask(
        self,
        mode: Any,
        prompts: Sequence[Sequence[int]],
        temperature: float = 0.0,
        tokens: int | None = None,
        **more: Any,
    ) -> Any:
        """Answer prompts in a mode; the same prompt's answers are compared over all modes."""
        tokens = tokens or self.new_tokens
        seeds = [self._context.seed + crc32(bytes(prompt)) for prompt in prompts]
        done = self._side.call("answer", mode, prompts, tokens, temperature, seeds, **more)
        for prompt, answer, seed in zip(prompts, done.answers, seeds, strict=True):
            key = (temperature, tokens, bytes(prompt))
            expected = self._plain.setdefault(key, answer)
            if temperature == 0.0:
                one = self._reference.compare({"": ("target", prompt)}, {"": answer}, {"": expected})
            else:
                numbers = draws(seed, tokens)
                one = compare_drawn(answer, expected, numbers, temperature, self._next_logits(prompt))
                self.drawn += 1
            self.differing += not one.equal
            self.compared.add(one)
        return done

    def _next_logits(self, prompt: Sequence[int]) -> Callable[[Sequence[int]], Logits]:
        return lambda tokens: self._reference.next_logits("target", [*prompt, *tokens])

    def cost_share(self, small: Side, prompts: list[list[int]]) -> float:
        """A token of the draft alone, over a token of the target alone."""
        from work.speculating import Mode

        sides = {"target": self._side, "draft": small}
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(self._amount.gains + 1):
            for name, side in sides.items():
                steps = side.call("answer", Mode(), prompts, self.new_tokens).step_seconds
                if turn:
                    taken[name].append(median(steps))
        return median(taken["draft"]) / median(taken["target"])

    def gain(self, prompts: list[list[int]], cost_share: float) -> dict[str, Any]:
        """Whole answers, one at a time, from the first prompt token to the last answer token."""
        from work.speculating import Mode

        rates: dict[str, list[float]] = {"plain": [], "draft": []}
        verified = tested = accepted = 0
        for turn in range(-1, self._amount.gains):
            self._context.progress(f"gain, {turn + 1} of {self._amount.gains}")
            for name, mode in (("plain", Mode()), ("draft", Mode("draft"))):
                done = [self.ask(mode, [prompt]) for prompt in prompts[4 * turn % 60 :][:4]]
                if turn >= 0:
                    rates[name].append(4 * self.new_tokens / sum(one.seconds for one in done))
        for prompt in prompts[: self._amount.prompts]:
            one = self.ask(Mode("draft", 1), [prompt])
            verified, tested, accepted = verified + one.verified, tested + one.drafted, accepted + one.accepted
        acceptance = accepted / tested
        self.notes = {"acceptance": round(acceptance, 4), "acceptance_counted_over": tested}
        if acceptance < LEAST_ACCEPTANCE or cost_share > MOST_COST:
            self.notes["not settled"] = (
                f"promised for acceptance of at least {LEAST_ACCEPTANCE} and a draft that costs at most {MOST_COST}"
            )
            return {"ours": rates["plain"], "baseline": rates["plain"]}
        return {"ours": rates["draft"], "baseline": rates["plain"]}

    def sweep(self, prompts: list[list[int]], earlier: list[list[int]]) -> dict[str, Any]:
        """Speed-up of the engine's own choice against the best that any length could give, at every point.

        The profile, mean seconds of a step by tokens drafted over ``earlier`` prompts, is taken in turn with the rest
        and at the same positions, so that what changes on the machine changes for both: every speed-up stands beside
        the bound that the same turn's costs allow, at the length which is best over all turns. Drawing costs too: each
        temperature has its own.
        """
        from work.speculating import Mode

        rows: list[dict[str, Any]] = []
        worst: tuple[float, list[float], list[float]] | None = None
        for temperature in TEMPERATURES:
            brought: dict[tuple[int, int], Any] = {}
            for batch in self._amount.batches:
                asked = max(self._amount.sweep, batch)
                taken: dict[int, list[float]] = {length: [] for length in self._amount.lengths}
                speedups: list[float] = []
                for turn in range(-1, self._amount.turns):
                    self._context.progress(f"sweep, batch {batch}, temperature {temperature}, {turn + 1}")
                    for length, seconds in taken.items():
                        mode = Mode("draft", length) if length else Mode()
                        steps = self.ask(mode, earlier[:batch], temperature).step_seconds
                        if turn >= 0 and steps:
                            seconds.append(fmean(steps))
                    rate = {}
                    for name, mode in (("plain", Mode()), ("draft", Mode("draft"))):
                        done = [self.ask(mode, prompts[at : at + batch], temperature) for at in range(0, asked, batch)]
                        rate[name] = sum(d.steady_tokens for d in done) / sum(d.steady_seconds for d in done)
                    if turn >= 0:
                        speedups.append(rate["draft"] / rate["plain"])
                cost = {length: median(seconds) for length, seconds in taken.items() if seconds}
                brings = {0: 1.0}
                for length in self._amount.lengths[1:]:
                    parts = range(0, asked, 8)
                    for at in parts:
                        if (length, at) not in brought:
                            some = prompts[at : min(at + 8, asked)]
                            brought[length, at] = self.ask(Mode("draft", length), some, temperature)
                    done = [brought[length, at] for at in parts]
                    brings[length] = 1 + sum(d.accepted for d in done) / sum(d.verified for d in done)
                allowed = {length: brings[length] * cost[0] / cost[length] for length in cost}
                best = max(allowed, key=lambda k: allowed[k])
                bounds = [brings[best] * plain / drafted for plain, drafted in zip(taken[0], taken[best], strict=True)]
                bound, ours = median(bounds), median(speedups)
                rows.append({
                    "batch": batch, "temperature": temperature, "acceptance at 1": round(brings[1] - 1, 3),
                    "best length": best, "bound": round(bound, 3),
                    "speed-up": round(ours, 3), "of the bound": round(ours / bound, 3),
                    "step ms by length": {k: round(1e3 * s, 3) for k, s in cost.items()},
                })  # fmt: skip
                if worst is None or ours / bound < worst[0]:
                    worst = (ours / bound, speedups, bounds)
        assert worst is not None
        return {"ours": worst[1], "baseline": worst[2], "rows": rows}

    def useless(self, prompts: list[list[int]]) -> dict[str, Any]:
        """Each repeat begins with a draft that nothing is known of, so that it pays for a whole trial.

        Both sides are one engine, asked in turns: what decides here is smaller than what two places in memory, or a
        minute on a machine that does other things too, make of the same steps. The side without declines drafts.
        """
        from work.speculating import Mode

        mode = Mode("random")
        self.ask(mode, prompts[:1], speculate=False)  # the process warms up; the draft is not tried yet
        rates: dict[str, list[float]] = {"plain": [], "random": []}
        drafted: list[int] = []
        for turn in range(self._amount.useless):
            self._context.progress(f"useless draft, {turn + 1} of {self._amount.useless}")
            self._side.call("start_over", mode)
            seconds = dict.fromkeys(rates, 0.0)
            drafted.append(0)
            for at in range(self._amount.answers):
                for name in sorted(rates, reverse=at % 2 == 1):
                    done = self.ask(mode, [prompts[at]], speculate=name == "random")
                    seconds[name] += done.seconds
                    drafted[-1] += done.drafted
            for name, taken in rates.items():
                taken.append(self._amount.answers * self.new_tokens / seconds[name])
        self.useless_notes = {"tokens drafted in each repeat": drafted}
        return {"ours": rates["random"], "baseline": rates["plain"]}
