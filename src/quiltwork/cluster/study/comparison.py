"""Several policies on the same jobs and servers, beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltwork.cluster.changes import NO_QUOTAS
from quiltwork.cluster.log import Row, digest
from quiltwork.cluster.policy.quotas import DEFAULT, check_quotas
from quiltwork.cluster.simulate.metrics import Metrics, metrics
from quiltwork.cluster.simulate.simulation import simulate
from quiltwork.cluster.study.arms import Arm, arms_of
from quiltwork.cluster.study.results import Results, check_writable, provenance
from quiltwork.cluster.study.series import story_of
from quiltwork.cluster.study.study import Study, World, world_of
from quiltwork.core.progress import Say, ignore
from quiltwork.core.servable import Json


@dataclass(frozen=True)
class Outcome:
    """What became of one arm. ``wall_s`` : seconds that simulating it took."""

    arm: Arm
    metrics: Metrics
    wall_s: float
    log_sha256: str


@dataclass(frozen=True)
class Comparison:
    """The outcomes in the order of the arms; the first is what the others are compared with."""

    study: Study
    outcomes: tuple[Outcome, ...]
    jobs: int
    notes: tuple[str, ...]

    def document(self) -> dict[str, Json]:
        """All but seconds of the clock, as JSON: the same for the same study and arms."""
        first = self.outcomes[0].metrics
        return {
            "study": self.study.document() | {"jobs": self.jobs},
            "notes": list(self.notes),
            "arms": [
                outcome.arm.document()
                | {"metrics": outcome.metrics.document(), "log_sha256": outcome.log_sha256}
                | {"against_first": ratios(first, outcome.metrics)}
                for outcome in self.outcomes
            ],
        }

    def timing(self) -> dict[str, Json]:
        """Seconds of the clock that each arm took."""
        return {outcome.arm.name: outcome.wall_s for outcome in self.outcomes}


def ratios(first: Metrics, other: Metrics) -> dict[str, float | None]:
    """How an arm stands against the first: times as first / other, shares as other / first, so that above 1 is better.
    None where that divides by nothing."""

    def over(a: float, b: float) -> float | None:
        return a / b if b > 0 else None

    return {
        "queue_mean": over(first.queue_mean_s, other.queue_mean_s),
        "queue_p95": over(first.queue_p95_s, other.queue_p95_s),
        "jct_mean": over(first.jct_mean_s, other.jct_mean_s),
        "jct_p95": over(first.jct_p95_s, other.jct_p95_s),
        "usage_all": over(other.usage_all, first.usage_all),
        "goodput": over(other.goodput, first.goodput),
    }


def run_arms(
    study: Study,
    world: World,
    arms: Sequence[Arm],
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Say = ignore,
) -> Iterator[tuple[Outcome, list[Row]]]:
    """Each arm's outcome and its decision log, one after the other: only one log is held at a time. Raises
    BadInputError before the first where an arm's quotas are more than there is."""
    for arm in arms:
        check_quotas(arm.rules.quotas, study.fleet.training_gpus)
    for at, arm in enumerate(arms, 1):
        progress(f"{arm.name} ({at} of {len(arms)})" if len(arms) > 1 else arm.name)
        settings, need = world.settings_with(arm, study.demand)
        began = clock()
        log = simulate(world.servers, world.jobs, arm.rules, need=need, settings=settings)
        took = clock() - began
        yield Outcome(arm, metrics(log, days=study.days), took, digest(log)), log


def _about_quotas(arms: Sequence[Arm], world: World) -> list[str]:
    """Teams that are guaranteed something, and of which there is no job: perhaps another name was meant."""
    teams = {*world.trace.teams, DEFAULT}
    strangers = sorted({team for arm in arms for team in arm.rules.quotas} - teams)
    return [f"there is a quota of team {team!r}, and no job of it" for team in strangers]


def compare(
    study: Study,
    policies: Sequence[str | Arm],
    *,
    changes: Sequence[str] = (),
    quotas: Mapping[str, int] = NO_QUOTAS,
    out: str | Path | None = None,
    report: str | Path | None = None,
    inputs: Sequence[str | Path] = (),
    command: str = "",
    clock: Callable[[], float] = time.perf_counter,
    progress: Say = ignore,
) -> Comparison:
    """Simulate the study under each policy: all that ``quiltwork cluster simulate`` does.

    policies : names as ``arm_of`` reads them, or arms. changes : ``RULE=VALUE`` for all that are names. quotas :
    GPUs that teams are guaranteed, likewise. out : a folder
    for ``jobs.parquet``, ``log.parquet``, ``metrics.json`` and ``timing.json``; one that holds more is refused.
    report : an HTML file. inputs : files that the study was read from; their hashes are kept beside its figures.

    Raises BadInputError before anything is simulated, where that can be told.
    """
    arms = arms_of(policies, changes, quotas)
    if report is not None:
        check_writable(Path(report), folder=False)
    if out is not None:
        check_writable(Path(out), folder=True)
    progress("estimating running times" if study.estimates == "learned" else "preparing the jobs")
    world = world_of(study)
    story: list[Mapping[str, Json]] = []
    outcomes: list[Outcome] = []
    with Results(None if out is None else Path(out)) as results:
        for outcome, log in run_arms(study, world, arms, clock=clock, progress=progress):
            outcomes.append(outcome)
            results.add(outcome.arm.name, world, log)
            if report is not None:
                story.append(story_of(log, days=study.days))
        found = Comparison(study, tuple(outcomes), len(world.jobs), (*world.notes, *_about_quotas(arms, world)))
        document = provenance(command, inputs) | found.document()
        results.finish(document, found.timing())
    if report is not None:
        from quiltwork.cluster.study.report import write_report

        write_report(Path(report), found, story, document)
    return found
