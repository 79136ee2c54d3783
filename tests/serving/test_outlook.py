"""What a request would take on a chain is learnt from steps: a batch reads its weights once, however many ride."""

from __future__ import annotations

import itertools

import pytest
from tiny_llama import Desk

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.outlook import HORIZON, Outlooks
from quiltwork.serving.sampling import SamplerState, SamplingOptions
from quiltwork.serving.sequence import Sequence

PROMPT = list(range(1, 41))


def weights(chain):
    return {part.block.id: part.block.nbytes for part in chain.links if part.block.kind != "embed"}


def taught(*chains, seats=32):
    """Outlooks after steps that cost a second per byte read and a hundredth per byte and row."""
    outlooks = Outlooks(16, seats)
    for _ in range(3):
        for rows in (1, 2, 4, 8, 16, 32):
            for chain in chains:
                outlooks.learn([(chain, 1)] * rows, sum(weights(chain).values()) * (1 + rows / 100))
    return outlooks


@pytest.fixture
def kin(family):
    return family.base().chain, family.changed("top", "layers.3.", "lm_head", seed=4).chain


def test_alone_it_reads_all_weights_for_every_token(kin):
    base, top = kin
    told = taught(base, top).of(top, [], prompt=40, found=0, tokens=10)
    every = sum(weights(top).values())
    assert told.step_s == pytest.approx(1.01 * every)
    assert told.prompt_s == pytest.approx(every * (1.16 + 1.16 + 1.08))
    assert (told.steps, told.queue_s, told.load_s) == (10, 0.0, 0.0)


def test_where_others_run_their_weights_are_read_anyway(kin):
    base, top = kin
    outlooks = taught(base, top)
    alone, joining = (outlooks.of(top, riding, prompt=1, found=0, tokens=1) for riding in ([], [base] * 4))
    own = {id: size for id, size in weights(top).items() if id not in weights(base)}
    shared = sum(weights(top).values()) - sum(own.values())
    assert joining.step_s == pytest.approx(1.01 * sum(own.values()) + 0.01 * shared)
    assert joining.step_s < alone.step_s / 2
    assert outlooks.of(base, [base] * 4, prompt=1, found=0, tokens=1).step_s == pytest.approx(
        0.01 * sum(weights(base).values())
    )


def test_who_waits_beyond_the_seats_is_no_company(kin):
    base, top = kin
    few, many = taught(base, top, seats=2), taught(base, top, seats=64)
    riding = [base] * 3 + [top] * 60
    assert few.of(base, riding, prompt=1, found=0, tokens=1) != many.of(base, riding, prompt=1, found=0, tokens=1)


def test_found_pages_cost_nothing_and_long_answers_count_up_to_a_horizon(kin):
    outlooks = taught(*kin)
    whole, rest = (outlooks.of(kin[0], [], prompt=40, found=found, tokens=1000) for found in (0, 32))
    assert rest.prompt_s == pytest.approx(whole.prompt_s * 1.08 / (1.16 + 1.16 + 1.08))
    assert (whole.steps, rest.found) == (HORIZON, 32)


def test_before_anything_is_measured_all_cost_nothing(kin):
    told = Outlooks(16, 4).of(kin[0], [kin[1]], prompt=40, found=16, tokens=3)
    assert (told.cost_s, told.found, told.steps) == (0.0, 16, 3)


def test_the_engine_learns_from_its_own_steps_and_knows_who_runs(family):
    ticks = itertools.count()
    desk = Desk(Engine(EngineConfig(), lambda: float(next(ticks))), family.bench)
    base, top = family.base(), family.changed("top", "layers.3.", "lm_head", seed=4)
    desk.load(base, top)
    chains = {twin.chain.model.ref: twin.chain for twin in (base, top)}

    def looks(prompt=(1, 2, 3)):
        sampler = SamplerState(SamplingOptions(temperature=0.0), list(prompt))
        seq = Sequence(99, top.chain.model.ref, list(prompt), sampler, 8)
        told = desk.engine.outlooks(seq, chains)
        assert seq.page_hashes == [], "asking leaves no trace"
        return [told[ref] for ref in chains]

    assert [told.cost_s for told in looks()] == [0.0, 0.0]
    for _ in range(3):
        desk.ask(base, PROMPT, 4)
        desk.finish()
    alone = looks()
    assert alone[0].step_s > 0
    desk.ask(base, PROMPT, 4)
    desk.engine.step()
    joining = looks()
    assert joining[0].step_s < joining[1].step_s < alone[1].step_s
    desk.finish()
    assert [told.found for told in looks(PROMPT)] == [32, 0]
