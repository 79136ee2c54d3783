"""Teams with quotas: what is idle is lent among them, and whoever wants its own back has it."""

import random
from collections import Counter

import pytest
from small_clusters import check_occupancy, job, of, run, times

from quiltwork.cluster.log import Action, digest
from quiltwork.cluster.policy.rules import POLICIES
from quiltwork.cluster.running import Delays
from quiltwork.cluster.simulate.metrics import lives
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.core.errors import BadInputError

HOUR = 3600.0
HALVES = {"a": 4, "b": 4}
"""Of one server's 8 GPUs."""


def a(name, submit_s, seconds, w_min=1, w_max=None, **options):
    return job(name, submit_s, seconds, w_min, w_max, team="a", **options)


def b(name, submit_s, seconds, w_min=1, w_max=None, **options):
    return job(name, submit_s, seconds, w_min, w_max, team="b", **options)


def stopped(log):
    """Who was preempted, when, and why."""
    return [(row.job, row.time, row.reason) for row in log if row.action is Action.PREEMPT]


def test_what_a_team_leaves_idle_others_borrow():
    log = run([b("b", 0, 100, 8)], "sjf", quotas=HALVES)
    assert times(log, Action.START) == {"b": 0}


def test_who_wants_its_own_back_has_it_at_once_and_the_borrower_waits():
    jobs = [b("first", 0, HOUR, 4), b("second", 1, HOUR, 4), a("mine", 100, 50, 4)]
    log = run(jobs, "sjf", quotas=HALVES)
    assert stopped(log) == [("second", 100, "quota: room for mine")]
    assert times(log, Action.START)["mine"] == 100
    assert times(log, Action.END) == {"mine": 150, "first": HOUR, "second": 150 + 63 + HOUR}


def test_a_job_that_is_larger_than_its_teams_quota_borrows_all_of_it():
    jobs = [b("large", 0, HOUR, 8), a("mine", 10, 50, 4), b("small", 20, 50, 4)]
    log = run(jobs, "sjf", quotas=HALVES)
    assert stopped(log) == [("large", 10, "quota: room for mine")]
    assert times(log, Action.START) == {"large": 0, "mine": 10, "small": 20}


def test_flexible_workers_leave_before_anybody_stops():
    jobs = [b("grows", 0, HOUR, 2, 8), b("second", 1, HOUR, 2), a("mine", 100, 50, 4)]
    log = run(jobs, "elastic", quotas=HALVES)
    assert stopped(log) == []
    assert times(log, Action.START)["mine"] == 100
    assert [row.after for row in of(log, "grows") if row.time == 100] == [2]


def test_flexible_workers_and_as_few_borrowers_as_it_takes():
    jobs = [b("grows", 0, HOUR, 2, 8), b("second", 1, HOUR, 2), b("third", 2, HOUR, 2), a("mine", 100, 50, 4)]
    log = run(jobs, "elastic", quotas=HALVES)
    assert stopped(log) == [("third", 100, "quota: room for mine")]
    assert times(log, Action.START)["mine"] == 100
    check_occupancy(log)


def test_who_loses_least_stops_first():
    jobs = [b("covered", 0, HOUR, 4), b("old", 1, HOUR, 2), b("young", 90, HOUR, 2), a("mine", 100, 50, 2)]
    assert stopped(run(jobs, "sjf", quotas=HALVES)) == [("young", 100, "quota: room for mine")]
    kept = b("old", 1, HOUR, 2, checkpoint_s=33.0)  # three times since it began: nothing of it is lost
    assert stopped(run([jobs[0], kept, *jobs[2:]], "sjf", quotas=HALVES))[0][0] == "old"
    dear = b("young", 90, HOUR, 2, priority=1)
    assert stopped(run([*jobs[:2], dear, jobs[3]], "sjf", quotas=HALVES))[0][0] == "old"


def test_a_team_that_has_its_quota_waits_like_anybody():
    jobs = [a("mine", 0, 100, 4), b("first", 1, 200, 2), b("second", 2, 200, 2), a("more", 3, 10, 4)]
    log = run(jobs, "sjf", quotas=HALVES)
    assert stopped(log) == []
    assert times(log, Action.START)["more"] == 100


def test_a_team_without_a_quota_only_borrows():
    jobs = [job("c", 0, HOUR, 8, team="c"), a("mine", 10, 50, 2)]
    assert stopped(run(jobs, "sjf", quotas=HALVES)) == [("c", 10, "quota: room for mine")]
    jobs = [b("b", 0, HOUR, 8), job("c", 10, 50, 2, team="c")]
    log = run(jobs, "sjf", quotas=HALVES)
    assert stopped(log) == []
    assert times(log, Action.START)["c"] == HOUR


