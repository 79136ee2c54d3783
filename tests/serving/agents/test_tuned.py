"""Prefix and prompt tuning over agents: each puts its share of the prefix into pages of its own."""

from __future__ import annotations

from random import Random

import pytest
from agent_fleet import PROMPT
from tiny_tuned import with_prefix, with_prompt

from quiltwork.serving.agents.message import DropState


@pytest.fixture
def tuned(make, family):
    """Tuned models cut in three over two agents, attention on both of them; and the agents."""
    models = [with_prefix(family, "a", 5, 1), with_prefix(family, "b", 20, 3), with_prompt(family, "c", 3, 2)]

    def tuned(**options):
        f = make(agents=2, prefill_chunk=16, **options)
        f.load(family.base(), family.changed("top1", "layers.3.", seed=4), *models)
        for model in models:
            f.spread(model, "a0", "a1")
            cut = f.engine.holdings.models[model.chain.model.ref].now.cut
            keeping = {holders[0] for holders, nbytes in zip(cut.holders, cut.kv_bytes, strict=True) if nbytes}
            assert keeping == {"a0", "a1"}
        return f, models

    return tuned


def test_a_prefix_that_is_split_over_agents_gives_pefts_answers_beside_bare_models(tuned, family):
    f, models = tuned()
    asked = {f.ask(model, PROMPT[i:], 6): (model, PROMPT[i:]) for i, model in enumerate(models * 2)}
    bare = f.ask(family.base(), PROMPT, 6)
    answers = f.finish()
    for id, (model, prompt) in asked.items():
        assert answers[id] == model.greedy(prompt, 6)
    assert answers[bare] == family.base().greedy(PROMPT, 6)[0]


def test_a_prefix_is_put_back_wherever_it_is_lost(tuned):
    f, models = tuned()
    asked = {f.ask(model, PROMPT, 12): model for model in models}
    random, killed = Random(1), []

    def lose(tokens):
        if random.random() < 0.3:
            f.crew.mailbox.send(random.choice(f.crew.names), DropState(random.choice(list(asked))))
        if not killed and sum(map(len, tokens.values())) > 12:
            killed.append("a1")
            f.crew.kill("a1")

    answers = f.finish(lose)
    assert killed
    for id, model in asked.items():
        assert answers[id] == model.greedy(PROMPT, 12)


def test_tuned_models_draft_and_are_drafted_for(tuned, family):
    """The two sides have different numbers of virtual tokens before the same prompt."""
    f, (a, b, c) = tuned(draft_tokens=3)
    pairs = [(a, family.base()), (b, a), (c, b)]
    for model, draft in pairs:
        f.engine.draft_with(model.chain.model.ref, draft.chain.model.ref)
    asked = {f.ask(model, PROMPT, 14): model for model in (a, b, c)}
    answers = f.finish()
    for id, model in asked.items():
        assert answers[id] == model.greedy(PROMPT, 14)
    assert f.engine.stats().speculation.draft_tokens > 0
