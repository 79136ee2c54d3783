"""More models than memory holds: they come when they are asked for, and what is worth least goes for them."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime

import pytest
from lazy_host import ALL, PROMPT, Shelf, ask, counters, tokens

from quiltwork.core.errors import BadInputError, CapacityError, CorruptionError, NotFoundError, QuiltworkError
from quiltwork.serving import Engine, EngineConfig, LanguageModels


class Hand:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def weigh(family, *twins):
    """Bytes that models take in memory together."""
    engine = Engine(EngineConfig(), lambda: 0.0)
    for twin in twins:
        engine.install(engine.prepare(twin.chain, family.bench.read))
    return engine.roster.library.nbytes


@contextmanager
def serving(family, memory, *twins, clock=None, **config):
    """A host that offers models without loading them."""
    shelf = Shelf(family.bench)
    ticks = itertools.count()
    clock = clock or (lambda: float(next(ticks)))
    engine = Engine(EngineConfig(memory_bytes=memory, max_num_seqs=4, **config), clock)
    host = LanguageModels(engine, lambda: shelf, clock=clock, now=lambda: datetime(2026, 1, 1))
    host.shelf, host.engine = shelf, engine
    try:
        for twin in twins:
            host.offer(shelf.put(twin))
        yield host
    finally:
        shelf.gate.set()
        host.close()


def resident(host):
    return {ref.name for ref in host.engine.roster.served}


@pytest.fixture(scope="module")
def strangers(family):
    """Models that share nothing, and the bytes of one."""
    twins = [family.changed(f"m{at}", *ALL, seed=at + 20) for at in range(4)]
    return twins, weigh(family, twins[0])


@pytest.fixture(scope="module")
def siblings(family):
    """Models that share all but their top."""
    return [family.changed(f"s{at}", "layers.3.", "lm_head", seed=at + 40) for at in range(3)]


def alone(family, twin, prompt=PROMPT):
    with serving(family, None) as host:
        host.load(host.shelf.put(twin))
        return tokens(ask(host, twin, prompt))


def test_more_models_than_memory_holds_answer_as_each_does_alone(family, strangers):
    twins, size = strangers
    expected = {twin.chain.model.ref: alone(family, twin) for twin in twins}
    memory = int(2.6 * size)
    with serving(family, memory, *twins) as host:
        seen = []
        step = host.engine.step

        def watched():
            done = step()
            seen.append(host.engine.roster.library.nbytes + host.engine.cache.used_bytes)
            return done

        host.engine.step = watched
        assert resident(host) == set()
        for twin in twins * 3:
            assert tokens(ask(host, twin)) == expected[twin.chain.model.ref]
            assert len(resident(host)) <= 2
        assert max(seen) <= memory
        assert counters(host).loads == 12, "round-robin over more than fit is what no order of eviction saves"
        assert counters(host).evictions == 10

        def one(at):
            twin = twins[at % 4]
            assert tokens(ask(host, twin)) == expected[twin.chain.model.ref]

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(one, range(24)))
        assert max(seen) <= memory
        assert host.status()["queue"]["outstanding"] == 0


def test_the_model_asked_for_least_goes_first(family, strangers):
    twins, size = strangers
    clock = Hand()
    with serving(family, int(3.6 * size), *twins, clock=clock) as host:
        for twin, times in zip(twins, (5, 1, 3), strict=False):
            for _ in range(times):
                clock.now += 1.0
                tokens(ask(host, twin))
        assert resident(host) == {"m0", "m1", "m2"}
        tokens(ask(host, twins[3]))
        assert resident(host) == {"m0", "m2", "m3"}
        # What was asked for often, but long ago, is worth less than what was asked for seldom, but now.
        clock.now += 3000.0
        for at in (2, 3):
            tokens(ask(host, twins[at]))
        tokens(ask(host, twins[1]))
        assert resident(host) == {"m1", "m2", "m3"}


def test_a_pinned_model_stays_however_little_it_is_asked_for(family, strangers):
    twins, size = strangers
    with serving(family, int(2.6 * size), *twins) as host:
        host.pin(twins[0].chain.model.ref)
        for twin in twins[1:] * 2:
            tokens(ask(host, twin))
            assert "m0" in resident(host)
        shown = {hosted.ref.name: (hosted.state, hosted.info["pinned"]) for hosted in host.models()}
        assert shown == {
            "m0": ("ready", True),
            "m1": ("absent", False),
            "m2": ("absent", False),
            "m3": ("ready", False),
        }
        host.pin(twins[0].chain.model.ref, False)
        for twin in twins[1:] * 2:
            tokens(ask(host, twin))
        assert "m0" not in resident(host)


def test_what_siblings_share_is_counted_once_and_stays(family, siblings):
    memory = int(1.3 * weigh(family, *siblings))
    with serving(family, memory, *siblings) as host:
        for twin in siblings:
            tokens(ask(host, twin))
        assert resident(host) == {"s0", "s1", "s2"}
        assert host.engine.roster.library.nbytes == weigh(family, *siblings)
        assert counters(host).evictions == 0
    own = weigh(family, *siblings) - weigh(family, *siblings[:2])
    memory = int((weigh(family, *siblings[:2]) + own / 2) * 8 / 7)
    with serving(family, memory, *siblings) as host:
        for twin in siblings[:2]:
            tokens(ask(host, twin))
        before = host.shelf.count
        tokens(ask(host, siblings[2]))
        assert len(resident(host)) == 2
        assert counters(host).evicted_bytes <= own
        assert host.shelf.count - before < 25, "only what is its own was read"


def test_keys_and_values_outlive_the_weights(family, siblings, strangers):
    """The siblings part ways half-way up, so that the cut of the one that returns must be what it was."""
    (first, second, *_), size = strangers
    long = PROMPT * 2
    expected = alone(family, siblings[0], long)
    with serving(family, int(2.95 * size), *siblings, first, second) as host:
        assert tokens(ask(host, siblings[0], long)) == expected
        for twin in (first, second):
            tokens(ask(host, twin, PROMPT[:5], max_tokens=1))
        assert resident(host) == {"m0", "m1"}
        *parts, last = list(ask(host, siblings[0], long))
        assert [t for part in parts for t in part.fields["token_ids"]] == expected
        assert last.fields["usage"]["cached_tokens"] == 32
        assert counters(host).evictions == 2


def test_a_model_that_cannot_fit_alone_is_one_clear_error_and_evicts_nobody(family, strangers):
    twins, size = strangers
    memory = int(1.3 * size)
    with serving(family, memory, *twins[:2]) as host:
        tokens(ask(host, twins[0]))
        host.pin(twins[0].chain.model.ref)
        with pytest.raises(CapacityError, match=r"m1: needs .* of .*raise --memory"):
            tokens(ask(host, twins[1]))
        assert resident(host) == {"m0"}
        host.pin(twins[0].chain.model.ref, False)
        assert tokens(ask(host, twins[1]))
        assert host.status()["queue"]["outstanding"] == 0
    with serving(family, size) as host:
        with pytest.raises(CapacityError, match="m0: needs"):
            host.offer(host.shelf.put(twins[0]))
        assert host.shelf.count == 0
        assert host.models() == []


def test_many_requests_for_one_absent_model_load_it_once(family, strangers):
    (twin, *_), _ = strangers
    expected = alone(family, twin)
    with serving(family, None, twin) as host:
        host.shelf.gate.clear()
        streams = [ask(host, twin) for _ in range(5)]
        host.shelf.reading.wait()
        assert [hosted.state for hosted in host.models()] == ["loading"]
        assert not host.is_resident(twin.chain.model.ref)
        streams.append(ask(host, twin))
        host.shelf.gate.set()
        assert [tokens(stream) for stream in streams] == [expected] * 6
        assert host.is_resident(twin.chain.model.ref)
        assert counters(host).loads == 1


def test_a_load_leaves_what_is_running_alone_and_waits_for_it_where_it_must(family, strangers):
    twins, size = strangers
    long = {"max_tokens": 300}
    with serving(family, None) as host:
        host.load(host.shelf.put(twins[0]))
        expected = tokens(ask(host, twins[0], **long))
    with serving(family, int(1.5 * size) + (1 << 17), *twins[:2]) as host:
        running = ask(host, twins[0], **long)
        made = next(iter(running)).fields["token_ids"]
        waiting = ask(host, twins[1])
        for part in running:
            if not part.last:
                made += part.fields["token_ids"]
        assert made == expected
        assert tokens(waiting) == alone(family, twins[1])


def test_what_is_asked_for_all_the_time_is_held_back_for_what_waits(family, strangers):
    """m0 never becomes idle by itself: a new request is there before the last one ends."""
    twins, size = strangers
    expected = [alone(family, twin) for twin in twins[:2]]
    with serving(family, int(1.5 * size) + (1 << 17), *twins[:2]) as host:
        pending = [ask(host, twins[0], max_tokens=100), ask(host, twins[0], max_tokens=150)]
        next(iter(pending[0]))
        waiting = ask(host, twins[1])
        came = threading.Event()

        def read():
            assert tokens(waiting) == expected[1]
            came.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not came.is_set():
            pending.append(ask(host, twins[0], max_tokens=100))
            assert len(tokens(pending.pop(0))) >= 99
        reader.join()
        for stream in pending:
            tokens(stream)
        assert tokens(ask(host, twins[0])) == expected[0]


def test_a_load_that_fails_fails_its_requests_alone_and_may_be_tried_again(family, strangers):
    twins, size = strangers
    with serving(family, int(2.6 * size), *twins[:2]) as host:
        assert tokens(ask(host, twins[0]))
        host.shelf.broken = {twins[1].chain.links[4].block.tensors[1].content}
        bad = [ask(host, twins[1]) for _ in range(3)]
        beside = ask(host, twins[0], max_tokens=50)
        for stream in bad:
            with pytest.raises(CorruptionError, match="not what its hash says"):
                tokens(stream)
        assert len(tokens(beside)) == 50
        assert counters(host).failures >= 1
        host.shelf.broken = set()
        assert tokens(ask(host, twins[1])) == alone(family, twins[1])
        assert host.status()["queue"]["outstanding"] == 0


def test_who_waits_for_a_load_may_go_and_is_in_the_waiting_room_till_then(family, strangers):
    (twin, *_), _ = strangers
    shelf = Shelf(family.bench)
    engine = Engine(EngineConfig(max_num_seqs=1), lambda: 0.0)
    host = LanguageModels(engine, lambda: shelf, max_queue=1, clock=lambda: 0.0, now=lambda: datetime(2026, 1, 1))
    host.shelf, host.engine = shelf, engine
    host.offer(shelf.put(twin))
    shelf.gate.clear()
    first, second = ask(host, twin), ask(host, twin)
    with pytest.raises(CapacityError, match="as many as this server takes"):
        ask(host, twin)
    first.cancel()
    host._loop.call(lambda: None)
    third = ask(host, twin)
    shelf.gate.set()
    assert tokens(second) == tokens(third)
    host.close()


def test_closing_and_unloading_tell_those_who_wait(family, strangers):
    twins, _ = strangers
    with serving(family, None, *twins[:2]) as host:
        host.shelf.gate.clear()
        first, second = ask(host, twins[0]), ask(host, twins[1])
        host.shelf.reading.wait()
        unloading = threading.Thread(target=host.unload, args=(twins[1].chain.model.ref,))
        unloading.start()
        host.shelf.gate.set()
        unloading.join()
        assert tokens(first)
        with pytest.raises(NotFoundError):
            tokens(second)
        with pytest.raises(NotFoundError):
            ask(host, twins[1])
        third = None
        host.offer(host.shelf.put(twins[2]))
        host.shelf.gate.clear()
        host.shelf.reading.clear()
        third = ask(host, twins[2])
        host.shelf.reading.wait()
        closing = threading.Thread(target=host.close)
        closing.start()
        with pytest.raises(CapacityError, match="shutting down"):
            tokens(third)
        host.shelf.gate.set()
        closing.join()


def test_a_long_request_has_idle_weights_leave_and_an_impossible_one_does_not(family, strangers):
    twins, size = strangers
    with serving(family, int(2.4 * size), *twins[:2]) as host:
        for twin in twins[:2]:
            tokens(ask(host, twin, max_tokens=1))
        page = host.engine.roster.served[twins[0].chain.model.ref].page_bytes
        pages = host.engine.cache.capacity // page + 1
        with pytest.raises(BadInputError, match=r"never fit.*--memory"):
            tokens(ask(host, twins[0], max_tokens=16 * (int(1.4 * size) // page + 1)))
        assert resident(host) == {"m0", "m1"}
        assert len(tokens(ask(host, twins[0], max_tokens=16 * pages - len(PROMPT)))) == 16 * pages - len(PROMPT)
        assert resident(host) == {"m0"}


def test_a_long_request_waits_for_the_weights_in_its_way_rather_than_be_refused(family, strangers):
    twins, size = strangers
    with serving(family, int(2.4 * size), *twins[:2]) as host:
        for twin in twins[:2]:
            tokens(ask(host, twin, max_tokens=1))
        page = host.engine.roster.served[twins[0].chain.model.ref].page_bytes
        long = 16 * (host.engine.cache.capacity // page + 1) - len(PROMPT)
        in_its_way = ask(host, twins[1], max_tokens=80)
        next(iter(in_its_way))
        waiting, after = ask(host, twins[0], max_tokens=long), ask(host, twins[1])
        assert len(tokens(in_its_way)) >= 79
        assert len(tokens(waiting)) == long
        assert tokens(after) == alone(family, twins[1])


def test_models_loaded_before_the_first_offer_may_go_and_come_again(family, strangers):
    twins, size = strangers
    with serving(family, int(1.6 * size)) as host:
        host.load(host.shelf.put(twins[0]))
        expected = tokens(ask(host, twins[0]))
        host.offer(host.shelf.put(twins[1]))
        tokens(ask(host, twins[1]))
        assert resident(host) == {"m1"}
        assert tokens(ask(host, twins[0])) == expected


def test_what_nobody_may_ask_for_any_more_leaves_nothing_behind(family, siblings):
    with serving(family, 1 << 24, *siblings) as host:
        for twin in siblings:
            tokens(ask(host, twin))
        host.unload(siblings[0].chain.model.ref)
        assert host.engine.roster.library.nbytes == weigh(family, *siblings[1:])
        for twin in siblings[1:]:
            host.unload(twin.chain.model.ref)
        assert host.engine.roster.library.nbytes == 0
        assert host.models() == []


def test_a_new_version_takes_the_place_of_an_absent_and_of_a_present_one(family):
    old, new = family.changed("m", "lm_head", seed=70), family.changed("m", "lm_head", seed=71)
    with serving(family, 1 << 24, old) as host:
        ref = host.shelf.put(new, version="2")
        host.load(ref)
        assert tokens(ask(host, new)) == alone(family, new)
        host.shelf.put(old, version="3")
        host.offer(ref)
        assert not host.is_resident(ref)
        assert tokens(ask(host, old)) == alone(family, old)


def test_figures_tell_what_came_and_went(family, strangers):
    twins, size = strangers
    with serving(family, int(1.6 * size), *twins[:2]) as host:
        for twin in twins[:2]:
            tokens(ask(host, twin))
        figures = {sample.name: sample.value for sample in host.samples()}
        assert figures["quiltwork:models_offered"] == 2
        assert figures["quiltwork:models_resident"] == 1
        assert figures["quiltwork:model_loads_total"] == 2
        assert figures["quiltwork:model_evictions_total"] == 1
        assert figures["quiltwork:evicted_weight_bytes_total"] > 0
        assert figures["quiltwork:model_load_seconds_total"] > 0


def test_a_host_that_offers_nothing_is_what_it_was(family, strangers):
    (twin, *_), size = strangers
    with serving(family, 4 * size) as host:
        host.load(host.shelf.put(twin))
        tokens(ask(host, twin))
        assert "pinned" not in host.models()[0].info
        assert not any("evict" in s.name and "model" in s.name for s in host.samples())
        with pytest.raises(QuiltworkError):
            host.offer(host.shelf.put(twin).__class__("nobody"))
        host.unload(twin.chain.model.ref)
        assert host.engine.roster.library.nbytes == 0
