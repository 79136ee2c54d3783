"""Figures in pages come from records and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from quiltwork.core.bench import Benchmark, Claim, at_least, at_most, standings, write
from quiltwork.core.bench.tables import pages, rewritten, table
from quiltwork.core.errors import BadInputError

SPEED = Claim("room.speed", "room", "ours | theirs", at_least(2.0), "baseline/ours", "s")
BYTES = Claim("zoo.bytes", "zoo", "stored", at_most(0.5), "ours/baseline", "bytes")
OTHER = Claim("zoo.other", "zoo", "never run", at_most(0.5), "ours/baseline", "bytes")
PAGE = "before\n\n<!-- bench:begin -->\nold\n<!-- bench:end -->\n\nafter\n"


@pytest.fixture
def standing(record, tmp_path):
    """Standings of three claims: one met, one missed, one never measured."""
    write(tmp_path, record(SPEED, rows=[{"sweep": "a|b", "s": 1.23456789}, {"sweep": "c", "chosen": True}]))
    write(tmp_path, record(BYTES, ours=[3_000_000], baseline=[4_000_000]))
    return standings([Benchmark(Path("b.py"), (OTHER, BYTES, SPEED), lambda c: {})], tmp_path)


def test_every_claim_stands_with_its_verdict(standing):
    assert [(s.claim.name, s.met) for s in standing] == [
        ("room.speed", True),
        ("zoo.bytes", False),
        ("zoo.other", None),
    ]
    shown = rewritten(PAGE, standing, where="README.md")
    assert "old" not in shown
    speed, size, other = [line for line in shown.splitlines() if line.startswith("| `")]
    assert "`room.speed`" in speed
    assert "ours \\| theirs" in speed
    assert "baseline/ours ≥ 2x | 3x [" in speed
    assert "| 1 s | 3 s | yes |" in speed
    assert "3.0 MB | 4.0 MB | **missed**: 0.75x does not reach ≤ 0.5x" in size
    assert "not measured yet" in other
    assert "A Processor, 2 cores, 8 GiB, python 3.11.0, torch 2.13.0; 2026-01-02." in shown
    assert shown.startswith("before\n\n<!-- bench:begin -->\n")
    assert shown.endswith("<!-- bench:end -->\n\nafter\n")


def test_writing_again_changes_nothing(standing):
    once = rewritten(PAGE, standing, where="README.md")
    assert rewritten(once, standing, where="README.md") == once


def test_a_room_may_have_a_table_of_its_own_with_what_was_printed(standing):
    page = (
        "<!-- bench:begin room=zoo -->\n<!-- bench:end -->\n<!-- bench:begin room=room rows -->\n<!-- bench:end -->\n"
    )
    zoo, room = rewritten(page, standing, where="p").split("<!-- bench:begin room=room rows -->")
    assert "room.speed" not in zoo
    assert "zoo.bytes" not in room
    assert "| a\\|b | 1.2346 |  |" in room
    assert "| c |  | yes |" in room


def test_one_claim_may_have_a_table_with_what_was_printed(standing):
    page = "<!-- bench:begin claim=room.speed rows -->\n<!-- bench:end -->\n"
    shown = rewritten(page, standing, where="p")
    assert "| `room.speed`" in shown
    assert "| a\\|b | 1.2346 |  |" in shown
    assert "zoo." not in shown


def test_rows_of_one_table_are_gathered_from_all_records_once_each(record, tmp_path):
    shared = [{"table": "side", "system": "ours", "s": 1.5}, {"sweep": "a"}, {"table": "side", "system": "theirs"}]
    write(tmp_path, record(SPEED, rows=shared))
    write(tmp_path, record(BYTES, rows=[*shared, {"table": "side", "system": "a third", "MB": 4}]))
    found = standings([Benchmark(Path("b.py"), (OTHER, BYTES, SPEED), lambda c: {})], tmp_path)
    page = "<!-- bench:begin table=side -->\n<!-- bench:end -->\n"
    made = rewritten(page, found, where="p")
    assert "| system | s | MB |" in made
    assert [line for line in made.splitlines() if "ours" in line] == ["| ours | 1.5 |  |"]
    assert "| a third |  | 4 |" in made
    assert "sweep" not in made
    assert "2026-01-02." in made
    assert rewritten(made, found, where="p") == made
    none = rewritten(page.replace("side", "ablation"), found, where="p")
    assert "Not measured yet." in none
    rows = table([s for s in found if s.claim is SPEED], rows=True)
    assert "side:\n\n| system | s |" in rows
    assert "| sweep |\n| --- |\n| a |" in rows


def test_what_claims_of_one_run_printed_stands_once(record, tmp_path):
    for claim in (SPEED, BYTES):
        write(tmp_path, record(claim, rows=[{"sweep": "a"}]))
    found = standings([Benchmark(Path("b.py"), (BYTES, SPEED), lambda c: {})], tmp_path)
    made = table(found, rows=True)
    assert "`room.speed`, `zoo.bytes`:" in made
    assert made.count("| sweep |") == 1


def test_a_page_without_marks_stays_as_it_is(standing):
    text = "# A page\n\nmentions `<!-- bench:begin -->` in passing\n"
    assert rewritten(text, standing, where="p") == text


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- bench:begin -->\n", "no bench:end"),
        ("x\n<!-- bench:end -->\n", "line 2: .*alternate"),
        ("<!-- bench:begin -->\n<!-- bench:begin -->\n<!-- bench:end -->\n", "line 2: .*alternate"),
        ("<!-- bench:begin claim=zoo.attic -->\n<!-- bench:end -->\n", "claim=zoo.attic"),
        ("<!-- bench:begin room=attic -->\n<!-- bench:end -->\n", "room=attic.*room, zoo"),
        ("<!-- bench:begin rosw -->\n<!-- bench:end -->\n", "rosw"),
        ("<!-- bench:begin table=A1 -->\n<!-- bench:end -->\n", "table=A1"),
    ],
)
def test_a_wrong_mark_is_named(standing, page, message):
    with pytest.raises(BadInputError, match=f"p: .*{message}|p: {message}"):
        rewritten(page, standing, where="p")


def test_a_reach_raised_since_is_judged_anew(record, tmp_path):
    write(tmp_path, record(SPEED))
    raised = Claim(SPEED.name, SPEED.room, SPEED.title, at_least(5.0), SPEED.ratio, SPEED.unit)
    (found,) = standings([Benchmark(Path("b.py"), (raised,), lambda c: {})], tmp_path)
    assert found.met is False
    assert "does not reach ≥ 5x" in table([found])


def test_a_record_of_another_claim_is_refused(record, tmp_path):
    write(tmp_path, record(BYTES)).rename(tmp_path / "room.speed.json")
    with pytest.raises(BadInputError, match=r"room\.speed\.json: is of the claim 'zoo.bytes'"):
        standings([Benchmark(Path("b.py"), (SPEED,), lambda c: {})], tmp_path)


def test_pages_are_readme_and_all_of_docs(tmp_path):
    (tmp_path / "docs" / "decisions").mkdir(parents=True)
    for name in ("README.md", "CHANGELOG.md", "docs/b.md", "docs/decisions/a.md", "docs/c.txt"):
        (tmp_path / name).write_text("")
    found = [str(page.relative_to(tmp_path)) for page in pages(tmp_path)]
    assert found == ["README.md", "docs/b.md", "docs/decisions/a.md"]
