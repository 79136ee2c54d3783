"""The engine gives each model's own answers, whatever runs beside it, and shares what is shared."""

import dataclasses

import pytest

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, UnsupportedError

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]


def assert_greedy(twin, prompt, tokens):
    """Equal to transformers' greedy choice; the first difference is forgiven only at a near tie."""
    expected, margins = twin.greedy(prompt, len(tokens))
    for ours, theirs, margin in zip(tokens, expected, margins, strict=True):
        if ours != theirs:
            assert margin < 1e-3, (tokens, expected)
            return


@pytest.fixture(scope="module")
def fleet(family):
    return {
        "base": family.base(),
        "lora4": family.lora("lora4", rank=4, seed=1),
        "lora7": family.lora("lora7", rank=7, seed=2),
        "high-lora": family.lora("high-lora", layers=[3], seed=3),
        "top1": family.changed("top1", "layers.3.", seed=4),
        "top2": family.changed("top2", "layers.2.", "layers.3.", seed=5),
        "head": family.changed("head", "lm_head", seed=6),
        "full": family.changed("full", ".", seed=7),
    }


def test_each_model_alone_answers_as_transformers_does(desk, fleet):
    for twin in fleet.values():
        d = desk()
        d.load(twin)
        assert len(d.engine.roster.served[twin.chain.model.ref].route) == 1
        d.ask(twin, PROMPT)
        (tokens,) = d.finish().values()
        assert_greedy(twin, PROMPT, tokens)


def test_all_models_mixed_in_one_batch_answer_as_transformers_does(desk, fleet):
    d = desk()
    d.load(*fleet.values())
    asked = {d.ask(twin, PROMPT[i:], max_tokens=6 + i): (twin, PROMPT[i:]) for i, twin in enumerate(fleet.values())}
    mixed = 0
    answers = {}
    while d.engine.has_work:
        for emission in d.engine.step():
            answers.setdefault(emission.sequence_id, []).append(emission.token.token)
        mixed = max(mixed, *(record.models for record in d.engine.stats().last_batches))
    assert mixed >= 7, "all but the full fine-tune share lower blocks and ride in one batch"
    for sequence_id, (twin, prompt) in asked.items():
        assert_greedy(twin, prompt, answers[sequence_id])


def test_a_newcomer_starts_and_ends_while_long_ones_run(desk, fleet):
    d = desk()
    d.load(fleet["base"], fleet["lora4"])
    long = [d.ask(fleet[name], PROMPT, max_tokens=40) for name in ("base", "lora4")]
    d.engine.step()
    short = d.ask(fleet["lora4"], PROMPT[2:], max_tokens=3)
    seen: list[list[int]] = []
    tokens: list[int] = []
    while d.engine.has_work and len(tokens) < 3:
        emissions = d.engine.step()
        seen.append([emission.sequence_id for emission in emissions])
        tokens += [emission.token.token for emission in emissions if emission.sequence_id == short]
    assert seen == [[*long, short]] * 3, "a token of each in every step, from the first one on"
    assert_greedy(fleet["lora4"], PROMPT[2:], tokens)


def test_chunked_prefill_and_long_prompts_change_nothing(desk, fleet):
    prompt = (PROMPT * 8)[:150]
    for chunk in (16, 48, 256):
        d = desk(prefill_chunk=chunk, step_tokens=max(chunk, 64))
        d.load(fleet["base"], fleet["lora4"])
        for name in ("base", "lora4"):
            sequence_id = d.ask(fleet[name], prompt, max_tokens=3)
            assert_greedy(fleet[name], prompt, d.finish()[sequence_id])


