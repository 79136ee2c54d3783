"""One world on agents in processes and in the simulator: what does not hang on time is the same on both sides."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

import simulator_error
from quiltwork.core.bench import Context, judge
from quiltwork.core.names import ModelRef
from quiltwork.serving.agents.message import Beat
from quiltwork.serving.profiles.measured import Measured, MeasuredBlock, signature
from quiltwork.zoo import Zoo
from work.fleet import SMALL_BODY, three_apps
from work.paced import Answered, Asked, PacedFleet, PacedRun
from work.stock import stock
from work.twin import AGENTS, CHUNK, Constants, Observed, Policy, World, bursts, fit, poisson, world_of

MODELS = ("base", "top2-0", "full-0")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("twin")
    stock(root / "zoo", three_apps(root / "fleet", seed=0, shape=SMALL_BODY))
    return root / "zoo"


def world(zoo: Path, row_s: float = 1e-5) -> World:
    """The models of the zoo, one row of any block as quick as another's."""
    rows = ((1, row_s), (64, 4 * row_s))
    with Zoo(zoo) as opened:
        blocks = [part.block for model in MODELS for part in opened.chain(ModelRef(model)).links]
    measured = {signature(b): MeasuredBlock(rows, 0.0, 0.0, 1, 64 * (b.kind == "attn"), 128) for b in blocks}
    return world_of(zoo, MODELS, Measured(measured, {}))


def asked(model: str, prompt: int, answer: int, text: str = "") -> Asked:
    rng = random.Random(f"{model}/{prompt}/{answer}/{text}")
    return Asked(0.0, model, tuple(rng.randrange(256) for _ in range(prompt)), answer)


@pytest.fixture
def crew(zoo: Path) -> Iterator[PacedFleet]:
    small = world(zoo)
    opened = PacedFleet(zoo, small.holders, small.profiles, Policy(kv="owner").live(), agents=len(AGENTS),
                        kv_bytes=1 << 24, prefill_chunk=CHUNK)  # fmt: skip
    yield opened
    opened.close()


def rows(beats: Sequence[Beat]) -> int:
    return round(sum(q["rows"] for beat in beats for q in beat.queues.values()))


def batches(beats: Sequence[Beat]) -> int:
    return round(sum(q["batches"] for beat in beats for q in beat.queues.values()))


@pytest.mark.slow
def test_counts_that_do_not_hang_on_time_are_those_of_real_agents(zoo: Path, crew: PacedFleet) -> None:
    small, policy = world(zoo), Policy(kv="owner")
    # One after the other: every batch is one request's, so that steps and batches are determined too.
    alone = [asked(model, prompt, 5) for model in MODELS for prompt in (3, CHUNK, CHUNK + 37)]
    for one in alone:
        done = crew.replay([one])
    simulated = [small.simulate([one], policy, Constants()) for one in alone]
    beats = list(done.beats.values())
    assert rows(beats) == sum(outcome.rows for outcome in simulated)
    assert batches(beats) == sum(outcome.batches for outcome in simulated)
    assert sum(beat.steps for beat in beats) == sum(outcome.steps for outcome in simulated)
    assert sum(beat.hops for beat in beats) == sum(outcome.pieces for outcome in simulated)

    # All together: batches mix as they come, rows and pieces of work stay what they are.
    others = [asked(one.model, len(one.prompt), one.new_tokens, "other") for one in alone]
    together = crew.replay(others)
    outcome = small.simulate(others, policy, Constants())
    later = list(together.beats.values())
    assert rows(later) - rows(beats) == outcome.rows
    assert sum(b.hops for b in later) - sum(b.hops for b in beats) == outcome.pieces
    assert len(together.answered) == len(outcome.finished) == len(others)
    assert outcome.tokens == sum(one.asked.new_tokens for one in together.answered)


def simulated_run(small: World, requests: Sequence[Asked], policy: Policy, truth: Constants, slower: float) -> PacedRun:
    """What a crew would report whose places do besides batches what ``truth`` says."""
    outcome = small.simulate(requests, policy, truth)
    answered = tuple(
        Answered(one, one.at + slower * f.latency) for one, f in zip(requests, outcome.finished, strict=True)
    )
    return PacedRun(answered, outcome.seconds, 0.1, {})


@pytest.mark.slow
def test_the_fit_finds_the_constants_of_the_runs_it_is_given(zoo: Path) -> None:
    small, truth = world(zoo, 1e-3), Constants(token_s=1.2e-3, step_s=2e-4, piece_s=6e-4, letter_s=1e-4)
    observed = [
        Observed(tuple(burst), simulator_error.mean_latency(small, burst, truth))
        for burst in bursts(MODELS, (1, 3), 256, "fit", answer=6)
    ]
    found, residual = fit(observed, partial(simulator_error.mean_latency, small), factors=(2.0, 1.2))
    assert residual < 0.02
    fresh = poisson(MODELS, 20.0, 1.0, 256, "fresh")
    expected = simulator_error.mean_latency(small, fresh, truth)
    assert simulator_error.mean_latency(small, fresh, found) == pytest.approx(expected, rel=0.05)


class FakeCrew:
    """Answers as the simulator says under constants of its own; bursts truly, timed requests ``slower``."""

    def __init__(self, small: World, policy: Policy, slower: float) -> None:
        self._world, self._policy, self._slower = small, policy, slower
        self.truth = Constants(token_s=8e-4, step_s=4e-4, piece_s=1e-4, letter_s=3e-4)

    def replay(self, requests: Sequence[Asked]) -> PacedRun:
        timed = any(one.at > 0 for one in requests)
        return simulated_run(self._world, requests, self._policy, self.truth, self._slower if timed else 1.0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_an_error_on_the_reported_runs_is_reported_and_not_fitted_away(
    slower: float, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = world(zoo, 1e-3)
    monkeypatch.setattr("work.twin.world_of", lambda *_: small)
    monkeypatch.setattr(simulator_error, "profile", lambda *_, **__: Measured({}, {}))
    monkeypatch.setattr(simulator_error, "open_crew", lambda _, w, policy, **__: FakeCrew(w, policy, slower))
    found = simulator_error.run(Context(quick=True, seed=0, scratch=tmp_path, data=tmp_path))
    for claim in simulator_error.CLAIMS:
        outcome = found[claim.name]
        worst = outcome.ours[0] - 1
        assert judge(claim, outcome).met is (slower == 1.0)
        if slower > 1.0:
            assert worst == pytest.approx(1 - 1 / slower, abs=0.05)
    assert [row["of saturation"] for row in found[simulator_error.LOADS].rows] == [0.4, 0.6, 0.8]
    assert len({row["policy"] for row in found[simulator_error.POLICIES].rows} - {"default"}) == 2
