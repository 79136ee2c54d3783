"""``quiltwork bench`` in a small project of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quiltwork.cli import main

BENCHMARK = """
from quiltwork.core.bench import Claim, Outcome, at_least, at_most
CLAIMS = (
    Claim("room.{stem}", "room", "ours vs theirs", at_least(2), "baseline/ours", "s"),
    Claim("room.{stem}_bytes", "room", "bytes", at_most(0.5), "ours/baseline", "bytes"),
)
def run(context):
    print("noise")
    context.progress("working")
    rows = [{{"sweep": "a", "s": 1.5, "quick": context.quick, "seed": context.seed, "data": str(context.data)}}]
    return {{
        "room.{stem}": Outcome([1.0], [{theirs}], answers_equal={equal}, rows=rows),
        "room.{stem}_bytes": Outcome([4], [10], rows=rows),
    }}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "docs").mkdir()
    (folder / "README.md").write_text("# P\n\n<!-- bench:begin -->\n<!-- bench:end -->\n")
    (folder / "docs" / "d.md").write_text("no table\n")
    monkeypatch.chdir(folder / "docs")
    monkeypatch.delenv("QUILTWORK_DATA", raising=False)
    monkeypatch.syspath_prepend(folder / "benchmarks")
    return folder


@pytest.fixture
def add(project):
    def put(stem="fast", theirs=3.0, equal="True"):
        (project / "benchmarks" / f"{stem}.py").write_text(BENCHMARK.format(stem=stem, theirs=theirs, equal=equal))

    return put


@pytest.fixture
def run(capsys):
    def call(*words, code=0):
        with pytest.raises(SystemExit) as exited:
            main(["bench", *words])
        told = capsys.readouterr()
        assert (exited.value.code or 0) == code, told.out + told.err
        return json.loads(told.out) if "--json" in words and told.out else told.out + told.err

    return call


def test_a_claim_is_listed_before_it_was_ever_measured(add, run):
    add()
    first, second = run("ls", "--json")
    assert (first["name"], first["room"]) == ("room.fast", "room")
    assert first["reach"] == {"at": "least", "value": 2}
    assert [first[k] for k in ("ratio", "interval", "met", "last_record")] == [None] * 4
    assert second["name"] == "room.fast_bytes"
    assert "not measured" in run("ls")


def test_a_run_records_every_claim_it_settles(add, run, project):
    add()
    report = run("run", "room.fast_bytes")
    assert "3x" in report
    assert "0.4x" in report
    assert "sweep" in report
    assert sorted(p.name for p in (project / "benchmarks" / "records").iterdir()) == [
        "room.fast.json",
        "room.fast_bytes.json",
    ]
    first, _ = run("ls", "--json")
    assert (first["met"], first["ratio"], first["interval"]) == (True, 3.0, [3.0, 3.0])
    assert "met" in run("ls")


def test_json_is_the_records_and_nothing_else(add, run):
    add()
    first, second = run("run", "room.fast", "--seed", "4", "--json")
    assert (first["claim"]["name"], first["met"], first["seed"]) == ("room.fast", True, 4)
    assert first["command"] == "quiltwork bench run room.fast --seed 4"
    assert second["claim"]["name"] == "room.fast_bytes"


def test_a_quick_run_is_reported_and_not_recorded(add, run, project):
    add()
    first, _ = run("run", "room.fast", "--quick", "--json")
    assert first["quick"] is True
    assert first["outcome"]["rows"][0]["quick"] is True
    assert "quick run, not recorded" in run("run", "room.fast", "--quick")
    assert not (project / "benchmarks" / "records").exists()


def test_a_missed_claim_stays_declared_is_recorded_and_fails_the_command(add, run, project):
    add(theirs=1.5)
    assert "missed: room.fast" in run("run", "room.fast", code=1)
    first, second = run("ls", "--json")
    assert (first["met"], second["met"]) == (False, True)
    run("table")
    assert "**missed**: 1.5x does not reach ≥ 2x" in (project / "README.md").read_text()


def test_a_quick_run_that_misses_is_no_failure_unless_answers_differ(add, run):
    add("slow", theirs=1.5)
    run("run", "room.slow", "--quick")
    add("wrong", equal="False")
    assert "the answers differ" in run("run", "room.wrong", "--quick", code=1)


def test_all_goes_on_after_a_failure_and_tells_it(add, run, project):
    add("a")
    (project / "benchmarks" / "b.py").write_text(
        BENCHMARK.format(stem="b", theirs=3.0, equal=True).replace('print("noise")', "raise BadInputError('no trace')")
        + "from quiltwork.core.errors import BadInputError\n"
    )
    add("c")
    told = run("run", "--all", code=1)
    assert "b.py: no trace" in told
    assert "failed: b.py" in told
    assert len(list((project / "benchmarks" / "records").iterdir())) == 4


def test_all_skips_what_needs_something_that_is_not_here_and_says_so(add, run, project):
    add("a")
    (project / "benchmarks" / "b.py").write_text(
        BENCHMARK.format(stem="b", theirs=3.0, equal=True).replace('print("noise")', "raise NotFoundError('no peer')")
        + "from quiltwork.core.errors import NotFoundError\n"
    )
    assert "skipped b.py: no peer" in run("run", "--all")
    assert len(list((project / "benchmarks" / "records").iterdir())) == 2
    assert "no peer" in run("run", "room.b", code=2)


@pytest.mark.parametrize("words", [[], ["room.fast", "--all"]])
def test_a_run_is_of_one_claim_or_of_all(add, run, words):
    add()
    assert "give the name of a claim, or --all" in run("run", *words, code=2)


def test_an_unknown_claim_is_named(add, run):
    add()
    assert "did you mean room.fast" in run("run", "room.fsat", code=2)


def test_outside_of_a_project_it_is_said(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder 'benchmarks' here or above" in run("ls", code=2)


def test_tables_are_written_from_records_and_checked(add, run, project):
    add()
    run("run", "room.fast")
    assert "README.md: not as the records say (quiltwork bench table)" in run("table", "--check", code=1)
    assert run("table", "--json") == {"changed": ["README.md"]}
    assert "`room.fast`" in (project / "README.md").read_text()
    assert (project / "docs" / "d.md").read_text() == "no table\n"
    assert run("table", "--check", "--json") == {"changed": []}
    page = project / "README.md"
    page.write_text(page.read_text().replace("3x", "9x"))
    run("table", "--check", code=1)


def test_a_damaged_record_is_one_line_naming_it(add, run, project):
    add()
    run("run", "room.fast")
    (project / "benchmarks" / "records" / "room.fast.json").write_text("{}")
    told = run("ls", code=2)
    assert "room.fast.json: schema: is missing" in told
    assert told.count("\n") == 1


def test_the_data_folder_is_handed_on(add, run, project, monkeypatch, tmp_path):
    add()
    assert run("run", "room.fast", "--quick", "--json")[0]["outcome"]["rows"][0]["data"] == "None"
    monkeypatch.setenv("QUILTWORK_DATA", str(tmp_path))
    assert run("run", "room.fast", "--quick", "--json")[0]["outcome"]["rows"][0]["data"] == str(tmp_path)
    monkeypatch.setenv("QUILTWORK_DATA", str(tmp_path / "none"))
    assert "QUILTWORK_DATA" in run("run", "room.fast", "--quick", code=2)


def test_this_projects_own_pages_say_what_its_records_say(run, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert run("table", "--check", "--json") == {"changed": []}