def test_variants_reuse_each_others_lower_layers_exactly(desk, fleet):
    prompt = (PROMPT * 6)[:129]
    d = desk()
    d.load(*fleet.values())

    def layers_for(name):
        before = d.engine.stats().prefill_token_layers
        sequence_id = d.ask(fleet[name], prompt, max_tokens=4)
        assert_greedy(fleet[name], prompt, d.finish()[sequence_id])
        return d.engine.stats().prefill_token_layers - before

    assert layers_for("base") == 129 * 4
    assert layers_for("base") == 1 * 4, "its own pages"
    assert layers_for("head") == 1 * 4, "a trained head shares all keys and values"
    assert layers_for("top2") == 128 * 2 + 1 * 4, "starts above two shared layers"
    assert layers_for("top1") == 128 * 1 + 1 * 4, "starts above three shared layers"
    assert layers_for("high-lora") == 128 * 1 + 1 * 4
    assert layers_for("lora4") == 129 * 4, "attached from the first layer on: nothing to share"
    assert layers_for("full") == 129 * 4


def test_simultaneous_requests_with_one_prefix_compute_it_once(desk, fleet):
    prompt = (PROMPT * 6)[:65]
    d = desk()
    d.load(fleet["base"])
    asked = [d.ask(fleet["base"], prompt, max_tokens=2) for _ in range(3)]
    answers = d.finish()
    assert len({tuple(answers[i]) for i in asked}) == 1
    assert d.engine.stats().prefill_token_layers == (65 + 1 + 1) * 4


def test_tenants_do_not_share_pages_unless_the_prefix_is_public(desk, fleet):
    prompt = (PROMPT * 6)[:65]

    def cached(**second):
        d = desk()
        d.load(fleet["base"])
        d.ask(fleet["base"], prompt, 1, tenant="a", **second)
        d.finish()
        d.ask(fleet["base"], prompt, 1, tenant="b", **second)
        (emission,) = [e for _ in range(4) if d.engine.has_work for e in d.engine.step()]
        return emission.cached_tokens

    assert cached() == 0
    assert cached(public_prefix=True) == 64


def test_a_reloaded_name_with_other_weights_never_sees_old_pages(desk, family):
    d = desk()
    prompt = (PROMPT * 4)[:81]
    old, new = family.changed("m", ".", seed=11), family.changed("m", ".", seed=12)
    assert old.greedy(prompt, 8)[0] != new.greedy(prompt, 8)[0]
    for twin, found in ((old, 0), (old, 80), (new, 0)):
        d.load(twin)
        d.ask(twin, prompt, 8)
        seen = []
        while d.engine.has_work:
            seen += d.engine.step()
        assert_greedy(twin, prompt, [emission.token.token for emission in seen])
        assert seen[0].cached_tokens == found


def test_ties_are_too_rare_among_these_models_to_excuse_a_wrong_answer(fleet):
    margins = [margin for twin in fleet.values() for margin in twin.greedy(PROMPT, 40)[1]]
    assert sum(margin < 1e-3 for margin in margins) <= len(margins) / 50


def test_weights_are_counted_once_and_apart_from_keys_and_values(desk, fleet):
    d = desk()
    d.load(fleet["base"], fleet["top1"], fleet["lora4"])
    chains = [fleet[name].chain for name in ("base", "top1", "lora4")]
    apart = sum(tensor.nbytes for chain in chains for part in chain.links for tensor in part.block.tensors)
    before = d.engine.stats()
    assert before.weight_bytes < apart / 2
    assert before.kv_used_bytes == 0
    d.ask(fleet["base"], list(range(24)), 30)
    d.engine.step()
    after = d.engine.stats()
    page, activation = 16 * 4 * 2 * 2 * 8 * 4, 16 * 32 * 4
    assert after.kv_used_bytes == 2 * page + activation, "4 layers' keys and values of 2 heads of 8; one page's cut"
    assert after.weight_bytes == before.weight_bytes


def test_an_upgrade_under_load_lets_running_requests_finish_on_the_old_version(desk, family):
    d = desk()
    old, new = family.changed("m", ".", seed=11), family.changed("m", "layers.3", seed=12)
    d.load(old, family.base())
    first = d.ask(old, PROMPT, max_tokens=10)
    answers = {}
    for _ in range(4):
        for e in d.engine.step():
            answers.setdefault(e.sequence_id, []).append(e.token.token)
    d.load(new)
    second = d.ask(new, PROMPT, max_tokens=10)
    for sequence_id, tokens in d.finish().items():
        answers.setdefault(sequence_id, []).extend(tokens)
    assert_greedy(old, PROMPT, answers[first])
    assert_greedy(new, PROMPT, answers[second])


