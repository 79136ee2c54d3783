"""Prefix and prompt tuning through the engine: virtual tokens take places, are cached, and never leak to others."""

import pytest
from tiny_llama import Twin
from tiny_tuned import with_prefix, with_prompt

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]


@pytest.mark.parametrize("make", [with_prefix, with_prompt])
@pytest.mark.parametrize("count", [5, 16, 20])
def test_virtual_tokens_give_pefts_answers_alone_and_again_from_the_cache(desk, family, make, count):
    d = desk()
    tuned = make(family, "tuned", count, seed=count)
    d.load(tuned)
    expected = tuned.greedy(PROMPT, 6)
    for _ in range(2):
        d.ask(tuned, PROMPT, 6)
        (tokens,) = d.finish().values()
        assert tokens == expected


def test_tuned_and_bare_models_mix_in_one_batch(desk, family):
    d = desk()
    base: Twin = family.base()
    tuned = [with_prefix(family, "a", 5, 1), with_prompt(family, "b", 3, 2), with_prefix(family, "c", 17, 3)]
    d.load(base, *tuned)
    asked = {d.ask(t, PROMPT[i:], 6): (t, PROMPT[i:]) for i, t in enumerate([*tuned, base, *tuned])}
    answers = d.finish()
    for sequence_id, (twin, prompt) in asked.items():
        expected = twin.greedy(prompt, 6)
        assert answers[sequence_id] == (expected[0] if isinstance(twin, Twin) else expected)
