"""Tenants share a server by what each was served: nobody starves, nobody idles, no order of dicts decides."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.serving.fairness import Entitlements, Standings, admits, lifted, ranked
from quiltwork.serving.schedule import PAGE, Job, Limits, plan

LIMITS = Limits(sequences=4, step_tokens=64, prefill_chunk=32)


def standings(served=None, held=None, capacity=0, **entitled) -> Standings:
    return Standings(served or {}, held or {}, capacity, Entitlements(**entitled))


# --- one step -------------------------------------------------------------------------------------------------------


def test_the_tenant_served_least_starts_first():
    waiting = [Job(1, 40, 0, 10, "a"), Job(2, 40, 0, 10, "b")]
    seats = replace(LIMITS, sequences=1)
    assert plan([], waiting, 10_000, seats, standings({"a": 5.0, "b": 4.0})).admitted == (2,)
    assert plan([], waiting, 10_000, seats, standings({"a": 5.0, "b": 6.0})).admitted == (1,)


def test_what_starts_in_a_step_counts_for_the_next_place_of_it():
    waiting = [Job(i, 20, 0, 10, "a") for i in (1, 2, 3)] + [Job(i, 20, 0, 10, "b") for i in (4, 5)]
    assert plan([], waiting, 10_000, LIMITS, standings()).admitted == (1, 4, 2, 5)


def test_a_prompt_that_was_promised_counts_before_it_is_computed():
    running = [Job(1, 300, 0, 10, "a")]
    waiting = [Job(2, 20, 0, 10, "a"), Job(3, 20, 0, 10, "b")]
    assert plan(running, waiting, 10_000, LIMITS, standings({"b": 100.0})).admitted[0] == 3


def test_a_tenant_of_twice_the_weight_starts_twice_as_often():
    waiting = [Job(i, 10, 0, 10, "a") for i in range(9)] + [Job(10 + i, 10, 0, 10, "b") for i in range(9)]
    limits = Limits(sequences=9, step_tokens=512, prefill_chunk=32)
    started = plan([], waiting, 10_000, limits, standings(weights={"b": 2.0})).admitted
    assert sum(id >= 10 for id in started) == 6


def test_the_rest_of_a_steps_budget_goes_to_the_prompt_of_the_tenant_served_least():
    running = [Job(1, 100, 0, 10, "a"), Job(2, 100, 0, 10, "b")]
    limits = replace(LIMITS, step_tokens=32)
    assert plan(running, [], 10_000, limits, standings({"a": 9.0})).chunks == ((2, 32),)


def test_a_newcomer_of_another_tenant_computes_before_the_rest_of_a_flood_of_prompts():
    running = [Job(i, 300, 0, 10, "a") for i in (1, 2)]
    decision = plan(running, [Job(3, 20, 0, 10, "b")], 10_000, LIMITS, standings({"a": 500.0, "b": 400.0}))
    assert decision.chunks[0] == (3, 20)


def test_answers_of_the_tenant_served_least_go_first_where_the_budget_is_short():
    running = [Job(i, 1, 20, 10, "a") for i in range(3)] + [Job(9, 1, 20, 10, "b")]
    decision = plan(running, [], 10_000, Limits(8, 16, 16), standings({"a": 1.0}))
    assert decision.chunks[0] == (9, 1)


def test_many_answers_of_one_tenant_leave_room_for_another_ones_prompt():
    running = [Job(i, 1, 20, 10, "a") for i in range(64)] + [Job(99, 50, 0, 10, "b")]
    decision = plan(running, [], 10_000, Limits(100, 64, 32), standings({"a": 1.0}))
    assert (99, 16) in decision.chunks
    assert sum(tokens for _, tokens in decision.chunks) == 64


def test_pages_are_given_back_by_the_tenant_served_most_even_if_its_sequences_are_older():
    running = [Job(1, 1, 16, 10, "a"), Job(2, 1, 16, 10, "a"), Job(3, 1, 16, 10, "b")]
    decision = plan(running, [], 0, LIMITS, standings({"a": 9.0, "b": 1.0}))
    assert decision.preempted == (2,)
    assert decision.chunks == ((3, 1),)


def test_pages_beyond_a_quota_go_first_whoever_was_served_most():
    running = [Job(1, 1, 16, 10, "a"), Job(2, 1, 16, 10, "a"), Job(3, 1, 16, 10, "b")]
    stand = standings({"a": 1.0, "b": 9.0}, {"a": 20, "b": 10}, 30, kv_share=0.5)
    assert plan(running, [], 0, LIMITS, stand).preempted[0] == 2


def test_a_newcomer_within_its_quota_takes_back_what_others_have_beyond_theirs():
    running = [Job(1, 1, 20, 10, "a"), Job(2, 1, 20, 10, "a")]
    newcomer = [Job(3, 20, 0, 10, "b")]
    stand = standings({"a": 9.0}, {"a": 40}, 40, kv_share=0.5)
    decision = plan(running, newcomer, 0, LIMITS, stand)
    assert (decision.preempted, decision.admitted) == ((2,), (3,))
    assert plan(running, newcomer, 0, LIMITS, standings({"a": 9.0}, {"a": 40}, 40)).admitted == ()


def test_a_newcomer_that_would_be_beyond_its_own_quota_takes_nothing_back():
    running = [Job(1, 1, 20, 10, "a"), Job(2, 1, 20, 10, "a")]
    stand = standings({"a": 9.0}, {"a": 40}, 40, kv_share=0.5)
    assert plan(running, [Job(3, 40, 0, 10, "b")], 0, LIMITS, stand).preempted == ()


def test_pages_beyond_a_quota_may_be_used_while_nobody_else_needs_them():
    running = [Job(1, 1, 32, 10, "a"), Job(2, 1, 16, 10, "b")]
    stand = standings({}, {"a": 20, "b": 10}, 100, kv_share=0.1)
    decision = plan(running, [], 70, LIMITS, stand)
    assert decision.preempted == ()
    assert {id for id, _ in decision.chunks} == {1, 2}


def test_pages_meant_for_who_is_put_back_after_all_are_there_for_others():
    running = [Job(0, 17, 0, 10, "a"), Job(1, 1, 16, 10, "a")]
    decision = plan(running, [], 10, LIMITS, standings({}, {"a": 10}, 20))
    assert (dict(decision.chunks), decision.preempted) == ({0: 17}, (1,))


# --- any step -------------------------------------------------------------------------------------------------------

TENANTS = ("a", "b", "c")
jobs = st.builds(Job, st.just(0), st.integers(1, 80), st.integers(0, 80), st.just(10), st.sampled_from(TENANTS))
counters = st.dictionaries(st.sampled_from(TENANTS), st.floats(0, 1000))
shares = st.sampled_from([0.1, 0.3, 0.5, 1.0])


@dataclass
class Scene:
    running: list[Job]
    waiting: list[Job]
    free: int
    stand: Standings


@st.composite
def scenes(draw) -> Scene:
    running = [replace(j, id=i) for i, j in enumerate(draw(st.lists(jobs, max_size=4)))]
    waiting = [replace(j, id=10 + i, computed=0) for i, j in enumerate(draw(st.lists(jobs, max_size=4)))]
    free = 10 * draw(st.integers(0, 40))
    held: dict[str, int] = {}
    for job in running:
        held[job.tenant] = held.get(job.tenant, 0) + job.holds
    capacity = max(free + sum(held.values()), 1)
    return Scene(running, waiting, free, standings(draw(counters), held, capacity, kv_share=draw(shares)))


@given(scenes())
def test_a_plan_stays_within_budget_seats_and_memory(scene):
    by_id = {j.id: j for j in scene.running + scene.waiting}
    decision = plan(scene.running, scene.waiting, scene.free, LIMITS, scene.stand)
    assert sum(tokens for _, tokens in decision.chunks) <= LIMITS.step_tokens
    assert all(0 < tokens <= by_id[i].pending for i, tokens in decision.chunks)
    used = sum(by_id[i].needs(tokens) for i, tokens in decision.chunks)
    assert used <= scene.free + sum(by_id[i].holds for i in decision.preempted)
    assert len(scene.running) - len(decision.preempted) + len(decision.admitted) <= LIMITS.sequences
    assert not {i for i, _ in decision.chunks} & set(decision.preempted)
    assert len({i for i, _ in decision.chunks}) == len(decision.chunks)
    assert sorted(decision.yielding) == sorted(
        ({j.id for j in scene.running} - set(decision.preempted)) | set(decision.admitted)
    )


@given(scenes())
def test_the_oldest_of_the_tenant_served_least_advances(scene):
    if not scene.running:
        return
    ordered, _ = ranked(scene.running, scene.stand)
    first = ordered[0]
    least = min(scene.stand.served.get(j.tenant, 0.0) for j in scene.running)
    assert scene.stand.served.get(first.tenant, 0.0) == least
    assert first is next(j for j in scene.running if j.tenant == first.tenant)
    total = scene.free + sum(j.holds for j in ordered[1:])
    decision = plan(scene.running, scene.waiting, scene.free, LIMITS, scene.stand)
    lower = [j for j in scene.waiting if scene.stand.served.get(j.tenant, 0.0) < least]
    if first.needs(min(first.pending, LIMITS.prefill_chunk)) <= total and not lower:
        assert first.id in dict(decision.chunks)


@given(scenes())
def test_no_budget_is_left_while_somebody_could_compute(scene):
    """Work is conserved: what is not computed lacked budget, a seat, or pages."""
    decision = plan(scene.running, scene.waiting, scene.free, LIMITS, scene.stand)
    left = LIMITS.step_tokens - sum(tokens for _, tokens in decision.chunks)
    if left < PAGE or decision.preempted:
        return
    free = scene.free - sum(j.needs(dict(decision.chunks).get(j.id, 0)) for j in scene.running)
    free -= sum(j.needs(j.pending) for j in scene.waiting if j.id in decision.admitted)
    computed = {id for id, _ in decision.chunks}
    for job in scene.running:
        assert job.id in computed or job.needs(min(job.pending, LIMITS.prefill_chunk)) > free
    idle = [j for j in scene.waiting if j.id not in decision.admitted]
    heads = [next((j for j in idle if j.tenant == tenant), None) for tenant in TENANTS]
    if len(scene.running) + len(decision.admitted) < LIMITS.sequences and any(heads):
        assert any(head is not None and head.needs(head.pending) > free for head in heads)


@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_in_which_tenants_are_listed_decides_nothing(scene, rng):
    def shuffled(values):
        items = list(values.items())
        rng.shuffle(items)
        return dict(items)

    mixed = Standings(shuffled(scene.stand.served), shuffled(scene.stand.held), scene.stand.capacity,
                      scene.stand.entitlements)  # fmt: skip
    lines = {t: deque(j for j in scene.waiting if j.tenant == t) for t in TENANTS}
    waiting = []
    while any(lines.values()):  # each tenant's own order stays
        waiting.append(lines[rng.choice([t for t, line in lines.items() if line])].popleft())
    first = plan(scene.running, scene.waiting, scene.free, LIMITS, scene.stand)
    assert plan(scene.running, waiting, scene.free, LIMITS, mixed) == first


@given(st.lists(jobs, max_size=4), st.lists(jobs, max_size=4), st.integers(0, 400), st.floats(0, 100), shares)
def test_alone_nothing_depends_on_counters_or_quota(running, waiting, free, served, share):
    running = [replace(j, id=i, tenant="a") for i, j in enumerate(running)]
    waiting = [replace(j, id=10 + i, computed=0, tenant="a") for i, j in enumerate(waiting)]
    stand = standings({"a": served, "b": 0.0}, {"a": 500}, 600, kv_share=share)
    assert plan(running, waiting, free, LIMITS, stand) == plan(running, waiting, free, LIMITS)


# --- many steps -----------------------------------------------------------------------------------------------------


@dataclass
class Shop:
    """A server of nothing but plans: sequences of (prompt, answer) lengths, pages that are never shared."""

    capacity: int
    limits: Limits
    entitlements: Entitlements
    served: dict[str, float] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    running: list[list] = field(default_factory=list)
    lines: dict[str, deque] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)

    def ask(self, id: int, tenant: str, prompt: int, answer: int) -> None:
        line = self.lines.setdefault(tenant, deque())
        if not line:
            others = [t for t, waiting in self.lines.items() if waiting]
            self.served[tenant] = lifted(tenant, self.served, others, None)
        line.append([id, tenant, prompt, prompt, 0, prompt + answer, 0])

    def step(self) -> None:
        def job(entry):
            id, tenant, _, tokens, computed, _, _ = entry
            return Job(id, tokens - computed, computed, 1, tenant)

        held: dict[str, int] = {}
        for entry in self.running:
            held[entry[1]] = held.get(entry[1], 0) + job(entry).holds
        heads = [job(e) for line in self.lines.values() for e in list(line)[: self.limits.sequences]]
        decision = plan(
            [job(e) for e in self.running], heads, self.capacity - sum(held.values()), self.limits,
            Standings(self.served, held, self.capacity, self.entitlements),
        )  # fmt: skip
        by_id = {e[0]: e for e in [*self.running, *(e for line in self.lines.values() for e in line)]}
        for id in decision.preempted:
            entry = by_id[id]
            self.running.remove(entry)
            entry[4] = 0
            self.lines.setdefault(entry[1], deque()).appendleft(entry)
        for id in decision.admitted:
            self.lines[by_id[id][1]].remove(by_id[id])
            self.running.append(by_id[id])
        assert decision.chunks or not by_id, "somebody is there and nobody computes"
        for id, tokens in decision.chunks:
            entry = by_id[id]
            tenant, prompt = entry[1], entry[2]
            entry[4] += tokens
            fresh = max(min(entry[4], prompt) - entry[6], 0)
            entry[6] += fresh
            self._charge(tenant, fresh * self.entitlements.prompt_price)
            if entry[4] == entry[3]:
                entry[3] += 1
                self._charge(tenant, self.entitlements.generated_price)
                if entry[3] == entry[5]:
                    self.running.remove(entry)
                    self.done.append(id)

    def _charge(self, tenant: str, price: float) -> None:
        self.work[tenant] = self.work.get(tenant, 0.0) + price / self.entitlements.weight(tenant)
        self.served[tenant] = self.served.get(tenant, 0.0) + price / self.entitlements.weight(tenant)


LONGEST_PROMPT, LONGEST_ANSWER = 60, 20


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([0.3, 0.5, 1.0]))
def test_two_tenants_that_always_want_more_are_served_alike(seed, weight, share):
    """The difference never exceeds a constant, however long it goes on and whoever asks for longer things."""
    rng = random.Random(seed)
    limits = Limits(sequences=6, step_tokens=64, prefill_chunk=32)
    shop = Shop(60, limits, Entitlements({"b": weight}, share))
    longest = {"a": (rng.randint(1, LONGEST_PROMPT), rng.randint(1, LONGEST_ANSWER)),
               "b": (rng.randint(1, LONGEST_PROMPT), rng.randint(1, LONGEST_ANSWER))}  # fmt: skip
    worst, id = 0.0, 0
    for _ in range(400):
        for tenant, (prompt, answer) in longest.items():
            while len(shop.lines.get(tenant, ())) < limits.sequences:
                id += 1
                shop.ask(id, tenant, rng.randint(1, prompt), rng.randint(2, answer + 1))
        shop.step()
        worst = max(worst, abs(shop.work.get("a", 0.0) - shop.work.get("b", 0.0)))
    # What all seats may have been promised: a prompt and an answer each.
    assert worst <= limits.sequences * (LONGEST_PROMPT + 2 * (LONGEST_ANSWER + 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), shares, st.integers(6, 40))
def test_everything_that_is_asked_is_answered_even_where_pages_are_scarce(seed, share, capacity):
    rng = random.Random(seed)
    shop = Shop(capacity, LIMITS, Entitlements({"c": 0.5}, share))
    asked = []
    for id in range(40):
        tenant = rng.choice("aaaaaabc")
        shop.ask(id, tenant, rng.randint(1, 60), rng.randint(1, 20))
        asked.append(id)
        shop.step()
    for _ in range(20_000):
        if len(shop.done) == len(asked):
            break
        shop.step()
    assert sorted(shop.done) == asked


# --- arrivals -------------------------------------------------------------------------------------------------------


def test_staying_away_saves_up_nothing():
    assert lifted("a", {"a": 1.0, "b": 50.0, "c": 70.0}, ["b", "c"], None) == 50.0
    assert lifted("a", {"a": 1.0, "b": 50.0}, [], "b") == 50.0


def test_coming_back_forgives_nothing():
    assert lifted("a", {"a": 90.0, "b": 50.0}, ["b"], "b") == 90.0


def test_the_first_of_all_starts_where_it_stands():
    assert lifted("a", {}, [], None) == 0.0
    assert lifted("a", {"a": 3.0}, ["a"], "a") == 3.0


# --- the waiting room -----------------------------------------------------------------------------------------------

EQUAL = Entitlements()


def test_alone_one_may_fill_the_room_and_no_more():
    assert admits(1, "a", {"a": 9}, 10, EQUAL)
    assert not admits(1, "a", {"a": 10}, 10, EQUAL)


def test_who_filled_the_room_is_refused_and_nobody_else():
    inside = {"a": 10, "b": 3}
    assert not admits(1, "a", inside, 10, EQUAL)
    assert admits(1, "b", inside, 10, EQUAL)
    assert admits(1, "c", inside, 10, EQUAL)


def test_in_a_full_room_a_tenant_has_its_share_by_weight():
    inside = {"a": 10, "b": 5}
    assert not admits(1, "b", inside, 10, EQUAL)
    assert admits(1, "b", inside, 10, Entitlements({"b": 3.0}))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=200), st.integers(1, 30))
def test_the_room_is_bounded_whatever_comes(arrivals, room):
    inside: dict[str, int] = {}
    for tenant, wanted in arrivals:
        if admits(wanted, tenant, inside, room, EQUAL):
            inside[tenant] = inside.get(tenant, 0) + wanted
    harmonic = sum(1 / i for i in range(1, len(inside) + 1))
    assert sum(inside.values()) <= room * harmonic + 3 * len(inside)


@pytest.mark.parametrize("wrong", [{"kv_share": 0.0}, {"kv_share": 1.5}, {"weights": {"a": 0.0}},
                                   {"weights": {"a": float("nan")}}])  # fmt: skip
def test_entitlements_that_make_no_sense_are_refused(wrong):
    with pytest.raises(BadInputError, match="tenant_"):
        Entitlements(**wrong)


# --- the engine -----------------------------------------------------------------------------------------------------

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]
PAGE_BYTES = 4 * 2 * 2 * 16 * 8 * 4


def in_order_of_ending(desk) -> list[int]:
    ended = []
    while desk.engine.has_work:
        ended += [e.sequence_id for e in desk.engine.step() if e.finish_reason is not None]
    return ended


@pytest.mark.parametrize(("fair", "before"), [(True, 2), (False, 12)])
def test_a_flood_does_not_keep_another_tenant_waiting_unless_order_of_arrival_is_asked_for(desk, family, fair, before):
    d = desk(max_num_seqs=2, tenant_fairness=fair)
    base = family.base()
    d.load(base)
    for i in range(12):
        d.ask(base, PROMPT[i:], 4, tenant="flood")
    d.engine.step()
    mine = d.ask(base, PROMPT, 4, tenant="other")
    assert in_order_of_ending(d).index(mine) <= before


def test_tokens_are_counted_by_tenant_each_prompt_token_once(desk, family):
    d = desk(kv_bytes=7 * PAGE_BYTES, max_num_seqs=4)
    base = family.base()
    d.load(base)
    for i, tenant in enumerate("aabb"):
        d.ask(base, PROMPT[i:], max_tokens=50, tenant=tenant)
    d.finish()
    stats = d.engine.stats()
    assert stats.preemptions > 0
    counted = {t: (s.prompt_tokens, s.generated_tokens, s.running, s.waiting) for t, s in stats.tenants.items()}
    assert counted == {"a": (24 + 23, 100, 0, 0), "b": (22 + 21, 100, 0, 0)}


def test_what_was_found_in_the_cache_is_not_charged(desk, family):
    d = desk()
    base = family.base()
    d.load(base)
    for _ in range(2):
        d.ask(base, PROMPT, 1, tenant="a")
        d.finish()
    assert d.engine.stats().tenants["a"].prompt_tokens == 24 + 8


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_giving_pages_back_for_a_quota_changes_no_answer(desk, family, share):
    base = family.base()
    alone = desk()
    alone.load(base)
    prompts = [PROMPT[i:] for i in range(6)]
    expected = []
    for prompt in prompts:
        alone.ask(base, prompt, 40)
        expected += alone.finish().values()
    d = desk(kv_bytes=9 * PAGE_BYTES, max_num_seqs=6, tenant_kv_share=share)
    d.load(base)
    asked = [d.ask(base, prompt, 40, tenant="flood") for prompt in prompts[:4]]
    for _ in range(8):
        d.engine.step()
    early = d.engine.stats().tenants["flood"]
    assert early.kv_held_bytes > share * 9 * PAGE_BYTES, "while nobody else wants them, pages beyond the quota are used"
    asked += [d.ask(base, prompt, 40, tenant="other") for prompt in prompts[4:]]
    d.engine.step()
    assert d.engine.stats().tenants["other"].running == 2, "and given back as soon as somebody does"
    answers = d.finish()
    assert {i: answers[i][-30:] for i in asked} == {i: e[-30:] for i, e in zip(asked, expected, strict=True)}
    assert d.engine.stats().tenants["flood"].kv_held_bytes == 0
