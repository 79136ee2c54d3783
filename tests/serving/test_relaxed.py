"""A relaxed sequence lets drafted tokens stand that its model finds nearly as likely as any: a stated rule, no more."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_llama import Desk

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]
GREEDY = SamplingOptions(temperature=0.0)
COUNT = 40


@pytest.fixture(scope="module")
def zoo(family):
    return {
        "base": family.base(),
        "near": family.changed("near", "layers.3.self_attn.o_proj", "layers.1.mlp.down", seed=21),
        "garbage": family.changed("garbage", "lm_head", "embed_tokens", "layers.", seed=9, by=3.0),
    }


def desk_of(family, zoo, draft=None, **config) -> Desk:
    clock = itertools.count()
    desk = Desk(Engine(EngineConfig(**config), lambda: float(next(clock))), family.bench)
    desk.load(zoo["base"])
    if draft is not None:
        desk.load(zoo[draft])
        desk.engine.draft_with(zoo["base"].chain.model.ref, zoo[draft].chain.model.ref)
    return desk


def emitted(desk, zoo, *asks):
    """Emissions of each ask to the base: (prompt, fields)."""
    ids = [desk.ask(zoo["base"], prompt, COUNT, **fields) for prompt, fields in asks]
    found = {sequence_id: [] for sequence_id in ids}
    while desk.engine.has_work:
        for emission in desk.engine.step():
            found[emission.sequence_id].append(emission)
    return [found[sequence_id] for sequence_id in ids]


def tokens(emissions):
    return [e.token.token for e in emissions]


def answer(desk, zoo, prompt=PROMPT, **fields):
    return tokens(emitted(desk, zoo, (prompt, fields))[0])


def relaxed_of(desk):
    return desk.engine.stats().speculation.relaxed_tokens


def shares(zoo, prompt, found, temperature=1.0):
    """Of each token: its probability under the base over that of the most likely one."""
    logits = zoo["base"].logits(prompt + found)[len(prompt) - 1 : -1] / temperature
    own = logits.gather(1, torch.tensor(found).unsqueeze(1)).squeeze(1)
    return (own - logits.max(dim=-1).values).exp().tolist()


@pytest.mark.parametrize("draft", ["near", "garbage"])
@pytest.mark.parametrize("drafted", [1, 4, None])
def test_with_a_share_of_one_greedy_answers_are_those_of_exact(family, zoo, draft, drafted):
    expected = answer(desk_of(family, zoo), zoo)
    desk = desk_of(family, zoo, draft, draft_tokens=drafted)
    assert answer(desk, zoo, relaxed=1.0) == expected
    assert desk.engine.stats().speculation.draft_tokens > 0
    assert relaxed_of(desk) == 0


@pytest.mark.parametrize("draft", ["near", "garbage"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("drafted", [0, 1, 5])
def test_no_token_of_a_greedy_answer_is_less_likely_than_the_rule_allows(family, zoo, draft, share, drafted):
    desk = desk_of(family, zoo, draft, draft_tokens=drafted)
    found = answer(desk, zoo, relaxed=share)
    of_best = shares(zoo, PROMPT, found)
    assert min(of_best) >= share - 1e-3
    assert sum(one < 1 - 1e-3 for one in of_best) == relaxed_of(desk)


def test_it_changes_answers_and_accepts_more(family, zoo):
    exact, relaxed = (desk_of(family, zoo, "near", draft_tokens=4) for _ in range(2))
    prompts = [PROMPT[i:] for i in range(6)]
    before = [answer(exact, zoo, prompt) for prompt in prompts]
    after = [answer(relaxed, zoo, prompt, relaxed=0.2) for prompt in prompts]
    assert before != after
    assert relaxed_of(relaxed) > 0
    ours, theirs = relaxed.engine.stats(), exact.engine.stats()
    assert ours.speculation.accepted_tokens > theirs.speculation.accepted_tokens
    assert ours.steps < theirs.steps


def test_a_drawn_token_is_the_models_own_draw_or_likely_enough(family, zoo):
    options = SamplingOptions(temperature=0.8, seed=5)
    found = answer(desk_of(family, zoo, "near", draft_tokens=3), zoo, sampling=options, relaxed=0.6)
    numbers = SamplingOptions(temperature=0.8, seed=5)
    exact = desk_of(family, zoo)
    for at, (token, share) in enumerate(zip(found, shares(zoo, PROMPT, found, 0.8), strict=True)):
        if share < 0.6 - 1e-3:
            # Then it is what the model draws there, with the number of that place.
            sampler_skips = at
            ours = _drawn_at(exact, zoo, PROMPT + found[:at], numbers, sampler_skips)
            assert ours == token


def _drawn_at(desk, zoo, prompt, options, skipped):
    sequence_id = desk.ask(zoo["base"], prompt, 1, sampling=options)
    seq = desk.engine._sequences[sequence_id]
    for _ in range(skipped):
        seq.sampler.draw()
    return desk.finish()[sequence_id][0]


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        SamplingOptions(temperature=1.0, seed=3),
        pytest.param(SamplingOptions(temperature=1.2, top_p=0.9, seed=4), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("draft", ["near", "garbage"])
def test_the_answer_follows_from_request_and_draft_whatever_number_is_drafted(family, zoo, options, draft):
    prompt = PROMPT * 6  # longer than one chunk, so that the draft has to catch up
    asked = {"sampling": options, "relaxed": 0.3}
    expected = answer(desk_of(family, zoo, draft, draft_tokens=0), zoo, prompt, **asked)
    for drafted in (1, 2, 7, None):
        assert answer(desk_of(family, zoo, draft, draft_tokens=drafted), zoo, prompt, **asked) == expected
    busy = desk_of(family, zoo, draft)
    others = [(PROMPT[i:], {"sampling": options, "relaxed": 0.3 if i % 2 else None}) for i in range(6)]
    assert tokens(emitted(busy, zoo, *others, (prompt, asked))[-1]) == expected


def test_others_in_the_same_batch_are_not_touched(family, zoo):
    expected = answer(desk_of(family, zoo), zoo)
    desk = desk_of(family, zoo, "near", draft_tokens=3)
    exact, _ = emitted(desk, zoo, (PROMPT, {}), (PROMPT[1:], {"relaxed": 0.05}))
    assert tokens(exact) == expected
    assert relaxed_of(desk) > 0


def test_it_goes_on_where_the_pair_is_off_and_agreement_is_still_counted_exactly(family, zoo):
    desk = desk_of(family, zoo, "garbage")
    answer(desk, zoo)
    pairing = next(iter(desk.engine._speculator.pairs.values()))
    before = desk.engine.stats().speculation.draft_tokens
    answer(desk, zoo, relaxed=1e-6)
    # All that is drafted is taken, nearly nothing of it is what the model itself says.
    counted = desk.engine.stats().speculation
    assert counted.draft_tokens - before >= COUNT - 2
    assert counted.relaxed_tokens > COUNT / 2
    assert pairing.acceptance < 0.5


def test_logprobs_are_the_models_own(family, zoo):
    options = SamplingOptions(temperature=0.0, logprobs=1)
    desk = desk_of(family, zoo, "near", draft_tokens=4)
    (found,) = emitted(desk, zoo, (PROMPT, {"sampling": options, "relaxed": 0.1}))
    assert relaxed_of(desk) > 0
    logprobs = zoo["base"].logits(PROMPT + tokens(found))[len(PROMPT) - 1 : -1].log_softmax(-1)
    for emission, row in zip(found, logprobs, strict=True):
        assert emission.token.logprob == pytest.approx(float(row[emission.token.token]), abs=1e-3)
        assert emission.token.top[0][1] == pytest.approx(float(row.max()), abs=1e-3)
    taken = [e for e in found if e.token.relaxed]
    assert all(e.token.token != e.token.top[0][0] for e in taken)
    assert len(taken) == relaxed_of(desk)


def test_what_the_request_rules_out_is_never_taken(family, zoo):
    plain = answer(desk_of(family, zoo, "near", draft_tokens=4), zoo, relaxed=0.01)
    banned = dict.fromkeys(plain, -100.0)
    options = SamplingOptions(temperature=0.0, logit_bias=banned)
    found = answer(desk_of(family, zoo, "near", draft_tokens=4), zoo, sampling=options, relaxed=0.01)
    assert not set(found) & set(banned)
    only = SamplingOptions(temperature=1.0, top_k=1, seed=1)
    greedy = answer(desk_of(family, zoo), zoo)
    assert answer(desk_of(family, zoo, "garbage", draft_tokens=4), zoo, sampling=only, relaxed=0.01) == greedy


def test_without_a_draft_there_is_nothing_to_relax(family, zoo):
    desk = desk_of(family, zoo)
    assert answer(desk, zoo, relaxed=0.01) == answer(desk_of(family, zoo), zoo)
    assert relaxed_of(desk) == 0


def test_nothing_is_held_when_all_has_ended(family, zoo):
    desk = desk_of(family, zoo, "near", prefix_cache=False)
    stop = frozenset({answer(desk, zoo, relaxed=0.3)[7]})
    emitted(desk, zoo, (PROMPT, {"relaxed": 0.3, "stop_ids": stop}), (PROMPT[2:], {"relaxed": 0.3}))
    assert desk.engine.stats().kv_used_bytes == 0
