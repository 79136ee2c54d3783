"""In time that runs by the work done: drafting is used where it pays, and a useless draft costs next to nothing."""

from __future__ import annotations

import pytest
from tiny_llama import Desk

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.pairing import HOPELESS_TOKENS

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]


class Workshop:
    """An engine whose clock goes on by what a run of the true chain or of the draft is said to cost."""

    def __init__(self, family, twin, draft, verify, drafted, **config) -> None:
        self.now = 0.0
        engine = Engine(EngineConfig(**config), lambda: self.now)
        self.desk, self.twin = Desk(engine, family.bench), twin
        self.desk.load(twin)
        if draft is not None:
            self.desk.load(draft)
            engine.draft_with(twin.chain.model.ref, draft.chain.model.ref)
        self._charge(engine._executor, verify)
        self._charge(engine._speculator._executor, drafted)

    def _charge(self, executor, cost) -> None:
        run = executor.run

        def charged(works):
            self.now += cost(sum(work.count for work in works))
            return run(works)

        executor.run = charged

    def answer(self, batch, count):
        began = self.now
        for i in range(batch):
            self.desk.ask(self.twin, PROMPT[i % 20 :], count)
        return list(self.desk.finish().values()), self.now - began

    @property
    def drafted(self):
        return self.desk.engine.stats().speculation.draft_tokens


@pytest.fixture(scope="module")
def twins(family):
    return family.base(), family.changed("garbage", "lm_head", "layers.", seed=9, by=3.0), family.base("small")


def memory_bound(rows):
    return 0.05 * max(1.0, rows / 4)


def compute_bound(rows):
    return 0.05 * rows


def small(rows):
    return 0.05 / 8


def test_a_useless_draft_costs_at_most_two_percent(family, twins):
    base, garbage, _ = twins
    plain = Workshop(family, base, None, memory_bound, small)
    ours = Workshop(family, base, garbage, memory_bound, small)
    spent = {"plain": 0.0, "ours": 0.0}
    for _ in range(4):
        expected, seconds = plain.answer(1, 400)
        spent["plain"] += seconds
        found, seconds = ours.answer(1, 400)
        spent["ours"] += seconds
        assert found == expected
    assert ours.drafted > 0
    assert spent["ours"] <= 1.02 * spent["plain"]


def test_an_engine_that_has_found_its_draft_useless_steps_as_if_it_had_none(family, twins):
    base, garbage, _ = twins
    ours = Workshop(family, base, garbage, memory_bound, small, prefix_cache=False)
    ours.answer(1, 20)
    drafted, speculator = ours.drafted, ours.desk.engine._speculator
    assert 0 < drafted <= HOPELESS_TOKENS
    speculator._executor.run = None  # nothing is asked of the draft any more
    _, seconds = ours.answer(1, 30)
    # The step that computes the prompt gives the first token.
    assert seconds == pytest.approx(memory_bound(len(PROMPT)) + 29 * memory_bound(1))
    assert ours.drafted == drafted


def test_a_good_draft_saves_what_its_costs_and_acceptance_allow(family, twins):
    base, _, same = twins
    plain, ours = (Workshop(family, base, draft, memory_bound, small) for draft in (None, same))
    expected, before = plain.answer(1, 400)
    found, after = ours.answer(1, 400)
    assert found == expected
    # Always right: four rows are as cheap as one, three runs of the draft are 3/8 of one: 4 / 1.375 = 2.9 times.
    assert before / after > 2.5


def test_it_sees_that_verifying_is_not_free_in_a_large_batch(family, twins):
    base, _, same = twins
    ours = Workshop(family, base, same, memory_bound, small, step_tokens=256)
    ours.answer(1, 60)
    before = ours.drafted
    ours.answer(24, 60)
    in_batch = (ours.drafted - before) / 24
    before = ours.drafted
    ours.answer(1, 60)
    alone = ours.drafted - before
    assert alone > 30
    assert in_batch < alone / 4


@pytest.mark.slow
def test_where_every_row_costs_as_much_as_the_first_nothing_is_drafted_for_long(family, twins):
    base, _, same = twins
    plain, ours = (Workshop(family, base, draft, compute_bound, small) for draft in (None, same))
    plain.answer(4, 100)
    ours.answer(4, 100)  # it learns what rows cost
    expected, before = plain.answer(4, 300)
    found, after = ours.answer(4, 300)
    assert found == expected
    assert after <= 1.02 * before