def test_unloading_drains_and_frees_what_only_that_model_used(desk, fleet):
    d = desk()
    d.load(fleet["base"])
    alone = d.engine.stats().weight_bytes
    d.load(fleet["top2"])
    assert alone < d.engine.stats().weight_bytes < 2 * alone
    sequence_id = d.ask(fleet["top2"], PROMPT)
    d.engine.step()
    d.engine.unload(fleet["top2"].chain.model.ref)
    with pytest.raises(NotFoundError):
        d.ask(fleet["top2"], PROMPT)
    assert sequence_id in d.finish()
    assert d.engine.stats().weight_bytes == alone


def test_scarce_pages_preempt_and_recompute_without_changing_answers(desk, fleet):
    page = 4 * 2 * 2 * 16 * 8 * 4
    d = desk(kv_bytes=7 * page, max_num_seqs=4)
    d.load(fleet["base"], fleet["head"])
    asked = {
        d.ask(twin, PROMPT[i:], max_tokens=50): (twin, PROMPT[i:])
        for i, twin in enumerate([fleet["base"], fleet["head"], fleet["base"], fleet["head"]])
    }
    answers = d.finish()
    assert d.engine.stats().preemptions > 0
    for sequence_id, (twin, prompt) in asked.items():
        assert len(answers[sequence_id]) == 50
        assert_greedy(twin, prompt, answers[sequence_id])


@pytest.mark.parametrize("spare", [0, 1])
def test_a_sequence_that_just_fits_the_pages_ends_though_activations_are_kept_for_siblings(desk, fleet, spare):
    prompt = (PROMPT * 6)[:129]
    d = desk(kv_bytes=(9 + spare) * 4 * 2 * 2 * 16 * 8 * 4)
    d.load(fleet["base"], fleet["top1"])
    sequence_id = d.ask(fleet["base"], prompt, max_tokens=8)
    tokens = [e.token.token for _ in range(20) if d.engine.has_work for e in d.engine.step()]
    assert not d.engine.has_work
    assert d.engine.stats().preemptions == 0
    assert sequence_id
    assert_greedy(fleet["base"], prompt, tokens)


def test_dropping_cached_pages_at_any_moment_never_changes_an_answer(desk, fleet):
    d = desk()
    d.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1", "base", "top1"):
        sequence_id = d.ask(fleet[name], PROMPT * 2, max_tokens=5)
        tokens = []
        while d.engine.has_work:
            tokens += [e.token.token for e in d.engine.step()]
            d.engine.cache.clear()
        assert sequence_id
        assert tokens
        assert_greedy(fleet[name], PROMPT * 2, tokens)


def test_cancelling_frees_everything_at_once(desk, fleet):
    d = desk(prefix_cache=False)
    d.load(fleet["base"])
    sequence_id = d.ask(fleet["base"], PROMPT, 50)
    d.engine.step()
    assert d.engine.stats().kv_held_bytes > 0
    d.engine.cancel(sequence_id)
    d.engine.cancel(sequence_id)
    assert d.engine.stats().kv_used_bytes == 0
    assert not d.engine.has_work


def test_what_can_never_be_served_is_refused_before_it_runs(desk, fleet):
    d = desk(kv_bytes=4 * 2 * 2 * 16 * 8 * 4 * 2)
    d.load(fleet["base"])
    for prompt, most, where in ((PROMPT, 200, "max_tokens"), (PROMPT * 7, 1, "prompt")):
        with pytest.raises(BadInputError, match="--memory") as refused:
            d.ask(fleet["base"], prompt, most)
        assert refused.value.where == where
    with pytest.raises(BadInputError, match="exceed"):
        d.ask(fleet["base"], PROMPT, 10_000)
    with pytest.raises(BadInputError):
        d.ask(fleet["base"], [96], 1)
    with pytest.raises(BadInputError):
        d.ask(fleet["base"], [], 1)
    assert not d.engine.has_work


