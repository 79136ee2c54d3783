from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.live.reconcile import Present, Start, Wanted, reconcile


def test_a_gang_starts_when_all_its_gpus_are_really_free():
    wanted = {"a": Wanted(1, {"s": 2, "t": 2})}
    leaving = [Present("old", "x", "t", (0, 1, 2), leaving=True)]
    assert reconcile(wanted, leaving, {"s": 4, "t": 4}).start == ()
    assert reconcile(wanted, leaving, {"s": 4, "t": 4}).held_up == ("a",)
    steps = reconcile(wanted, [], {"s": 4, "t": 4})
    assert steps.start == (
        Start("a", "s", (0,), False),
        Start("a", "s", (1,), False),
        Start("a", "t", (0,), False),
        Start("a", "t", (1,), False),
    )


def test_flexible_workers_start_as_gpus_come_free():
    wanted = {"a": Wanted(1, {"s": 1}, {"s": 3})}
    present = [Present("a0", "a", "s", (0,)), Present("x0", "x", "s", (1, 2), leaving=True)]
    steps = reconcile(wanted, present, {"s": 4})
    assert steps.start == (Start("a", "s", (3,), True),)
    assert steps.held_up == ("a",)


def test_the_newest_of_too_many_leave_and_those_of_unwanted_jobs():
    present = [Present("a0", "a", "s", (0,)), Present("a1", "a", "s", (1,)), Present("b0", "b", "s", (2,))]
    assert reconcile({"a": Wanted(1, {"s": 1})}, present, {"s": 4}).leave == ("a1", "b0")


def test_who_leaves_already_is_not_told_again():
    present = [Present("a0", "a", "s", (0,), leaving=True)]
    assert reconcile({}, present, {"s": 1}).leave == ()


def test_nothing_starts_on_a_server_that_cannot_be_reached():
    assert reconcile({"a": Wanted(1, {"s": 1})}, [], {}).start == ()


SERVERS = ("s", "t")


@st.composite
def states(draw):
    present, taken = [], dict.fromkeys(SERVERS, 0)
    for number in range(draw(st.integers(0, 6))):
        server = draw(st.sampled_from(SERVERS))
        gpus = draw(st.integers(1, 2))
        if taken[server] + gpus <= 6:
            slots = tuple(range(taken[server], taken[server] + gpus))
            taken[server] += gpus
            job = draw(st.sampled_from("abc"))
            present.append(Present(f"w{number}", job, server, slots, draw(st.booleans())))
    counts = st.dictionaries(st.sampled_from(SERVERS), st.integers(1, 3), max_size=2)
    wanted = {
        job: Wanted(draw(st.integers(1, 2)), draw(counts), draw(counts))
        for job in draw(st.sets(st.sampled_from("abc")))
    }
    return dict(sorted(wanted.items())), present


@given(states())
def test_no_gpu_is_given_twice_and_the_end_is_what_was_wanted(state):
    wanted, present = state
    slots = dict.fromkeys(SERVERS, 6)
    for turn in range(40):
        steps = reconcile(wanted, present, slots)
        gone = set(steps.leave) | {worker.id for worker in present if worker.leaving}
        present = present + [
            Present(f"n{turn}.{i}", start.job, start.server, start.slots) for i, start in enumerate(steps.start)
        ]
        for server in SERVERS:
            taken = [slot for worker in present if worker.server == server for slot in worker.slots]
            assert len(taken) == len(set(taken))
            assert all(slot < 6 for slot in taken)
        present = [worker for worker in present if worker.id not in gone]
        if not steps.start and not gone:
            break
    for job in "abc":
        for server in SERVERS:
            count = sum(worker.job == job and worker.server == server for worker in present)
            limit = wanted[job].on(server) if job in wanted else 0
            # Where not all that is wanted has room, some of it is held up; never is there more.
            assert count <= limit
            assert count == limit or job in steps.held_up
