"""Everything that is told of candidates on gold sets: one call, a document of JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quiltwork.core.bench.statistics import Interval
from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say, ignore
from quiltwork.core.servable import Json
from quiltwork.text.evaluate.candidates import Candidate, Kind
from quiltwork.text.evaluate.correlation import RESAMPLES, Estimate
from quiltwork.text.evaluate.gold import GoldSet
from quiltwork.text.evaluate.leaderboard import Line, leaderboard
from quiltwork.text.evaluate.protocols import FOLDS, Protocols, judged

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SetReport:
    """Of one gold set. lines : every candidate's, by falling r. kinds : by candidate. protocols : of the hybrid, by the
    set that P3 fits on, ``None`` without one; empty where the set is too small for ten folds."""

    gold: GoldSet
    lines: tuple[Line, ...]
    kinds: Mapping[str, Kind]
    protocols: Mapping[str | None, Protocols] = field(default_factory=dict)

    def best(self, kind: Kind) -> Line | None:
        """The candidate of that kind with the highest r on this very set: what an ablation shows, and no choice to
        report as if it had been made before."""
        return next((line for line in self.lines if self.kinds[line.name] == kind), None)


def evaluate(
    golds: Sequence[GoldSet],
    candidates: Sequence[Candidate],
    *,
    seed: int,
    hybrid: Sequence[str] = (),
    published: Mapping[str, Mapping[str, Numbers]] | None = None,
    baselines: Sequence[str] = (),
    resamples: int = RESAMPLES,
    deals: int = 50,
    ridge: float = 0.0,
    say: Say = ignore,
) -> tuple[SetReport, ...]:
    """Hold all candidates against all gold sets.

    hybrid : names of the candidates that a regression is fitted on, which is then judged in three ways on each set.
    published : by gold set, scores of its pairs that are no candidate's. baselines : names that all are compared with,
    where the set has them. deals : ways to deal pairs into folds. Raises BadInputError for names that are nowhere.
    """
    further = {name for columns in (published or {}).values() for name in columns}
    _check(candidates, {"hybrid": hybrid, "baseline": baselines}, further)
    found: list[tuple[GoldSet, dict[str, Numbers]]] = []
    for gold in golds:
        scored: dict[str, Numbers] = {}
        for candidate in candidates:
            say(f"{gold.name}: {candidate.name}")
            scored[candidate.name] = np.asarray(candidate.scorer(gold.pairs), np.float64)
        found.append((gold, scored))
    reports = []
    for gold, scored in found:
        others = dict((published or {}).get(gold.name, {}))
        kinds: dict[str, Kind] = {candidate.name: candidate.kind for candidate in candidates}
        kinds |= dict.fromkeys(others, "published")
        say(f"{gold.name}: differences")
        everything = scored | others
        here = [name for name in baselines if name in everything]
        lines = leaderboard(everything, gold.gold, seed=seed, baselines=here, resamples=resamples)
        say(f"{gold.name}: protocols")
        reports.append(SetReport(gold, lines, kinds, _protocols(gold, scored, found, hybrid, deals, ridge)))
    return tuple(reports)


def _check(candidates: Sequence[Candidate], named: Mapping[str, Sequence[str]], further: Collection[str]) -> None:
    known = [candidate.name for candidate in candidates]
    twice = next((name for name in known if known.count(name) > 1 or name in further), None)
    if twice is not None:
        raise BadInputError(f"{twice!r} is there twice", where="candidates", hint="give a model another name")
    for where, names in named.items():
        beyond = further if where == "baseline" else ()
        absent = next((name for name in names if name not in known and name not in beyond), None)
        if absent is not None:
            raise BadInputError(f"{absent[:80]!r} is not one of {', '.join([*known, *beyond])}", where=where)


def _protocols(
    gold: GoldSet,
    scored: Mapping[str, Numbers],
    found: Sequence[tuple[GoldSet, Mapping[str, Numbers]]],
    names: Sequence[str],
    deals: int,
    ridge: float,
) -> dict[str | None, Protocols]:
    if not names or len(gold) < 3 * FOLDS:
        return {}
    ours = np.stack([scored[name] for name in names], axis=1)
    others = [(other.name, np.stack([held[name] for name in names], axis=1), other.gold)
              for other, held in found if other is not gold]  # fmt: skip
    if not others:
        return {None: judged(names, ours, gold.gold, seeds=range(deals), ridge=ridge)}
    return {name: judged(names, ours, gold.gold, seeds=range(deals), ridge=ridge, other=(scores, said))
            for name, scores, said in others}  # fmt: skip


def document(report: SetReport) -> dict[str, Json]:
    """A report as JSON."""
    return {
        "gold": report.gold.name,
        "pairs": len(report.gold),
        "one_annotators_error": report.gold.one_annotators_error(),
        "scorers": [
            {
                "name": line.name,
                "kind": report.kinds[line.name],
                "rank": line.rank,
                "r": line.r.value,
                "r_interval": _ends(line.r),
                "rho": line.rho,
                "unscored": line.unscored,
                "deltas": {name: {"r": d.value, "interval": _ends(d)} for name, d in line.deltas.items()},
            }
            for line in report.lines
        ],
        "protocols": [
            {
                "fitted_on": other,
                "p1_mean_of_folds": {"r": p.fold_means.mean, "interval": _span(p.fold_means.interval)},
                "p2_leave_one_out": p.leave_one_out,
                "p2_pooled": {"r": p.pooled.mean, "interval": _span(p.pooled.interval)},
                "p3_transfer": p.transfer,
                "in_sample": p.in_sample,
                "overfitted": p.overfitted,
            }
            for other, p in report.protocols.items()
        ],
    }


def _ends(estimate: Estimate) -> list[Json]:
    return _span(estimate.interval)


def _span(interval: Interval) -> list[Json]:
    return [interval.low, interval.high]