def test_a_model_that_does_not_fit_the_memory_is_refused_and_leaves_nothing(desk, fleet):
    d = desk()
    d.load(fleet["base"])
    weights = d.engine.stats().weight_bytes
    d = desk(memory_bytes=weights + weights // 2)
    d.load(fleet["base"])
    with pytest.raises(CapacityError):
        d.load(fleet["full"])
    assert d.engine.stats().weight_bytes == weights
    d.ask(fleet["base"], PROMPT)
    assert d.finish()


def test_prompt_logprobs_are_the_models_own(desk, fleet):
    d = desk(prefill_chunk=16, step_tokens=16)
    d.load(fleet["lora4"])
    d.ask(fleet["lora4"], PROMPT, 1, prompt_logprobs=2)
    reports = []
    while d.engine.has_work:
        reports += [e.prompt_logprobs for e in d.engine.step() if e.prompt_logprobs]
    (report,) = reports
    truth = fleet["lora4"].logits(PROMPT).log_softmax(-1)
    assert report[0] is None
    assert len(report) == len(PROMPT)
    for i, entry in enumerate(report[1:], start=1):
        assert entry.token == PROMPT[i]
        assert abs(entry.logprob - float(truth[i - 1, PROMPT[i]])) < 1e-3
        assert len(entry.top) == 2


def test_stop_tokens_end_a_sequence(desk, fleet):
    d = desk()
    d.load(fleet["base"])
    expected, _ = fleet["base"].greedy(PROMPT, 6)
    d.ask(fleet["base"], PROMPT, 20, stop_ids=frozenset({expected[3]}))
    (tokens,) = d.finish().values()
    assert tokens == expected[: expected.index(expected[3]) + 1]


def test_adapter_scale_changes_the_answer_and_the_cache_key(desk, fleet):
    d = desk()
    d.load(fleet["base"], fleet["lora4"])
    asked = [d.ask(fleet["lora4"], PROMPT, adapter_scale=0.0), d.ask(fleet["lora4"], PROMPT)]
    answers = d.finish()
    assert_greedy(fleet["base"], PROMPT, answers[asked[0]])
    assert_greedy(fleet["lora4"], PROMPT, answers[asked[1]])


def test_a_chain_that_cannot_be_executed_is_refused_and_leaves_nothing(desk, fleet):
    d = desk()
    chain = fleet["base"].chain
    odd = dataclasses.replace(chain.links[3].block, id="odd", arch={**chain.links[3].block.arch, "norm": "batch"})
    broken = dataclasses.replace(
        chain, links=(*chain.links[:3], dataclasses.replace(chain.links[3], block=odd), *chain.links[4:])
    )
    with pytest.raises(UnsupportedError, match="batch"):
        d.engine.prepare(broken, d.bench.read)
    assert d.engine.stats().weight_bytes == 0


def test_half_precision_serves_the_same_family(desk, fleet):
    d = desk(dtype="bfloat16")
    d.load(fleet["base"], fleet["lora4"], fleet["top1"])
    asked = {d.ask(fleet[n], PROMPT, 1, prompt_logprobs=1): fleet[n] for n in ("base", "lora4", "top1")}
    while d.engine.has_work:
        for emission in d.engine.step():
            truth = asked[emission.sequence_id].logits(PROMPT).log_softmax(-1)
            for i, entry in enumerate(emission.prompt_logprobs[1:], start=1):
                assert abs(entry.logprob - float(truth[i - 1, PROMPT[i]])) < 0.25


def test_options_that_change_state_keep_their_pages_apart(desk, fleet):
    d = desk()
    d.load(fleet["base"])
    prompt = (PROMPT * 6)[:65]
    for value, cached in (({"experts": 1}, 0), ({"experts": 2}, 0), ({"experts": 1}, 64)):
        d.ask(fleet["base"], prompt, 1, state_options=value)
        (emission,) = [e for _ in range(4) if d.engine.has_work for e in d.engine.step()]
        assert emission.cached_tokens == cached