def test_teams_without_a_quota_of_their_own_share_the_default_one():
    jobs = [a("a", 0, HOUR, 8), job("c", 10, HOUR, 2, team="c"), job("d", 20, HOUR, 2), job("e", 30, 50, 2, team="e")]
    log = run(jobs, "sjf", quotas={"a": 4, "default": 4})
    assert stopped(log) == [("a", 10, "quota: room for c")]
    assert times(log, Action.START) == {"a": 0, "c": 10, "d": 20, "e": 30}
    jobs[3] = job("e", 30, 50, 6, team="e")  # all three together have more than the default
    assert times(run(jobs, "sjf", quotas={"a": 4, "default": 4}), Action.START)["e"] > 30


def test_who_is_within_its_quota_goes_before_shorter_jobs_that_would_borrow():
    jobs = [b("now", 0, 100, 8), b("short", 1, 10, 8), a("long", 2, 500, 4)]
    log = run(jobs, "sjf", quotas={"a": 4, "b": 0}, min_run_s=1000.0)
    assert times(log, Action.START) == {"now": 0, "long": 100, "short": 600}
    assert stopped(log) == []


def test_a_first_in_the_queue_that_would_borrow_keeps_nobody_from_its_own():
    jobs = [b("now", 0, HOUR, 4), b("large", 1, 100, 8), a("mine", 2, 50, 4), a("next", 3, 50, 4)]
    log = run(jobs, "fifo", quotas=HALVES)
    assert times(log, Action.START) == {"now": 0, "mine": 2, "next": 52, "large": HOUR}


def test_a_borrower_runs_for_the_minimum_run_time_first():
    jobs = [b("first", 0, HOUR, 4), b("second", 50, HOUR, 4), a("mine", 100, 50, 4)]
    log = run(jobs, "sjf", quotas=HALVES, min_run_s=300.0)
    assert stopped(log) == [("second", 350, "quota: room for mine")]
    assert times(log, Action.START)["mine"] == 350


def test_what_somebody_waits_for_within_its_quota_is_not_borrowed_meanwhile():
    """Or each borrower's minimum run time would begin before the last one's ends."""
    jobs = [b("first", 0, HOUR, 4), b("long", 1, 1000, 2), b("ends", 2, 100, 2), a("mine", 50, 50, 4)]
    jobs += [b(f"b{i}", 60 + i, 500, 1) for i in range(4)]
    log = run(jobs, "sjf", quotas=HALVES, min_run_s=300.0)
    assert times(log, Action.START)["mine"] == 301
    assert stopped(log) == [("long", 301, "quota: room for mine")]
    assert min(row.time for row in log if row.action is Action.START and row.job[0] == "b") > 301


def test_a_starved_borrower_holds_up_other_borrowers_and_nobody_within_its_quota():
    jobs = [b("first", 0, 1000, 4), b("large", 1, 500, 8), a("mine", 600, HOUR, 4), a("more", 20, HOUR, 1)]
    jobs = [jobs[0], jobs[1], jobs[3], jobs[2]]
    log = run(jobs, "sjf", quotas={"a": 4, "b": 4}, starvation_s=1.0)
    started = times(log, Action.START)
    assert started["more"] == 20
    assert started["mine"] >= 20 + HOUR  # with "more" it would be above its quota
    assert started["large"] > 1000
    jobs = [b("first", 0, 1000, 4), b("large", 1, 500, 8), b("long", 600, HOUR, 2), a("mine", 700, HOUR, 4)]
    started = times(run(jobs, "sjf", quotas=HALVES, starvation_s=1.0), Action.START)
    assert (started["mine"], started["long"] >= 1000) == (700, True)


def test_who_is_covered_is_not_displaced_by_a_shorter_job_of_another_team():
    jobs = [a("long", 0, HOUR, 4), b("b", 0, HOUR, 4), b("short", 10, 50, 4)]
    log = run(jobs, "srtf", quotas=HALVES, settings=Settings(delays=Delays(restart_s=0)))
    assert stopped(log) == [("b", 10, "room for short")]
    jobs = [a("long", 0, HOUR, 4), b("b", 0, 20, 4), job("c", 10, 5, 4, team="c")]
    assert stopped(run(jobs, "srtf", quotas=HALVES)) == []


def test_lent_servers_are_outside_of_quotas():
    need = [0.0] * 24 + [1.0] * 24
    jobs = [b("own", 0, HOUR, 4), b("lent", 1, HOUR, 8, fungible=True), b("more", 2, HOUR, 4), a("mine", 3, 100, 4)]
    log = run(jobs, "sjf+loan", infer=1, need=need, quotas=HALVES, headroom=0.0, hysteresis=0.0, min_lease_s=0.0)
    assert stopped(log)[0] == ("more", 3, "quota: room for mine")
    assert "lent" not in {name for name, when, _ in stopped(log) if when < 24 * 300}
    check_occupancy(log)


