"""Over agents, too, drafting never changes an answer, whatever is lost on the way."""

from __future__ import annotations

from random import Random

import pytest
from agent_fleet import PROMPT, assert_greedy

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.serving.agents.message import DropState, Pages, Run
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.pairing import Phase
from quiltwork.serving.policy.queueing import WorkClass

GREEDY = SamplingOptions(temperature=0.0)


@pytest.fixture(scope="session")
def zoo(family):
    """A base, its variants, a draft that often agrees with them, and one of random weights that never does."""
    return {
        "base": family.base(),
        "lora": family.lora("lora", rank=4, seed=1, scale=0.1),
        "top1": family.changed("top1", "layers.3.", seed=4),
        "near": family.changed("near", "layers.3.self_attn.o_proj", "layers.1.mlp.down", seed=21),
        "garbage": family.changed("garbage", "lm_head", "embed_tokens", "layers.", seed=9, by=3.0),
    }


@pytest.fixture
def drafting(make, zoo):
    """Agents that serve models, each cut over all of them, with a draft for every one."""

    def drafting(draft, names=("base", "lora", "top1"), agents=2, **options):
        f = make(agents=agents, **{"prefill_chunk": 16, "draft_tokens": 3, **options})
        f.load(*(zoo[name] for name in names))
        if draft not in names:
            f.load(zoo[draft])
        for name in names:
            f.spread(zoo[name], *f.crew.names)
            f.engine.draft_with(zoo[name].chain.model.ref, zoo[draft].chain.model.ref)
        return f

    return drafting


@pytest.fixture
def plainly(desk, zoo):
    """What one process answers without a draft."""

    def plainly(asks):
        d = desk()
        d.load(*(zoo[name] for name in dict.fromkeys(name for name, _, _ in asks)))
        for name, prompt, fields in asks:
            d.ask(zoo[name], prompt, **fields)
        return dict(sorted(d.finish().items()))

    return plainly


def answers(f, zoo, asks, meanwhile=lambda tokens: None):
    for name, prompt, fields in asks:
        f.ask(zoo[name], prompt, **fields)
    return dict(sorted(f.finish(meanwhile).items()))


def mixed(count=6, **fields):
    names = ["base", "lora", "top1"]
    return [(names[i % 3], PROMPT[i:], {"max_tokens": 14 + 3 * i, **fields}) for i in range(count)]


@pytest.mark.parametrize("draft", ["near", "garbage", pytest.param("base", marks=pytest.mark.slow)])
@pytest.mark.parametrize("drafted", [pytest.param(1, marks=pytest.mark.slow), 4, None])
def test_greedy_answers_of_many_models_are_the_same_with_any_draft(drafting, zoo, draft, drafted):
    f = drafting(draft, draft_tokens=drafted)
    asks = mixed()
    found = answers(f, zoo, asks)
    for tokens, (name, prompt, fields) in zip(found.values(), asks, strict=True):
        assert len(tokens) == fields["max_tokens"]
        assert_greedy(zoo[name], prompt, tokens)
    counted = f.engine.stats().speculation
    assert counted.draft_tokens > 0
    if draft == "base" and drafted:
        assert counted.accepted_tokens > 0


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=1.0, seed=5),
        SamplingOptions(temperature=1.3, top_p=0.8, min_p=0.01, seed=7),
        SamplingOptions(temperature=0.9, frequency_penalty=0.5, presence_penalty=0.3, seed=8),
        SamplingOptions(temperature=1.0, logit_bias={5: 4.0, 7: -100.0}, min_tokens=9, seed=9),
    ],
)
def test_sampled_answers_are_those_of_one_process_without_a_draft(drafting, plainly, zoo, options):
    asks = mixed(3, sampling=options, stop_ids=frozenset({11, 12}))
    for draft in ("near", "garbage"):
        f = drafting(draft)
        assert list(answers(f, zoo, asks).values()) == list(plainly(asks).values())
        assert f.engine.stats().speculation.draft_tokens > 0


def test_a_model_that_drafts_for_itself_is_always_right_and_takes_fewer_ways(drafting, zoo):
    ways = []
    for draft in ("base", None):
        f = drafting("base", names=("base",))
        if draft is None:
            f.engine.draft_with(zoo["base"].chain.model.ref, None)
        verified = []

        def watch(to, message, verified=verified):
            if isinstance(message, Run) and message.request > 0 and message.segment == 0 and message.start:
                verified.append(message)
            return message

        f.crew.post.spoil = watch
        (tokens,) = answers(f, zoo, [("base", PROMPT, {"max_tokens": 33})]).values()
        assert_greedy(zoo["base"], PROMPT, tokens)
        ways.append(len(verified))
        if draft is not None:
            counted = f.engine.stats().speculation
            assert counted.accepted_tokens >= counted.draft_tokens - 1, "but for a tie within rounding"
            assert {run.work_class for run in verified if run.certain is not None} == {WorkClass.VERIFY}
            assert all(run.wants == run.rows.shape[0] for run in verified if run.certain is not None)
    assert ways[0] < ways[1] / 2


