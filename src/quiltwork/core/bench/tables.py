"""Tables of figures in Markdown pages, written from records between two marks.

``<!-- bench:begin -->`` starts a table of all claims, ``<!-- bench:begin room=zoo -->`` one of a room's, and with the
word ``rows`` (``<!-- bench:begin room=zoo rows -->``) what each benchmark printed beside its figures follows.
``<!-- bench:begin claim=zoo.bytes -->`` starts one of one claim, perhaps with its ``rows`` as well.
``<!-- bench:begin table=ablation -->`` starts one of all rows, of all records, that say they belong to a table of that
name. ``<!-- bench:end -->`` ends it. What stands between the marks belongs to us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from quiltwork.core.bench.record import Record
from quiltwork.core.bench.standing import Standing
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.units import format_bytes

_MARK = re.compile(r"^<!-- bench:(begin|end)\b(.*?)-->[ \t]*$", re.MULTILINE)
_TABLE = re.compile(r"[a-z][a-z-]*")


@dataclass(frozen=True)
class _Wanted:
    """What an opening mark asks for."""

    room: str | None = None
    claim: str | None = None
    rows: bool = False
    table: str | None = None


@dataclass(frozen=True)
class _Region:
    start: int
    """Behind the opening mark's line."""
    end: int
    """Before the closing mark."""
    wanted: _Wanted


def pages(project: Path) -> Iterator[Path]:
    """The project's pages that may hold tables: README.md and everything in docs."""
    yield from (path for path in (project / "README.md",) if path.is_file())
    yield from sorted((project / "docs").rglob("*.md"))


def rewritten(text: str, standings: Sequence[Standing], *, where: str) -> str:
    """A page with its tables made anew. Raises BadInputError naming the line of a mark that is wrong."""
    for region in reversed(_regions(text, standings, where)):
        wanted = region.wanted
        chosen = [s for s in standings if wanted.room in (None, s.claim.room) and wanted.claim in (None, s.claim.name)]
        made = table(chosen, rows=wanted.rows) if wanted.table is None else gathered(chosen, wanted.table)
        text = text[: region.start] + made + text[region.end :]
    return text


def table(standings: Sequence[Standing], *, rows: bool = False) -> str:
    """The claims as a Markdown table, the circumstances of their records below it and, with ``rows``, what was printed
    beside each figure."""
    head = ["claim", "what", "reach", "measured [95 % interval]", "ours", "baseline", "met"]
    body = [_line(standing) for standing in standings]
    lines = ["", _row(head), _row(["---"] * len(head)), *map(_row, body), "", *_circumstances(standings), ""]
    if rows:
        for names, printed in _beside(standings):
            lines += [f"{', '.join(f'`{name}`' for name in names)}:", ""]
            for title, found in by_table(printed):
                lines += [*([f"{title}:", ""] if title else []), *_printed(found), ""]
    return "\n".join(lines)


def gathered(standings: Sequence[Standing], name: str) -> str:
    """The rows of all records that belong to the table ``name``, and the circumstances of their records below it.

    Claims of one run often have their rows in common: each row stands once.
    """
    rows: list[Mapping[str, Json]] = []
    told: list[Standing] = []
    for standing in standings:
        tables = dict(by_table(standing.record.outcome.rows)) if standing.record is not None else {}
        if name in tables:
            rows += [row for row in tables[name] if row not in rows]
            told.append(standing)
    if not rows:
        return "\nNot measured yet.\n\n"
    return "\n".join(["", *_printed(rows), "", *_circumstances(told), ""])


def by_table(rows: Sequence[Mapping[str, Json]]) -> list[tuple[str, list[Mapping[str, Json]]]]:
    """Rows by the table they say they belong to (field ``table``; empty where they do not), in order of appearance."""
    tables: dict[str, list[Mapping[str, Json]]] = {}
    for row in rows:
        kept = {name: value for name, value in row.items() if name != "table"}
        tables.setdefault(str(row.get("table", "")), []).append(kept)
    return list(tables.items())


def amount(value: float, unit: str) -> str:
    """A sample with its unit, four digits that count."""
    return format_bytes(round(value)) if unit == "bytes" else f"{value:,.4g} {unit}"


