"""The real engine behind the one door, under change: nothing is lost, mixed up or kept."""

import dataclasses
import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from tiny_llama import Chains

from quiltwork.core.errors import NotFoundError, QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import Engine, EngineConfig, LanguageModels

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19]


@pytest.fixture
def served(family):
    clock = itertools.count()
    shelf = Chains(family.bench)
    engine = Engine(EngineConfig(max_num_seqs=6, prefill_chunk=16, step_tokens=64), lambda: float(next(clock)))
    servable = LanguageModels(engine, lambda: shelf, clock=lambda: float(next(clock)), now=lambda: datetime(2026, 1, 1))
    servable.shelf = shelf
    yield servable
    servable.close()


def ask(served, ref, prompt=PROMPT, tenant="public", **options):
    options = {"temperature": 0, "max_tokens": 12, **options}
    return served.submit(ref, Input("completion", {"prompt": prompt}), options, caller=Caller(tenant))


def tokens(stream):
    return [token for part in stream if not part.last for token in part.fields["token_ids"]]


def test_reloading_and_cancelling_under_load_gives_no_wrong_token_and_keeps_nothing(served, family):
    twins = [family.base("m"), family.changed("m", "layers.3.", seed=5), family.lora("m", seed=3)]
    other = family.changed("other", "lm_head", seed=6)
    ref, steady = served.shelf.put(twins[0]), served.shelf.put(other)
    served.load(ref)
    served.load(steady)
    answers = {}
    for at, twin in enumerate(twins):
        served.shelf.put(twin, version=str(at))
        served.load(ref)
        answers[str(at)] = tokens(ask(served, ref))
    expected = tokens(ask(served, steady))
    assert len(set(map(tuple, answers.values()))) == 3

    def one(at):
        chance = random.Random(at)
        if chance.random() < 0.3:
            assert tokens(ask(served, steady)) == expected
            return
        stream, made = ask(served, ref), []
        for part in stream:
            if part.last:
                assert made == answers[part.fields["served"]["version"]]
            else:
                made += part.fields["token_ids"]
            if chance.random() < 0.05:
                stream.cancel()

    def reload(at):
        served.shelf.put(twins[at % 3], version=str(at % 3))
        served.load(ref)

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(one, at) for at in range(80)] + [pool.submit(reload, at) for at in range(12)]
        for item in work:
            item.result()
    served.unload(ref)
    served.unload(steady)
    served._loop.call(served._publish)
    status = served.status()
    assert status["queue"] == {"running": 0, "waiting": 0, "outstanding": 0, "room": status["queue"]["room"]}
    assert status["kv"]["held_bytes"] == 0
    assert status["weights"]["bytes"] == 0
    assert served.models() == []


def test_pages_computed_on_another_cut_are_not_taken_for_ones_own(served, family):
    """With a sibling loaded the chain is two segments, without it one: equal in hash at its end, not in pages."""
    ref, sibling = served.shelf.put(family.base("m")), served.shelf.put(family.changed("s", "layers.3.", "lm_head"))
    served.load(ref)
    alone = tokens(ask(served, ref, PROMPT * 3))
    for _ in range(2):
        served.load(sibling)
        assert tokens(ask(served, ref, PROMPT * 3)) == alone
        served.unload(sibling)
        assert tokens(ask(served, ref, PROMPT * 3)) == alone


def test_a_stop_token_and_a_length_beyond_memory_and_broken_weights_do_no_harm(served, family):
    twin = family.base("m")
    ref = served.shelf.put(twin)
    served.load(ref)
    expected = tokens(ask(served, ref))
    assert tokens(ask(served, ref, stop_token_ids=[expected[4]])) == expected[: expected.index(expected[4]) + 1]
    broken = family.changed("broken", ".", seed=9)
    weights = {name: tensor * float("nan") for name, tensor in broken.weights.items()}
    chain = family.bench.chain("broken", weights)
    bad = served.shelf.put(dataclasses.replace(broken, chain=chain))
    served.load(bad)
    beside = ask(served, ref)
    with pytest.raises(QuiltworkError, match="not finite"):
        tokens(ask(served, bad))
    assert tokens(beside) == expected
    assert served.status()["queue"]["outstanding"] == 0


def test_n_choices_share_the_prompt(served, family):
    ref = served.shelf.put(family.base("m"))
    served.load(ref)
    stream = ask(served, ref, n=3, temperature=1.0, seed=4)
    by_choice = {}
    for part in stream:
        if not part.last:
            by_choice.setdefault(part.fields["index"], []).extend(part.fields["token_ids"])
    assert {index: len(made) for index, made in by_choice.items()} == {0: 12, 1: 12, 2: 12}
    assert len(set(map(tuple, by_choice.values()))) == 3
    assert served._loop.call(served._engine.stats).cached_prompt_tokens >= 16


def test_anothers_model_is_not_found(served, family):
    ref = served.shelf.put(family.base("mine", tenant="acme"))
    served.load(ref)
    with pytest.raises(NotFoundError):
        ask(served, ModelRef("mine"))
    with pytest.raises(NotFoundError):
        ask(served, ref)


def test_a_tenant_cannot_tell_by_time_what_another_one_asked(served, family):
    """What makes an answer fast is work found in the cache; none of another tenant's is ever found."""
    ref = served.shelf.put(family.base("m"))
    served.load(ref)
    found = [
        next(part.fields["usage"]["cached_tokens"] for part in ask(served, ref, tenant=tenant) if part.last)
        for tenant in ("red", "blue", "red")
    ]
    assert found == [0, 0, 16]


def test_the_figures_of_each_tenant_are_metrics_and_on_the_status(served, family):
    ref = served.shelf.put(family.base("m"))
    served.load(ref)
    for tenant in ("red", "blue"):
        tokens(ask(served, ref, tenant=tenant, max_tokens=5))
    samples = {(s.name, s.labels.get("tenant"), s.labels.get("tokens")): s.value for s in served.samples()}
    assert samples["quiltwork:tenant_served_tokens_total", "red", "prompt"] == len(PROMPT)
    assert samples["quiltwork:tenant_served_tokens_total", "blue", "generated"] == 5
    assert samples["quiltwork:tenant_waiting", "red", None] == 0
    assert samples["quiltwork:tenant_kv_held_bytes", "red", None] == 0
    rows = {row["tenant"]: row for row in served.status()["tenants"]}
    assert rows["red"]["counter"] == len(PROMPT) + 2 * 5
    assert rows["blue"]["kv_cached_bytes"] > 0
