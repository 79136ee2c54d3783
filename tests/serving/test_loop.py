import pytest

from quiltwork.core.errors import QuiltworkError
from quiltwork.serving.loop import EngineLoop


class Idle:
    has_work = False

    def step(self):
        raise AssertionError("nothing to do")


@pytest.fixture
def loop():
    failures = []
    loop = EngineLoop(Idle(), lambda emissions: None, failures.append)
    loop.failures = failures
    yield loop
    loop.stop()


def test_calls_are_done_in_order_and_give_their_results(loop):
    done = []
    for at in range(20):
        loop.post(lambda at=at: done.append(at))
    assert loop.call(lambda: list(done)) == list(range(20))


def test_what_a_call_raises_reaches_its_caller_and_the_thread_goes_on(loop):
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 / 0)
    loop.post(lambda: 1 / 0)
    assert loop.call(lambda: 7) == 7
    assert [type(failure) for failure in loop.failures] == [ZeroDivisionError]
    assert loop.alive


def test_a_call_from_the_thread_itself_does_not_wait_for_itself(loop):
    assert loop.call(lambda: loop.call(lambda: 3)) == 3


def test_what_was_posted_before_the_end_is_done_and_nothing_is_taken_after(loop):
    done = []
    loop.post(lambda: done.append(1))
    loop.stop()
    assert done == [1]
    assert not loop.alive
    with pytest.raises(QuiltworkError):
        loop.post(lambda: None)