def cell(value: Json) -> str:
    """A value of a benchmark's row as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return f"{value:,.5g}" if isinstance(value, float) else str(value)


def columns(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    """The columns of rows that may have different fields, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _regions(text: str, standings: Sequence[Standing], where: str) -> list[_Region]:
    regions: list[_Region] = []
    opened: re.Match[str] | None = None
    for mark in _MARK.finditer(text):
        line = f"{where}: line {text.count(chr(10), 0, mark.start()) + 1}"
        if (mark[1] == "begin") is (opened is not None):
            raise BadInputError("bench:begin and bench:end do not alternate", where=line)
        if opened is None:
            opened = mark
            _wanted(mark[2], standings, line)
            continue
        regions.append(_Region(opened.end() + 1, mark.start(), _wanted(opened[2], standings, line)))
        opened = None
    if opened is not None:
        raise BadInputError("bench:begin has no bench:end", where=where)
    return regions


def _wanted(words: str, standings: Sequence[Standing], line: str) -> _Wanted:
    rooms = {standing.claim.room for standing in standings}
    claims = {standing.claim.name for standing in standings}
    wanted = _Wanted()
    for word in words.split():
        name, _, value = word.partition("=")
        if word == "rows":
            wanted = replace(wanted, rows=True)
        elif name == "room" and value in rooms:
            wanted = replace(wanted, room=value)
        elif name == "claim" and value in claims:
            wanted = replace(wanted, claim=value)
        elif name == "table" and _TABLE.fullmatch(value):
            wanted = replace(wanted, table=value)
        else:
            known = ", ".join(sorted(rooms))
            hint = f"rows, table= with a table's name, claim= with a claim's, or room= with one of {known}"
            raise BadInputError(f"{word!r} is not understood", where=line, hint=hint)
    return wanted


def _beside(standings: Sequence[Standing]) -> list[tuple[list[str], Sequence[Mapping[str, Json]]]]:
    """What was printed beside the figures, once for all claims that have it in common."""
    found: list[tuple[list[str], Sequence[Mapping[str, Json]]]] = []
    for standing in standings:
        rows = () if standing.record is None else standing.record.outcome.rows
        same = next((names for names, others in found if others == rows), None)
        if same is not None:
            same.append(standing.claim.name)
        elif rows:
            found.append(([standing.claim.name], rows))
    return found


def _line(standing: Standing) -> list[str]:
    claim, record, verdict = standing.claim, standing.record, standing.verdict
    start = [f"`{claim.name}`", claim.title, f"{claim.ratio} {claim.reach}"]
    if record is None or verdict is None:
        return [*start, "not measured yet", "", "", ""]
    found = f"{verdict.ratio:.3g}x [{verdict.interval.low:.3g}, {verdict.interval.high:.3g}]"
    sides = (amount(median(side), claim.unit) for side in (record.outcome.ours, record.outcome.baseline))
    return [*start, found, *sides, "yes" if verdict.met else f"**missed**: {verdict.why}"]


def _circumstances(standings: Sequence[Standing]) -> list[str]:
    told: dict[str, list[str]] = {}
    for standing in standings:
        if standing.record is not None:
            told.setdefault(_machine(standing.record), []).append(standing.record.started[:10])
    return [f"{text}; {' to '.join(sorted({min(days), max(days)}))}." for text, days in told.items()]


def _machine(record: Record) -> str:
    facts, packages = record.machine, record.versions
    memory = facts.get("memory_bytes")
    parts = [
        str(facts.get("cpu", "unknown processor")),
        f"{facts.get('cores', '?')} cores",
        *([f"{memory / 2**30:.0f} GiB"] if isinstance(memory, int) else []),
        *(f"{name} {packages[name]}" for name in ("python", "torch", "transformers", "peft") if name in packages),
    ]
    return "Measured on " + ", ".join(parts)


def _printed(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    names = columns(rows)
    body = [_row([cell(row.get(name)) for name in names]) for row in rows]
    return [_row(names), _row(["---"] * len(names)), *body]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"
