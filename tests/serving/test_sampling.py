"""Sampling against a straightforward numpy reference, and what must not depend on the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import Offer, SamplerState, logprobs_of, sample

VOCAB = 40


def reference(logits, options, prompt=(), generated=(), stop_ids=()):
    """Probabilities of the next token, one row, in float64, or None where the edge of a filter is within rounding."""
    x = np.asarray(logits, np.float64).copy()
    if len(generated) < options.min_tokens:
        x[list(stop_ids)] = -np.inf
    for token, bias in options.logit_bias.items():
        x[token] += bias
    for token in set(prompt) | set(generated):
        x[token] = x[token] / options.repetition_penalty if x[token] > 0 else x[token] * options.repetition_penalty
    for token in set(generated):
        count = list(generated).count(token)
        x[token] -= options.frequency_penalty * count + options.presence_penalty
    if options.greedy:
        p = np.zeros_like(x)
        p[np.argmax(x)] = 1
        top = np.sort(x)
        return None if top[-1] - top[-2] < 1e-4 else p
    p = np.exp((x - x.max()) / options.temperature)
    if np.any(np.abs(p - options.min_p) < 1e-5) and 0 < options.min_p < 1:
        return None
    p[p < options.min_p - 1e-12] = 0
    order = np.argsort(-p, kind="stable")
    gaps = -np.diff(p[order])
    if options.top_k:
        if options.top_k < len(p) and gaps[options.top_k - 1] < 1e-6 * p[order][options.top_k - 1]:
            return None
        p[order[options.top_k :]] = 0
    p /= p.sum()
    if options.top_p < 1:
        before = np.cumsum(p[order]) - p[order]
        if np.any(np.abs(before - options.top_p) < 1e-5):
            return None
        kept = before < options.top_p
        last = int(kept.sum()) - 1
        if last + 1 < len(p) and p[order[last]] > 0 and p[order[last]] - p[order[last + 1]] < 1e-7:
            return None
        p[order[~kept]] = 0
    return p / p.sum()


def inverse(p, u):
    """The token at which the cumulated probability passes ``u``, or None where that is within rounding."""
    c = np.cumsum(p)
    if np.any(np.abs(c - u) < 1e-5):
        return None
    return int(np.searchsorted(c, u, side="right"))


def with_history(options, prompt, generated, **kwargs):
    state = SamplerState(options, prompt, **kwargs)
    for token in generated:
        state.record(token)
    return state


tokens = st.integers(0, VOCAB - 1)
option_sets = st.builds(
    SamplingOptions,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    top_k=st.sampled_from([0, 1, 3, 17, 39, 40, 1000]),
    min_p=st.sampled_from([0.0, 0.02, 0.4, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    logit_bias=st.dictionaries(tokens, st.floats(-100, 100, width=16), max_size=4),
    min_tokens=st.sampled_from([0, 2, 5]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
rows = st.tuples(
    option_sets,
    st.lists(tokens, max_size=6),
    st.lists(tokens, max_size=6),
    st.frozensets(tokens, max_size=3),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5))
def test_every_row_of_a_mixed_batch_is_the_reference(batch):
    logits = np.stack([np.random.default_rng(r[4]).normal(0, 3, VOCAB) for r in batch]).astype(np.float32)
    states = [with_history(o, prompt, made, stop_ids=stop) for o, prompt, made, stop, _ in batch]
    draws = [with_history(o, prompt, made, stop_ids=stop).draw() for o, prompt, made, stop, _ in batch]
    given_logits = torch.from_numpy(logits.copy())
    result = sample(given_logits, states)
    assert torch.equal(given_logits, torch.from_numpy(logits)), "the caller's logits were changed"
    for row, (options, prompt, made, stop, _) in enumerate(batch):
        p = reference(logits[row], options, prompt, made, stop)
        if p is None:
            continue
        assert p[result[row].token] > 0
        expected = inverse(p, draws[row])
        if expected is not None:
            assert result[row].token == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5), st.integers(0, 4))
def test_a_rows_draw_does_not_depend_on_the_batch(batch, which):
    which %= len(batch)
    logits = torch.stack(
        [torch.from_numpy(np.random.default_rng(r[4]).normal(0, 3, VOCAB).astype(np.float32)) for r in batch]
    )
    together = [with_history(o, prompt, made, stop_ids=stop) for o, prompt, made, stop, _ in batch]
    options, prompt, made, stop, _ = batch[which]
    alone = with_history(options, prompt, made, stop_ids=stop)
    for _ in range(3):
        (one,) = sample(logits[which : which + 1], [alone])
        assert sample(logits, together)[which] == one


def test_greedy_is_argmax_alone_and_mixed():
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(0))
    greedy = SamplingOptions(temperature=0.0)
    assert [s.token for s in sample(logits, [SamplerState(greedy) for _ in range(6)])] == logits.argmax(-1).tolist()
    states = [SamplerState(greedy if i % 2 else SamplingOptions(seed=i)) for i in range(6)]
    mixed = [s.token for s in sample(logits, states)]
    assert mixed[1::2] == logits.argmax(-1).tolist()[1::2]


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(seed=3),
        SamplingOptions(seed=3, temperature=0.6, top_p=0.9),
        SamplingOptions(seed=3, top_k=5, min_p=0.05),
    ],
    ids=["plain", "nucleus", "top_k"],
)
def test_the_sampled_distribution_passes_a_chi_square_test(options):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(5)) * 1.5
    expected = reference(logits[0].numpy(), options)
    state, n = SamplerState(options), 6000
    counts = np.zeros(12)
    for _ in range(n):
        counts[sample(logits, [state])[0].token] += 1
    support = expected > 0
    assert counts[~support].sum() == 0
    statistic = ((counts[support] - n * expected[support]) ** 2 / (n * expected[support])).sum()
    degrees = support.sum() - 1
    # Wilson-Hilferty: the 99.9 % quantile of chi-square.
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3


def test_the_same_seed_gives_the_same_tokens_and_siblings_differ():
    logits = torch.zeros(1, 1000)

    def run(**kwargs):
        state = SamplerState(SamplingOptions(seed=7), **kwargs)
        return [sample(logits, [state])[0].token for _ in range(8)]

    assert run() == run(seed=99) == run(choice=0)
    assert run() != run(choice=1)
    unseeded = [SamplerState(SamplingOptions(), seed=s) for s in (1, 2)]
    assert sample(logits, unseeded[:1]) != sample(logits, unseeded[1:])


def test_negative_and_positive_seeds_are_different():
    one, other = (SamplerState(SamplingOptions(seed=s)) for s in (5, -5))
    assert one.draw() != other.draw()


def test_equal_logits_keep_exactly_k_tokens():
    logits = torch.zeros(1, 5000)
    state = SamplerState(SamplingOptions(seed=0, top_k=3))
    assert {sample(logits, [state])[0].token for _ in range(60)} == {0, 1, 2}


def test_a_flat_nucleus_wider_than_the_first_candidates_is_found():
    logits = torch.zeros(1, 9000)
    logits[0, ::2] = 0.5
    state = SamplerState(SamplingOptions(seed=0, top_p=0.5))
    drawn = {sample(logits, [state])[0].token for _ in range(400)}
    # exp(.5) / (1 + exp(.5)) = 62 % of the mass is on even ids, so half of it is on the first 3,615 of them.
    assert all(token % 2 == 0 for token in drawn)
    assert max(drawn) < 2 * 3616
    assert max(drawn) > 6500


def test_top_p_within_top_k_renormalises():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    # Of the two largest, the first has 4/7 = 0.571 of the mass.
    state = SamplerState(SamplingOptions(seed=0, top_k=2, top_p=0.57))
    assert {sample(logits, [state])[0].token for _ in range(50)} == {0}
    state = SamplerState(SamplingOptions(seed=0, top_k=2, top_p=0.58))
    assert {sample(logits, [state])[0].token for _ in range(50)} == {0, 1}


def test_logprobs_are_the_models_own():
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(1))
    options = SamplingOptions(temperature=0.2, logit_bias={4: 100.0}, logprobs=3)
    states = [SamplerState(options), SamplerState(SamplingOptions(temperature=0)), SamplerState(options)]
    result = sample(logits, states)
    raw = torch.log_softmax(logits, -1)
    assert result[0].token == 4
    assert result[0].logprob == pytest.approx(raw[0, 4].item(), abs=1e-6)
    assert [i for i, _ in result[0].top] == raw[0].topk(3).indices.tolist()
    assert result[1].logprob is None
    assert logprobs_of(logits[:1], [4], [3]) == result[:1]


def test_zero_logprobs_report_the_token_alone():
    (result,) = sample(torch.zeros(1, 8), [SamplerState(SamplingOptions(temperature=0, logprobs=0))])
    assert result.logprob == pytest.approx(-np.log(8))
    assert result.top == ()


def test_min_tokens_hold_stop_tokens_back_and_then_let_go():
    logits = torch.zeros(1, 10)
    logits[0, 2] = 50.0
    state = SamplerState(SamplingOptions(temperature=0, min_tokens=2), stop_ids=frozenset({2}))
    assert [sample(logits, [state])[0].token == 2 for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_of_broken_logits_is_an_error_of_that_row_alone(bad):
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(2))
    logits[1, 7] = bad
    states = [SamplerState(SamplingOptions(seed=1)) for _ in range(3)]
    sample(logits, states)
    assert [state.error is not None for state in states] == [False, True, False]


def test_a_row_with_everything_masked_is_an_error_of_that_row_alone():
    class Nothing:
        stopped = False
        error = ""

        def allowed(self, vocab_size):
            return np.zeros(vocab_size, bool)

        def accept(self, token):
            pass

    states = [SamplerState(SamplingOptions(temperature=0), grammar=Nothing()), SamplerState(SamplingOptions(seed=1))]
    sample(torch.zeros(2, 8), states)
    assert states[0].error is not None
    assert states[1].error is None


@pytest.mark.parametrize("temperature", [1.1e-5, 1e-3, 100.0])
def test_extreme_temperatures_stay_finite(temperature):
    logits = torch.tensor([[-1e4, 0.0, 1e4]])
    state = SamplerState(SamplingOptions(seed=0, temperature=temperature, top_p=0.9))
    sample(logits, [state])
    assert state.error is None


def test_no_token_of_weight_zero_is_ever_drawn():
    class Last(SamplerState):
        __slots__ = ()

        def draw(self):
            return 1.0 - 2**-53

    logits = torch.full((1, 50), -1.0)
    logits[0, 30:] = float("-inf")
    assert sample(logits, [Last(SamplingOptions())])[0].token == 29


def test_half_precision_logits_are_accepted():
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(3)).bfloat16()
    states = [SamplerState(SamplingOptions(temperature=0, logprobs=2)) for _ in range(2)]
    assert [s.token for s in sample(logits, states)] == logits.argmax(-1).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 1.0), st.sampled_from([0.0, 0.7, 1.5]), st.integers(0, VOCAB - 1))
def test_an_offered_token_is_taken_where_it_is_as_likely_as_it_must_be(seed, share, temperature, token):
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    options = SamplingOptions(temperature=temperature, seed=seed, logit_bias={3: 2.0}, top_k=20 if temperature else 0)
    states = [SamplerState(options) for _ in range(2)]
    plain = [SamplerState(options) for _ in range(2)]
    drawn = sample(logits, plain)
    found = sample(logits, states, [Offer(token, share), None])
    assert found[1] == drawn[1], "nothing was offered to it"
    biased = logits[0].double()
    biased[3] += 2.0
    weights = ((biased - biased.max()) / (temperature or 1.0)).exp()
    if temperature:
        weights[biased < biased.topk(20).values[-1]] = 0.0
    if token == drawn[0].token:
        assert found[0] == drawn[0]
    elif abs(float(weights[token]) - share) > 1e-5:
        taken = float(weights[token]) > share
        assert found[0].relaxed is taken
        assert found[0].token == (token if taken else drawn[0].token)
    assert [state.draw() for state in states] == [state.draw() for state in plain], "as many numbers are used up"


def test_what_stands_in_place_of_a_draw_is_what_penalties_and_reports_go_by():
    logits = torch.zeros(1, 4)
    logits[0, 1], logits[0, 2] = 2.0, 1.9
    state = SamplerState(SamplingOptions(temperature=0.0, presence_penalty=1.0, logprobs=1))
    first, second = (sample(logits, [state], [Offer(2, 0.5)])[0] for _ in range(2))
    assert (first.token, first.relaxed) == (2, True)
    assert first.logprob == pytest.approx(float(logits[0].log_softmax(-1)[2]))
    assert first.top[0][0] == 1
    # Now that it was said it is penalised, and no longer likely enough.
    assert (second.token, second.relaxed) == (1, False)
