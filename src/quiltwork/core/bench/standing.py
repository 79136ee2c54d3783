"""Where every claim stands: as declared today, held against its last record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.bench.claim import Claim, Verdict, judge
from quiltwork.core.bench.discover import Benchmark
from quiltwork.core.bench.record import Record, path_of, read
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json


@dataclass(frozen=True)
class Standing:
    """A claim, the benchmark that settles it, and its last record, if there is one."""

    claim: Claim
    benchmark: Benchmark
    record: Record | None
    verdict: Verdict | None
    """Today's claim held against the recorded samples: a reach that was changed since does not keep its old verdict."""

    @property
    def met(self) -> bool | None:
        """Whether the claim is met; None where it was never measured."""
        return None if self.verdict is None else self.verdict.met

    def document(self) -> dict[str, Json]:
        """As JSON."""
        claim, record, verdict = self.claim, self.record, self.verdict
        return {
            "name": claim.name,
            "room": claim.room,
            "title": claim.title,
            "reach": {"at": claim.reach.at, "value": claim.reach.value},
            "ratio_of": claim.ratio,
            "unit": claim.unit,
            "parity": claim.parity,
            "benchmark": self.benchmark.path.name,
            "last_record": None if record is None else record.started,
            "commit": None if record is None else record.git.get("commit"),
            "ratio": None if verdict is None else verdict.ratio,
            "interval": None if verdict is None else [verdict.interval.low, verdict.interval.high],
            "met": self.met,
            "why": None if verdict is None else verdict.why,
        }


def standings(benchmarks: Iterable[Benchmark], records: Path) -> tuple[Standing, ...]:
    """Every declared claim by name. Raises BadInputError for a record that is damaged, quick or of another claim."""
    found = [_standing(claim, benchmark, records) for benchmark in benchmarks for claim in benchmark.claims]
    return tuple(sorted(found, key=lambda standing: standing.claim.name))


def _standing(claim: Claim, benchmark: Benchmark, records: Path) -> Standing:
    path = path_of(records, claim.name)
    if not path.exists():
        return Standing(claim, benchmark, None, None)
    record = read(path)
    if record.quick:
        raise BadInputError("is of a quick run", where=str(path), hint=f"quiltwork bench run {claim.name}")
    if record.claim.name != claim.name:
        raise BadInputError(f"is of the claim {record.claim.name!r}", where=str(path))
    return Standing(claim, benchmark, record, judge(claim, record.outcome))
