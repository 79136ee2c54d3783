"""Running times, estimated from jobs that have ended."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from quiltwork.cluster.estimate.durations import UNKNOWN, Durations, Estimate, Submitted
from quiltwork.cluster.estimate.replaying import replay
from quiltwork.cluster.estimate.score import score_durations
from quiltwork.cluster.job_trace import TraceJob
from quiltwork.cluster.traces import read_jobs
from quiltwork.core.errors import BadInputError


def jobs(count, seed=0, every_s=60.0):
    """Teams of steady habits: their jobs take about as long as the team's jobs do."""
    rng = random.Random(seed)
    made = []
    for n in range(count):
        team = rng.randrange(4)
        length = rng.lognormvariate(math.log(100 * 10**team), 0.3)
        made.append(TraceJob(f"j{n}", n * every_s, rng.choice((1, 8)), length, f"team{team}"))
    return made


def ended(estimates, lengths, **kind):
    for n, length in enumerate(lengths):
        estimates.submitted(Submitted(f"past{n}", float(n), 1, **kind))
        estimates.ended(f"past{n}", length)


def test_nothing_is_thought_of_the_first_job():
    assert Durations().submitted(Submitted("a", 0.0, 1)) == UNKNOWN
    assert not UNKNOWN.tells


def test_jobs_of_one_kind_are_told_by_their_history():
    estimates = Durations()
    ended(estimates, [90, 100, 100, 100, 110], team="t", name="nightly")
    told = estimates.submitted(Submitted("next", 9.0, 1, "t", "nightly"))
    assert (told.source, told.median) == ("history", pytest.approx(100))
    assert 85 <= told.low < 100 < told.high <= 115


def test_a_history_that_is_too_short_or_too_wide_is_not_told_from():
    estimates = Durations()
    ended(estimates, [100] * 4, team="t", name="rare")
    assert estimates.submitted(Submitted("a", 9.0, 1, "t", "rare")) == UNKNOWN
    wide = Durations()
    ended(wide, [1, 10, 100, 1000, 10_000], team="t", name="any")
    assert wide.submitted(Submitted("a", 9.0, 1, "t", "any")) == UNKNOWN


def test_an_interval_wider_than_ten_times_tells_nothing_to_order_by():
    assert Estimate(10, 50, 100, "model").tells
    assert not Estimate(10, 50, 101, "model").tells


def test_jobs_that_are_unknown_or_dropped_teach_nothing():
    estimates = Durations()
    for n in range(6):
        estimates.submitted(Submitted(f"a{n}", 0.0, 1, "t", "x"))
        estimates.dropped(f"a{n}")
        estimates.ended(f"a{n}", 100.0)
        estimates.ended("stranger", 100.0)
    assert estimates.submitted(Submitted("b", 1.0, 1, "t", "x")) == UNKNOWN


@pytest.mark.slow
def test_jobs_are_ordered_by_what_their_teams_do():
    trace = jobs(2000)
    made = replay(trace)
    everyone = np.array([job.duration_s for job in trace[1500:]])
    assert score_durations(everyone, _tail(made, 1500)).rank > 0.8


def test_intervals_widen_until_they_hold_what_they_should():
    rng = random.Random(3)
    estimates, held = Durations(), []
    for n in range(2500):
        # Drifting habits: the last twenty always lie below what comes.
        length = math.exp(4 + n * 0.01 + rng.gauss(0, 0.05))
        told = estimates.submitted(Submitted(f"j{n}", n * 60.0, 1, "t", "drifting"))
        held.append(told.low <= length <= told.high)
        estimates.ended(f"j{n}", length)
    assert 0.72 < np.mean(held[1000:]) < 0.95


@pytest.mark.slow
def test_running_times_that_are_not_yet_known_change_no_estimate():
    trace = jobs(1500)
    now = 1000 * 60.0
    ran = [job.submit_s + job.duration_s for job in trace]
    unknown = [n for n, end in enumerate(ran) if end > now]
    lengths = [trace[n].duration_s for n in unknown]
    random.Random(1).shuffle(lengths)
    other = list(trace)
    for n, length in zip(unknown, lengths, strict=True):
        # Those that run now must still be running: only when they end is shuffled.
        least = max(0.0, now - trace[n].submit_s) + 1
        job = trace[n]
        other[n] = TraceJob(job.id, job.submit_s, job.gpus, max(length, least), job.team)
    assert other != trace
    first, second = replay(trace), replay(other)
    decided = sum(job.submit_s <= now for job in trace)
    for part in ("low", "median", "high"):
        np.testing.assert_array_equal(getattr(first, part)[:decided], getattr(second, part)[:decided])


def test_the_same_trace_gives_the_same_estimates():
    first, second = replay(jobs(700)), replay(jobs(700))
    np.testing.assert_array_equal(first.median, second.median)


@pytest.mark.slow
def test_a_replayed_trace_is_thought_of_as_it_would_be_job_by_job():
    trace = jobs(900)
    ends = sorted(range(len(trace)), key=lambda n: (trace[n].submit_s + trace[n].duration_s, trace[n].id))
    estimates, thought = Durations(seed=5, window=400), []
    for job in trace:
        while ends and trace[ends[0]].submit_s + trace[ends[0]].duration_s <= job.submit_s:
            ended_now = trace[ends.pop(0)]
            estimates.ended(ended_now.id, ended_now.duration_s)
        thought.append(estimates.submitted(Submitted(job.id, job.submit_s, job.gpus, job.team)))
    made = replay(trace, seed=5, window=400)
    assert set(made.sources) == {"none", "history", "model"}
    assert made.sources == tuple(estimate.source for estimate in thought)
    for part in ("low", "median", "high"):
        np.testing.assert_allclose(getattr(made, part), [getattr(e, part) for e in thought], rtol=1e-12)


def test_too_few_estimates_cannot_be_scored():
    with pytest.raises(BadInputError, match="fewer than two"):
        score_durations(np.array([1.0, 2.0]), replay(jobs(2)))


def _tail(made, start):
    return type(made)(made.low[start:], made.median[start:], made.high[start:], made.sources[start:])


@pytest.mark.realdata
@pytest.mark.slow
def test_estimates_of_philly_jobs_order_them_better_than_size_alone(data_dir):
    trace = read_jobs(data_dir / "cluster/jobs/philly_jobs_82247.csv.gz")[:30_000]
    score = score_durations(trace.duration_s, replay(trace))
    assert 0.7 < score.coverage < 0.9
    assert score.rank > 0.5
