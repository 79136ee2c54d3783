"""Timed requests, and models loaded on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from quiltwork.core.errors import QuiltworkError
from work.replay import First, Limits, ModelServer, OnDemand, Replayed, Reply, Request, one_by_one, replay


class Echo:
    """A model that answers with its own prompt and keeps a record."""

    def __init__(self, app: str, log: list[str]) -> None:
        self._app, self._log = app, log
        log.append(f"load {app}")

    async def answer(self, request: Request, first: First) -> list[int]:
        await asyncio.sleep(0)
        first()
        return request.prompt

    def close(self) -> None:
        self._log.append(f"close {self._app}")


def ignore() -> None:
    """Nobody waits for the first token."""


def asked(*apps: str) -> list[Request]:
    return [Request(str(i), app, 0.0, [i], 1) for i, app in enumerate(apps)]


def serve(requests: Sequence[Request], capacity: int, at_once: int | None = None) -> tuple[Replayed, list[str]]:
    log: list[str] = []

    async def run() -> Replayed:
        fleet = OnDemand(lambda app: Echo(app, log), capacity, at_once)
        try:
            return await replay(requests, fleet.answer)
        finally:
            fleet.close()

    return asyncio.run(run()), log


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_every_request_is_answered_by_its_own_prompt(at_once: int | None) -> None:
    requests = asked(*"abcabcddda")
    done, _ = serve(requests, 2, at_once)
    assert {name: reply.tokens for name, reply in done.replies.items()} == {r.id: r.prompt for r in requests}


def test_a_model_that_was_to_make_room_serves_on_where_another_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("work.replay.PATIENCE", 0.0)
    log: list[str] = []
    gates = {app: asyncio.Event() for app in "abc"}

    class Gated(Echo):
        async def answer(self, request: Request, first: First) -> list[int]:
            await gates[request.app].wait()
            return request.prompt

    async def run() -> None:
        fleet = OnDemand(lambda app: Gated(app, log), 2)
        first = [asyncio.ensure_future(fleet.answer(request, ignore)) for request in asked("a", "b")]
        while len(log) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        wanting = asyncio.ensure_future(
            fleet.answer(asked("c")[0], ignore)
        )  # asks the older of the two, a, to make room
        await asyncio.sleep(0)
        again = asyncio.ensure_future(fleet.answer(asked("a")[0], ignore))
        await asyncio.sleep(0)
        gates["b"].set()  # b is idle first and makes room
        gates["c"].set()
        await asyncio.wait_for(wanting, 5)
        gates["a"].set()
        await asyncio.wait_for(asyncio.gather(*first, again), 5)
        fleet.close()

    asyncio.run(run())


def test_never_more_models_than_the_capacity() -> None:
    _, log = serve(asked(*"abcdabcd"), 2)
    resident = most = 0
    for entry in log:
        resident += 1 if entry.startswith("load") else -1
        most = max(most, resident)
    assert most == 2
    assert resident == 0


def test_with_room_for_all_each_model_is_loaded_once() -> None:
    _, log = serve(asked(*"abab"), 2)
    assert sorted(entry for entry in log if entry.startswith("load")) == ["load a", "load b"]


def test_a_model_that_cannot_load_fails_its_requests() -> None:
    def broken(app: str) -> ModelServer:
        raise QuiltworkError("no such model", where=app)

    async def run() -> None:
        await replay(asked("a"), OnDemand(broken, 1).answer)

    with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
        asyncio.run(run())
    assert "no such model" in str(caught.value.exceptions[0])


def test_latency_quantile_is_a_measured_latency() -> None:
    replies = {str(i): Reply([], float(i)) for i in range(100)}
    assert Replayed(replies, 10.0).latency(0.95) == 95.0
    assert Replayed(replies, 10.0).throughput == 10.0


def test_limits_hold_for_the_first_token_and_for_the_mean_of_the_others() -> None:
    limits = Limits(first=1.0, between=0.1)
    replies = {
        "good": Reply([1, 2, 3], 1.2, first=1.0),
        "late start": Reply([1, 2, 3], 1.2, first=1.1),
        "slow after": Reply([1, 2, 3], 1.3, first=1.0),
        "one token": Reply([1], 0.5, first=0.5),
        "not streamed": Reply([1, 2, 3], 0.1),
    }
    assert [name for name, reply in replies.items() if limits.met_by(reply)] == ["good", "one token"]
    assert Replayed(replies, 4.0).goodput(limits) == 0.5
    streamed = Replayed({name: reply for name, reply in replies.items() if reply.first}, 4.0)
    assert streamed.first(0.0) == 0.5
    assert streamed.between(1.0) == pytest.approx(0.15)


def test_a_streamed_request_needs_a_first_token() -> None:
    async def silent(request: Request, first: First) -> list[int]:
        return [1]

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(replay([Request("r", "a", 0.0, [1], 1, stream=True)], silent))
    assert "no first token" in str(caught.value.exceptions[0])


def test_one_by_one_sends_nothing_before_the_last_answer_came() -> None:
    busy = 0

    async def answer(request: Request, first: First) -> list[int]:
        nonlocal busy
        busy += 1
        assert busy == 1
        await asyncio.sleep(0)
        busy -= 1
        return request.prompt

    done = asyncio.run(one_by_one([Request(str(i), "a", 9e9, [i], 1) for i in range(3)], answer))
    assert [reply.tokens for reply in done.replies.values()] == [[0], [1], [2]]