def test_more_than_training_has_cannot_be_guaranteed():
    with pytest.raises(BadInputError, match=r"quotas: teams are guaranteed 9 GPUs in all, and training's .*have 8"):
        run([a("x", 0, 10)], "sjf", infer=4, quotas={"a": 5, "b": 4})


# Whatever happens.

QUOTAS = {"a": 8, "b": 5, "default": 4}
"""Of three servers' 24 GPUs."""


def random_jobs(count, seed, *, single=False):
    chance = random.Random(seed)
    jobs, now = [], 0.0
    for i in range(count):
        now += chance.expovariate(1 / 60)
        w = 1 if single else chance.choice([1, 1, 1, 2, 4, 8, 12, 16])
        grows = not single and chance.random() < 0.3
        team = chance.choice("aabcd")
        jobs.append(
            job(str(i), now, chance.lognormvariate(6, 1.5), w, 2 * w if grows else w, team=team, hetero=grows,
                fungible=chance.random() < 0.3, checkpoint_s=chance.choice((None, 300.0)),
                priority=chance.choice((0, 0, 0, 1)))
        )  # fmt: skip
    return jobs


def account(team):
    return team if team in QUOTAS else "default"


def check_quotas_hold(log, jobs):
    """From the log alone: who is stopped for another team is of one above its quota, and who is started in its place
    stays within its own. Returns how many were."""
    teams = {each.id: account(each.team) for each in jobs}
    base: dict[str, int] = {}

    def held(team):
        return sum(gpus for name, gpus in base.items() if teams[name] == team)

    claimed, count = None, 0
    for row in log:
        if row.action is Action.START:
            base[row.job] = row.gpus[0]
            if claimed == row.job:
                assert held(teams[row.job]) <= QUOTAS[teams[row.job]]
                claimed = None
        elif row.action is Action.PREEMPT:
            mine, taker = teams[row.job], row.reason.rpartition("room for ")[2]
            if row.reason.startswith("quota"):
                assert claimed in (None, taker)
                claimed, count = taker, count + 1
                assert base[row.job] > 0
                assert held(mine) > QUOTAS[mine]
            elif taker in teams and teams[taker] != mine and base[row.job]:
                assert held(mine) > QUOTAS[mine]
            del base[row.job]
        elif row.action is Action.END:
            base.pop(row.job, None)
    return count


WAVE = [0.3 + 0.5 * (i % 24) / 24 for i in range(24)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rules", [{}, {"min_run_s": 300.0}, {"starvation_s": 60.0, "ageing": 0.5}])
def test_nobody_within_its_quota_stops_for_another_team(policy, rules):
    jobs = random_jobs(150, 0)
    log = run(jobs, policy, train=3, infer=4, need=WAVE, quotas=QUOTAS, settings=Settings(share_every_s=60.0),
              **rules)  # fmt: skip
    check_occupancy(log)
    assert len(lives(log).ids) == 150
    assert check_quotas_hold(log, jobs) > 0


@pytest.mark.parametrize("policy", ["sjf", "srtf", "elastic", "pollux-like"])
def test_where_there_are_no_gangs_nobody_waits_within_its_quota_while_others_borrow(policy):
    jobs = random_jobs(400, 3, single=True)
    log = run(jobs, policy, quotas={"a": 4, "b": 2, "default": 1})
    teams = {each.id: each.team if each.team in "ab" else "default" for each in jobs}
    waiting, running = Counter(), Counter()
    borrowed = 0
    for at, row in enumerate(log):
        if row.job in teams:
            team = teams[row.job]
            waiting[team] += {Action.SUBMIT: 1, Action.PREEMPT: 1, Action.START: -1}.get(row.action, 0)
            running[team] += {Action.START: 1, Action.PREEMPT: -1, Action.END: -1}.get(row.action, 0)
        if at + 1 == len(log) or log[at + 1].time > row.time:
            above = {t: running[t] - q for t, q in (("a", 4), ("b", 2), ("default", 1))}
            borrowing = any(n > 0 for n in above.values())
            borrowed += borrowing
            assert not (borrowing and any(waiting[t] and above[t] < 0 for t in above))
    assert borrowed > 0


@pytest.mark.parametrize("policy", ["fifo", "sjf", "elastic", "pollux-like"])
def test_a_team_that_is_guaranteed_everything_is_served_as_without_quotas(policy):
    jobs = [job(each.id, each.submit_s, each.work / each.w_min, each.w_min, each.w_max, team="a")
            for each in random_jobs(250, 1)]  # fmt: skip
    logs = [run(jobs, policy, train=3, quotas=quotas) for quotas in ({}, {"a": 24})]
    assert digest(logs[0]) == digest(logs[1])
