"""The step decision: oldest first, within budget and memory, never a deadlock."""

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.schedule import Job, Limits, plan, threads_for

LIMITS = Limits(sequences=4, step_tokens=64, prefill_chunk=32)


def test_decoding_sequences_go_before_prompts():
    decision = plan([Job(1, 40, 0, 10), Job(2, 1, 20, 10)], [], 10_000, LIMITS)
    assert decision.chunks[0] == (2, 1)
    assert decision.chunks[1] == (1, 32)


def test_newcomers_start_only_where_their_whole_prompt_fits():
    assert plan([], [Job(1, 33, 0, 10)], 29, LIMITS).admitted == ()
    assert plan([], [Job(1, 33, 0, 10)], 30, LIMITS).admitted == (1,)


def test_newcomers_keep_their_order_even_if_a_later_one_would_fit():
    assert plan([], [Job(1, 100, 0, 10), Job(2, 1, 0, 10)], 30, LIMITS).admitted == ()


def test_the_youngest_gives_its_pages_back_when_the_oldest_needs_one():
    decision = plan([Job(1, 1, 16, 10), Job(2, 1, 20, 10)], [], 0, LIMITS)
    assert decision.preempted == (2,)
    assert decision.chunks == ((1, 1),)


def test_chunks_stop_at_page_boundaries_until_the_last():
    (chunk,) = plan([Job(1, 100, 8, 10)], [], 10_000, LIMITS).chunks
    assert (8 + chunk[1]) % 16 == 0
    (chunk,) = plan([Job(1, 20, 96, 10)], [], 10_000, LIMITS).chunks
    assert chunk == (1, 20)


jobs = st.builds(Job, st.just(0), st.integers(1, 80), st.integers(0, 80), st.just(10))


@given(st.lists(jobs, max_size=4), st.lists(jobs, max_size=4), st.integers(0, 400))
def test_a_plan_stays_within_budget_seats_and_memory(running, waiting, free):
    running = [Job(i, j.pending, j.computed, 10) for i, j in enumerate(running)]
    waiting = [Job(10 + i, j.pending, 0, 10) for i, j in enumerate(waiting)]
    by_id = {j.id: j for j in running + waiting}
    decision = plan(running, waiting, free, LIMITS)
    assert sum(tokens for _, tokens in decision.chunks) <= LIMITS.step_tokens
    assert all(0 < tokens <= by_id[i].pending for i, tokens in decision.chunks)
    used = sum(by_id[i].needs(tokens) for i, tokens in decision.chunks)
    assert used <= free + sum(by_id[i].holds for i in decision.preempted)
    assert len(running) - len(decision.preempted) + len(decision.admitted) <= LIMITS.sequences
    assert not {i for i, _ in decision.chunks} & set(decision.preempted)
    assert len({i for i, _ in decision.chunks}) == len(decision.chunks)


@given(st.lists(jobs, min_size=1, max_size=4), st.integers(0, 100))
def test_the_oldest_advances_whenever_all_pages_together_suffice_for_it(running, free):
    running = [Job(i, j.pending, j.computed, 10) for i, j in enumerate(running)]
    oldest = running[0]
    total = free + sum(j.holds for j in running[1:])
    decision = plan(running, [], free, LIMITS)
    if oldest.needs(min(oldest.pending, 32)) <= total and all(j.pending > 1 for j in running):
        assert decision.chunks[0][0] == oldest.id


def test_small_steps_run_on_one_thread_and_large_ones_on_all():
    small, large = 1 << 20, 1 << 27
    assert threads_for([], 8) == threads_for([(1, small)], 8) == threads_for([(1, small)] * 256, 8) == 1
    assert threads_for([(1, large)], 8) == threads_for([(1, small), (1, large)], 8) == 8
    assert threads_for([(300, small)] * 2, 8) == 8
    assert threads_for([(300, large)], 1) == 1
