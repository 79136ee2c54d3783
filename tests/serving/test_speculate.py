"""Drafting never changes an answer: not which tokens, not their log-probabilities, not where it ends."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from tiny_llama import Desk

from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]
GREEDY = SamplingOptions(temperature=0.0)
PAGE = 4 * 2 * 2 * 16 * 8 * 4
"""Bytes of a page over the four attention blocks of a tiny llama."""


@pytest.fixture(scope="module")
def zoo(family):
    """A base, its variants, a draft that often agrees with them, and one of random weights that never does."""
    return {
        "base": family.base(),
        "lora4": family.lora("lora4", rank=4, seed=1, scale=0.1),
        "lora7": family.lora("lora7", rank=7, seed=2, scale=0.1),
        "top1": family.changed("top1", "layers.3.", seed=4),
        "full": family.changed("full", ".", seed=7),
        "near": family.changed("near", "layers.3.self_attn.o_proj", "layers.1.mlp.down", seed=21),
        "garbage": family.changed("garbage", "lm_head", "embed_tokens", "layers.", seed=9, by=3.0),
    }


def desk_of(family, zoo, names, draft=None, **config) -> Desk:
    clock = itertools.count()
    desk = Desk(Engine(EngineConfig(**config), lambda: float(next(clock))), family.bench)
    desk.load(*(zoo[name] for name in names))
    if draft is not None:
        if draft not in names:
            desk.load(zoo[draft])
        for name in names:
            desk.engine.draft_with(zoo[name].chain.model.ref, zoo[draft].chain.model.ref)
    return desk


def prompts(count, seed=0, length=(3, 40)):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        n = int(torch.randint(*length, (1,), generator=generator))
        yield torch.randint(0, 96, (n,), generator=generator).tolist()


def answers(desk, asks):
    """Emissions by the order of the asks: (twin, prompt, fields)."""
    ids = [desk.ask(twin, prompt, **fields) for twin, prompt, fields in asks]
    found = {sequence_id: [] for sequence_id in ids}
    while desk.engine.has_work:
        for emission in desk.engine.step():
            found[emission.sequence_id].append(emission)
    return [found[sequence_id] for sequence_id in ids]


def tokens(emissions):
    return [[e.token.token for e in one] for one in emissions]


@pytest.mark.parametrize("draft", ["near", "garbage", pytest.param("base", marks=pytest.mark.slow)])
@pytest.mark.parametrize("drafted", [1, 3, pytest.param(8, marks=pytest.mark.slow), None])
def test_greedy_answers_of_many_models_in_one_batch_are_the_same_with_any_draft(family, zoo, draft, drafted):
    names = ["base", "lora4", "lora7", "top1", "full"]
    asks = [
        (zoo[name], prompt, {"max_tokens": 5 + 7 * i})
        for i, (name, prompt) in enumerate(zip(names * 2, prompts(10), strict=True))
    ]
    plain = answers(desk_of(family, zoo, names), asks)
    desk = desk_of(family, zoo, names, draft, draft_tokens=drafted)
    speculated = answers(desk, asks)
    assert tokens(speculated) == tokens(plain)
    assert [one[-1].finish_reason for one in speculated] == [one[-1].finish_reason for one in plain]
    assert desk.engine.stats().speculation.draft_tokens > 0


def test_a_model_that_drafts_for_itself_is_always_right_and_takes_fewer_steps(family, zoo):
    asks = [(zoo["base"], prompt, {"max_tokens": 33}) for prompt in prompts(3)]
    plain = desk_of(family, zoo, ["base"])
    expected = answers(plain, asks)
    desk = desk_of(family, zoo, ["base"], "base", draft_tokens=3)
    assert tokens(answers(desk, asks)) == tokens(expected)
    counted = desk.engine.stats().speculation
    assert counted.accepted_tokens >= counted.draft_tokens - 1, "but for a tie within rounding"
    assert desk.engine.stats().steps <= plain.engine.stats().steps / 3


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=1.0, seed=5),
        SamplingOptions(temperature=0.7, top_k=8, seed=6),
        SamplingOptions(temperature=1.3, top_p=0.8, min_p=0.01, seed=7),
        SamplingOptions(temperature=0.9, frequency_penalty=0.5, presence_penalty=0.3, seed=8),
        SamplingOptions(temperature=0.0, repetition_penalty=1.4),
        SamplingOptions(temperature=1.0, logit_bias={5: 4.0, 7: -100.0}, min_tokens=9, seed=9),
    ],
)
@pytest.mark.parametrize("draft", ["near", "base"])
def test_sampled_answers_are_the_same_whatever_is_drafted(family, zoo, options, draft):
    asks = [
        (zoo[name], prompt, {"max_tokens": 24, "sampling": options, "stop_ids": frozenset({11, 12})})
        for name, prompt in zip(["base", "lora4", "top1"], prompts(3, seed=2), strict=True)
    ]
    plain = answers(desk_of(family, zoo, ["base", "lora4", "top1"]), asks)
    for drafted in (2, 5, None):
        desk = desk_of(family, zoo, ["base", "lora4", "top1"], draft, draft_tokens=drafted)
        assert tokens(answers(desk, asks)) == tokens(plain)
    assert desk.engine.stats().speculation.draft_tokens > 0


def test_a_model_that_drafts_for_itself_is_also_right_where_tokens_are_drawn(family, zoo):
    options = SamplingOptions(temperature=1.0, top_p=0.9, seed=3)
    desk = desk_of(family, zoo, ["base"], "base", draft_tokens=4)
    answers(desk, [(zoo["base"], PROMPT, {"max_tokens": 60, "sampling": options})])
    counted = desk.engine.stats().speculation
    assert counted.accepted_tokens >= 0.9 * counted.draft_tokens > 0


def test_logprobs_are_those_of_the_model_itself(family, zoo):
    options = SamplingOptions(temperature=0.0, logprobs=3)
    asks = [(zoo["lora4"], PROMPT, {"max_tokens": 20, "sampling": options, "prompt_logprobs": 1})]
    (plain,) = answers(desk_of(family, zoo, ["lora4"]), asks)
    (drafted,) = answers(desk_of(family, zoo, ["lora4"], "near", draft_tokens=4), asks)
    assert drafted[0].prompt_logprobs is not None
    for ours, theirs in zip(drafted, plain, strict=True):
        assert ours.token.token == theirs.token.token
        assert ours.token.logprob == pytest.approx(theirs.token.logprob, abs=1e-4)
        assert [id for id, _ in ours.token.top] == [id for id, _ in theirs.token.top]


@pytest.mark.parametrize("drafted", [1, 4, 8])
def test_a_stop_token_or_the_limit_in_the_middle_of_an_accepted_run_ends_the_answer(family, zoo, drafted):
    (plain,) = tokens(answers(desk_of(family, zoo, ["base"]), [(zoo["base"], PROMPT, {"max_tokens": 30})]))
    for at in range(1, 12):
        desk = desk_of(family, zoo, ["base"], "base", draft_tokens=drafted)
        (limited,) = answers(desk, [(zoo["base"], PROMPT, {"max_tokens": at})])
        assert tokens([limited]) == [plain[:at]]
        assert [e.finish_reason for e in limited] == [None] * (at - 1) + ["length"]
        stop = frozenset({plain[at]})
        (stopped,) = answers(desk, [(zoo["base"], PROMPT, {"max_tokens": 30, "stop_ids": stop})])
        end = plain.index(plain[at])
        assert tokens([stopped]) == [plain[: end + 1]]
        assert stopped[-1].finish_reason == "stop"
        assert not desk.engine.has_work
        assert desk.engine.stats().kv_held_bytes == 0


def test_nothing_is_held_and_nobody_is_counted_when_all_has_ended(family, zoo):
    desk = desk_of(family, zoo, ["base", "lora4"], "near", draft_tokens=3, prefix_cache=False)
    answers(desk, [(zoo["base"], p, {"max_tokens": 9}) for p in prompts(4)])
    assert desk.engine.stats().kv_used_bytes == 0
    assert all(served.running == 0 for served in desk.engine.roster.served.values())


def test_cancelling_between_two_steps_frees_the_draft_too(family, zoo):
    desk = desk_of(family, zoo, ["base"], "near", draft_tokens=4, prefix_cache=False)
    first = desk.ask(zoo["base"], PROMPT, 60)
    other = desk.ask(zoo["base"], PROMPT[3:], 40)
    for _ in range(4):
        desk.engine.step()
    desk.engine.cancel(first)
    (expected,) = tokens(answers(desk_of(family, zoo, ["base"]), [(zoo["base"], PROMPT[3:], {"max_tokens": 40})]))
    rest = desk.finish()
    assert first not in rest
    assert rest[other] == expected[-len(rest[other]) :]
    assert desk.engine.stats().kv_used_bytes == 0


@pytest.mark.slow
def test_scarce_memory_preempts_no_one_for_a_draft_and_changes_nothing(family, zoo):
    names = ["base", "top1"]
    asks = [(zoo[n], PROMPT[i:], {"max_tokens": 50}) for i, n in enumerate(names * 2)]
    expected = tokens(answers(desk_of(family, zoo, names), asks))
    for pages in (7, 9, 12, 20):
        plain = desk_of(family, zoo, names, kv_bytes=pages * PAGE, max_num_seqs=4)
        assert tokens(answers(plain, asks)) == expected
        for draft in ("near", "garbage"):
            desk = desk_of(family, zoo, names, draft, draft_tokens=5, kv_bytes=pages * PAGE, max_num_seqs=4)
            assert tokens(answers(desk, asks)) == expected
            assert desk.engine.stats().kv_held_bytes == 0
            assert desk.engine.stats().preemptions <= plain.engine.stats().preemptions + 1


def test_pages_in_the_cache_hold_verified_tokens_only(family, zoo):
    """What speculating sequences leave behind serves others: they find it, and answer as if they had computed it."""
    desk = desk_of(family, zoo, ["base", "top1"], "garbage", draft_tokens=7)
    (first,) = tokens(answers(desk, [(zoo["base"], PROMPT, {"max_tokens": 41})]))
    again = PROMPT + first
    hits = desk.engine.stats().kv.hits
    for name in ("base", "top1"):
        (cached,) = tokens(answers(desk, [(zoo[name], again, {"max_tokens": 12})]))
        (fresh,) = tokens(answers(desk_of(family, zoo, [name]), [(zoo[name], again, {"max_tokens": 12})]))
        assert cached == fresh
    assert desk.engine.stats().kv.hits > hits
    # Under the draft's own name as well: its pages were drafted on, taken back and published.
    (cached,) = tokens(answers(desk, [(zoo["garbage"], again, {"max_tokens": 12})]))
    alone = desk_of(family, zoo, ["garbage"])
    assert [cached] == tokens(answers(alone, [(zoo["garbage"], again, {"max_tokens": 12})]))


def test_dropping_cached_pages_at_any_moment_changes_nothing(family, zoo):
    (expected,) = tokens(answers(desk_of(family, zoo, ["base"]), [(zoo["base"], PROMPT, {"max_tokens": 40})]))
    desk = desk_of(family, zoo, ["base"], "near", draft_tokens=3)
    desk.ask(zoo["base"], PROMPT, 40)
    found = []
    while desk.engine.has_work:
        found += [e.token.token for e in desk.engine.step()]
        desk.engine.cache.clear()
    assert found == expected


def test_a_request_can_decline(family, zoo):
    desk = desk_of(family, zoo, ["base"], "base", draft_tokens=4)
    answers(desk, [(zoo["base"], PROMPT, {"max_tokens": 12, "speculation": False})])
    assert desk.engine.stats().speculation.draft_tokens == 0


def test_unloading_the_draft_under_way_changes_nothing_and_frees_it(family, zoo):
    (expected,) = tokens(answers(desk_of(family, zoo, ["base"]), [(zoo["base"], PROMPT, {"max_tokens": 30})]))
    alone = desk_of(family, zoo, ["base"]).engine.stats().weight_bytes
    desk = desk_of(family, zoo, ["base"], "garbage", draft_tokens=4)
    desk.ask(zoo["base"], PROMPT, 30)
    found = [e.token.token for _ in range(5) for e in desk.engine.step()]
    desk.engine.unload(zoo["garbage"].chain.model.ref)
    assert desk.engine.stats().weight_bytes == alone
    while desk.engine.has_work:
        found += [e.token.token for e in desk.engine.step()]
    assert found == expected


def test_what_is_drawn_follows_the_models_own_distribution(family, zoo):
    """Chi-square of the second and third token over many seeds, against the exact probabilities of a narrow choice."""
    options = {"temperature": 1.5, "top_k": 3}
    draws = 600
    first = {}

    def weights(tokens):
        logits = zoo["base"].logits(tokens)[-1] / options["temperature"]
        best = logits.topk(options["top_k"])
        return dict(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))

    desk = desk_of(family, zoo, ["base"], "near", draft_tokens=2, max_num_seqs=64)
    asks = [
        (zoo["base"], PROMPT, {"max_tokens": 3, "sampling": SamplingOptions(**options, seed=1000 + seed)})
        for seed in range(draws)
    ]
    found = [tuple(one) for one in tokens(answers(desk, asks))]
    assert desk.engine.stats().speculation.accepted_tokens > 0
    for depth in range(3):
        expected = {(): 1.0}
        for _ in range(depth + 1):
            expected = {
                (*before, token): share * p
                for before, share in expected.items()
                for token, p in (first.setdefault(before, weights(PROMPT + list(before)))).items()
            }
        counts = Counter(one[: depth + 1] for one in found)
        assert set(counts) <= set(expected)
        likely = {key: p for key, p in expected.items() if p * draws >= 5}
        square = sum((counts[key] - p * draws) ** 2 / (p * draws) for key, p in likely.items())
        # Far beyond the 99.9 % point for so many cells: a wrong rule is off by hundreds.
        assert square < len(likely) + 5 * (2 * len(likely)) ** 0.5


def test_a_tampered_verification_would_be_noticed(family, zoo):
    """Were drafted tokens taken over as they are, the answers of the tests above would differ."""
    asks = [(zoo["base"], prompt, {"max_tokens": 30}) for prompt in prompts(4)]
    expected = tokens(answers(desk_of(family, zoo, ["base"]), asks))
    drafted = tokens(answers(desk_of(family, zoo, ["near"]), [(zoo["near"], p, f) for _, p, f in asks]))
    assert drafted != expected


def test_after_every_step_nothing_unverified_is_held(family, zoo):
    """Pages end with what is verified, in the true chain and in the draft; truncating again changes nothing."""
    desk = desk_of(family, zoo, ["base", "lora4"], "garbage", draft_tokens=8)
    for name, prompt in zip(["base", "lora4"] * 2, prompts(4, seed=5), strict=True):
        desk.ask(zoo[name], prompt, 40)
    engine = desk.engine
    while engine.has_work:
        engine.step()
        used = engine.cache.held_bytes
        for seq in engine._running:
            assert seq.computed <= len(seq.tokens) - 1
            for segment, runs in zip(seq.route, seq.runs, strict=True):
                assert len(runs) == (-(-seq.computed // 16) if segment.kv_blocks else 0)
            departures = seq.departures
            engine._chunker.truncate(seq, seq.computed)
            assert seq.departures == departures
        assert engine.cache.held_bytes == used