def test_logprobs_are_those_of_the_model_itself(drafting, zoo, desk):
    options = SamplingOptions(temperature=0.0, logprobs=3)
    fields = {"sampling": options, "prompt_logprobs": 1}
    d = desk()
    d.load(zoo["lora"])
    d.ask(zoo["lora"], PROMPT, 20, **fields)
    f = drafting("near", names=("lora",))
    f.ask(zoo["lora"], PROMPT, 20, **fields)
    seen = [[], []]
    for engine, found in ((d.engine, seen[0]), (f.engine, seen[1])):
        while engine.has_work:
            found += engine.step()
    assert seen[1][0].prompt_logprobs is not None
    for theirs, ours in zip(*seen, strict=True):
        assert ours.token.token == theirs.token.token
        assert ours.token.logprob == pytest.approx(theirs.token.logprob, abs=1e-4)


def test_a_useless_draft_is_turned_off_and_a_useful_one_stays(drafting, zoo):
    base = zoo["base"].chain.model.ref
    f = drafting("garbage", names=("base",), draft_tokens=None)
    (tokens,) = answers(f, zoo, [("base", PROMPT, {"max_tokens": 80})]).values()
    assert_greedy(zoo["base"], PROMPT, tokens)
    assert f.engine._speculation.pairs[base].phase is Phase.OFF
    before = f.engine.stats().speculation.draft_tokens
    assert 0 < before <= 3 * 12
    assert not f.engine._speculation._shadows, "its pages are given back"
    answers(f, zoo, [("base", PROMPT[2:], {"max_tokens": 20})])
    assert f.engine.stats().speculation.draft_tokens == before


@pytest.mark.parametrize("drafted", [1, 4])
def test_a_stop_token_in_the_middle_of_an_accepted_run_ends_the_answer(drafting, zoo, drafted):
    f = drafting("base", names=("base",), draft_tokens=drafted)
    (plain,) = answers(f, zoo, [("base", PROMPT, {"max_tokens": 20})]).values()
    for at in range(1, 8):
        (limited,) = answers(f, zoo, [("base", PROMPT, {"max_tokens": at})]).values()
        assert limited == plain[:at]
        (stopped,) = answers(
            f, zoo, [("base", PROMPT, {"max_tokens": 20, "stop_ids": frozenset({plain[at]})})]
        ).values()
        assert stopped == plain[: plain.index(plain[at]) + 1]
    assert not f.engine._speculation._shadows


@pytest.mark.parametrize("draft", ["near", "base"])
def test_agents_killed_mid_stream_change_no_token(drafting, zoo, draft):
    f = drafting(draft, agents=3)
    victims = ["a1", "a0", "a2"]

    def kill(tokens):
        if victims and sum(map(len, tokens.values())) >= 10 * (4 - len(victims)):
            f.crew.kill(victims.pop(0))

    asks = [(name, PROMPT, {"max_tokens": 30}) for name in ("base", "top1", "lora")]
    for tokens, (name, prompt, _) in zip(answers(f, zoo, asks, kill).values(), asks, strict=True):
        assert len(tokens) == 30
        assert_greedy(zoo[name], prompt, tokens)
    assert not victims
    assert f.engine.stats().speculation.draft_tokens > 0


@pytest.mark.parametrize("seed", range(3))
def test_state_lost_at_any_moment_the_drafts_own_too_changes_no_token(drafting, zoo, seed):
    f = drafting("near")
    random = Random(seed)

    def drop(tokens):
        if random.random() < 0.3:
            request = random.randint(1, 3) * random.choice([1, -1])
            f.crew.mailbox.send(random.choice(f.crew.names), DropState(request))

    asks = [(name, PROMPT * 2, {"max_tokens": 20}) for name in ("base", "top1", "lora")]
    for tokens, (name, prompt, _) in zip(answers(f, zoo, asks, drop).values(), asks, strict=True):
        assert_greedy(zoo[name], prompt, tokens)


