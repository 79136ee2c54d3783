from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.serving.policy.queueing import (
    LEAST_ROWS,
    QueueLimits,
    Waiting,
    WorkClass,
    batch_limit,
    next_batch,
    queue_seconds,
    ration,
)

LIMITS = QueueLimits(rows=64, sequences=8, max_wait_s=1.0)


def work(id: int, kind: WorkClass, rows: int = 1, since: float = 0.0, instance: str = "a", kv: int = 0) -> Waiting:
    return Waiting(id, (instance,), kind, rows, since, kv)


def test_verification_goes_before_decoding_before_prompts() -> None:
    queue = [work(1, WorkClass.PREFILL, 60), work(2, WorkClass.DECODE), work(3, WorkClass.VERIFY, 4)]
    assert next_batch(queue, LIMITS, now=0.1) == (3, 2)


def test_a_prompt_that_has_waited_long_goes_first() -> None:
    queue = [work(1, WorkClass.PREFILL, 60), *(work(i, WorkClass.DECODE, since=1.0) for i in range(2, 20))]
    assert next_batch(queue, LIMITS, now=1.5)[0] == 1


def test_an_instance_takes_no_more_rows_than_its_profile_allows() -> None:
    queue = [work(i, WorkClass.DECODE, instance="ab"[i % 2]) for i in range(8)]
    assert next_batch(queue, LIMITS, now=0.0, rows_of={("a",): 2}) == (0, 1, 2, 3, 5, 7)


def test_work_without_room_for_its_pages_waits_and_others_go_on() -> None:
    queue = [work(1, WorkClass.DECODE, kv=100), work(2, WorkClass.DECODE, kv=10)]
    assert next_batch(queue, LIMITS, now=0.0, free_kv_bytes=50) == (2,)


FLAT_TO_64 = {("a",): SegmentProfile(CostTable((1, 64, 128), (0.01, 0.01, 0.02)))}


def test_so_many_rows_of_a_prompt_ride_along_as_hardly_make_the_step_longer() -> None:
    """Four decode in 10 ms; 11 ms are what 70 rows take: 64 and a tenth of what the next 64 cost."""
    queue = [work(1, WorkClass.PREFILL, 512), *(work(i, WorkClass.DECODE) for i in range(2, 6))]
    assert ration(queue, FLAT_TO_64, 0.1) == {1: 66}
    assert ration(queue, FLAT_TO_64, 0.0) == {1: 60}
    assert ration([work(1, WorkClass.PREFILL, 20), *queue[1:]], FLAT_TO_64, 0.1) == {1: 20}


def test_every_prompt_brings_its_own_ration_the_oldest_first() -> None:
    young, old = work(1, WorkClass.PREFILL, 512, since=1.0), work(2, WorkClass.PREFILL, 512)
    decoding = work(3, WorkClass.DECODE, rows=4)
    assert ration([young, old, decoding], FLAT_TO_64, 0.5) == {2: 92, 1: 32}
    crowded = work(3, WorkClass.DECODE, rows=100)
    assert ration([young, old, crowded], FLAT_TO_64, 0.0) == {2: LEAST_ROWS, 1: LEAST_ROWS}


def test_where_nobody_decodes_and_what_was_lost_is_not_rationed() -> None:
    prompt, lost = work(1, WorkClass.PREFILL, 512, instance="b"), work(2, WorkClass.VERIFY, 512)
    assert ration([prompt, lost, work(3, WorkClass.DECODE)], FLAT_TO_64 | {("b",): FLAT_TO_64["a",]}, 0.1) == {}


@given(
    st.lists(
        st.builds(
            Waiting,
            id=st.integers(0, 10**6),
            instance=st.sampled_from([("a",), ("b",)]),
            work_class=st.sampled_from(list(WorkClass)),
            rows=st.integers(1, 200),
            since=st.floats(0, 10),
        ),
        unique_by=lambda w: w.id,
        max_size=30,
    )
)
def test_something_is_always_taken_and_the_limits_hold(queue: list[Waiting]) -> None:
    chosen = next_batch(queue, LIMITS, now=10.0)
    by_id = {w.id: w for w in queue}
    assert len(set(chosen)) == len(chosen) <= LIMITS.sequences
    assert bool(chosen) == bool(queue)
    assert len(chosen) <= 1 or sum(by_id[i].rows for i in chosen) <= max(LIMITS.rows, by_id[chosen[0]].rows)


def test_batches_grow_as_long_as_they_stay_within_their_share_of_the_objective() -> None:
    profile = SegmentProfile(CostTable((1, 64, 256), (0.1, 0.1, 0.4)))
    assert batch_limit(profile, 0.1) == 64
    assert batch_limit(profile, 0.26) == 166
    assert batch_limit(profile, 0.01) == 1


def test_waiting_work_is_counted_in_full_batches() -> None:
    profile = SegmentProfile(CostTable((1, 32), (1.0, 2.0)))
    assert queue_seconds({("a",): 65, ("unknown",): 9}, {("a",): profile}, limit=32) == 2.0 + 2.0 + 1.0