@pytest.mark.parametrize("policy", ["best", "move", "recompute"])
def test_keys_and_values_of_refused_guesses_are_never_used_wherever_the_work_goes(make, zoo, policy):
    """Among replicas the work changes places with guesses half refused behind it."""
    f = make(agents=3, prefill_chunk=16, draft_tokens=4, settings=AgentSettings(kv_policy=policy, hysteresis=0.0))
    f.load(zoo["base"], zoo["top1"], zoo["near"])
    for name in ("base", "top1", "near"):
        f.everywhere(zoo[name])
    for name in ("base", "top1"):
        f.engine.draft_with(zoo[name].chain.model.ref, zoo["near"].chain.model.ref)
    moved = []

    def watch(to, message):
        if isinstance(message, Pages) or (isinstance(message, Run) and message.kv in ("move", "recompute")):
            moved.append(message)
        return message

    f.crew.post.spoil = watch
    asks = [(name, PROMPT[i:], {"max_tokens": 40}) for i, name in enumerate(["base", "top1"] * 3)]
    for tokens, (name, prompt, _) in zip(answers(f, zoo, asks).values(), asks, strict=True):
        assert_greedy(zoo[name], prompt, tokens)
    counted = f.engine.stats().speculation
    assert 0 < counted.accepted_tokens < counted.draft_tokens
    assert moved or policy == "best"


def test_pages_of_guesses_are_never_found_by_others(make, zoo):
    """What was drafted on, refused and verified leaves pages behind that serve others right, the draft itself too."""
    f = make(agents=1, draft_tokens=5)
    f.load(zoo["base"], zoo["near"])
    f.engine.draft_with(zoo["base"].chain.model.ref, zoo["near"].chain.model.ref)
    (first,) = answers(f, zoo, [("base", PROMPT, {"max_tokens": 41})]).values()
    again = PROMPT + first
    for name in ("base", "near"):
        f.ask(zoo[name], again, 12)
        seen = []
        while f.engine.has_work:
            seen += f.engine.step()
        # The last one may end in guesses that no further token came to confirm.
        assert len(again) // 16 * 16 - seen[0].cached_tokens in (0, 16), "verified pages are found again"
        assert_greedy(zoo[name], again, [e.token.token for e in seen])


def test_drafts_give_way_before_anybody_is_put_back(make, zoo):
    page = 4 * 2 * 2 * 16 * 8 * 4
    asks = [(name, PROMPT[i:], {"max_tokens": 50}) for i, name in enumerate(["base", "top1"] * 2)]
    for pages in (7, 12, 24):
        f = make(agents=1, kv_bytes=pages * page, max_num_seqs=4, draft_tokens=3)
        f.load(zoo["base"], zoo["top1"], zoo["near"])
        for name in ("base", "top1"):
            f.engine.draft_with(zoo[name].chain.model.ref, zoo["near"].chain.model.ref)
        for tokens, (name, prompt, _) in zip(answers(f, zoo, asks).values(), asks, strict=True):
            assert len(tokens) == 50
            assert_greedy(zoo[name], prompt, tokens)
        if pages == 24:
            assert f.engine.stats().preemptions == 0
            assert f.engine.stats().speculation.draft_tokens > 0


def test_a_request_can_decline_and_a_draft_can_be_unloaded_under_way(drafting, zoo):
    f = drafting("base", names=("base",))
    answers(f, zoo, [("base", PROMPT, {"max_tokens": 12, "speculation": False})])
    assert f.engine.stats().speculation.draft_tokens == 0
    f = drafting("near", names=("base",))
    f.ask(zoo["base"], PROMPT, 30)
    found = []
    while len(found) < 10:
        found += [e.token.token for e in f.engine.step()]
    f.engine.unload(zoo["near"].chain.model.ref)
    while f.engine.has_work:
        found += [e.token.token for e in f.engine.step()]
    assert_greedy(zoo["base"], PROMPT, found)
    assert not f.engine._speculation._shadows


def test_cancelling_while_a_draft_is_made_frees_it(drafting, zoo):
    f = drafting("near", names=("base",))
    first, other = f.ask(zoo["base"], PROMPT, 60), f.ask(zoo["base"], PROMPT[3:], 30)
    told = 0  # the other one may be answered before a draft is made
    while not f.engine._speculation._shadows:
        told += sum(emission.sequence_id == other for emission in f.engine.step())
    f.engine.cancel(first)
    rest = f.finish()
    assert told + len(rest[other]) == 30
    assert not f.engine._speculation._shadows


def test_a_draft_of_another_vocabulary_or_not_loaded_is_refused(make, zoo):
    f = make()
    f.load(zoo["base"])
    with pytest.raises(NotFoundError):
        f.engine.draft_with(zoo["base"].chain.model.ref, zoo["near"].chain.model.ref)
    f.load(zoo["near"])
    f.engine.holdings.models[zoo["near"].chain.model.ref].vocab_size += 1
    with pytest.raises(BadInputError):
        f.engine.draft_with(zoo["base"].chain.model.ref, zoo["near"].chain.model.ref)
