"""Keys are made, listed and withdrawn; the file keeps no key, and nobody else may read it."""

from __future__ import annotations

import json

import pytest

from quiltwork.cli import main
from quiltwork.core.names import PUBLIC
from quiltwork.gateway.errors import UnauthorizedError
from quiltwork.gateway.tenants import KeyFile


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def run(capsys, file, monkeypatch):
    monkeypatch.setenv("QUILTWORK_KEYS", str(file))

    def call(*words):
        with pytest.raises(SystemExit) as exited:
            main(["keys", *words])
        return exited.value.code or 0, *capsys.readouterr()

    return call


def test_a_key_that_is_made_opens_the_door_and_is_not_kept(run, file):
    code, out, err = run("add", "red")
    assert (code, err) == (0, "")
    assert KeyFile(file).visitor(f"Bearer {out.strip()}").tenant == "red"
    assert out.strip() not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_key_is_printed_whole_whatever_the_width_of_the_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    _, out, _ = run("add", "red")
    assert len(out.splitlines()) == 1


def test_keys_are_listed_without_their_text(run):
    text = run("add", "red")[1].strip()
    made = json.loads(run("add", "blue", "--admin", "--json")[1])
    code, out, _ = run("ls")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[1] for row in rows] == ["red", "blue"]
    assert "admin" in rows[1]
    assert "admin" not in rows[0]
    assert text not in out
    assert made["key"] not in out
    listed = json.loads(run("ls", "--json")[1])
    assert [(row["tenant"], row["admin"]) for row in listed] == [("red", False), ("blue", True)]
    assert set(listed[1]) == {
        "id",
        "tenant",
        "admin",
        "created",
        "quality_budget",
        "least_agreement",
        "relaxed_speculation",
    }


def test_what_a_tenants_answers_may_lose_stands_with_its_key(run, file):
    text = run("add", "red", "--quality-budget", "0.01", "--agreement", "0.9")[1].strip()
    visitor = KeyFile(file).visitor(f"Bearer {text}")
    assert (visitor.quality_budget, visitor.least_agreement) == (0.01, 0.9)
    assert "0.01 nats at 90%" in run("ls")[1]
    plain = run("add", "blue")[1].strip()
    assert KeyFile(file).visitor(f"Bearer {plain}").quality_budget == 0.0
    for words in (("--quality-budget", "-1"), ("--quality-budget", "nan"), ("--agreement", "1.1")):
        code, _, err = run("add", "green", *words)
        assert code != 0
        assert "is not a number from 0" in err
    assert len(KeyFile(file).keys()) == 2


def test_a_key_that_may_have_answers_relaxed_is_made_and_shown_as_such(run, file):
    text = run("add", "red", "--relaxed-speculation")[1].strip()
    run("add", "red")
    assert KeyFile(file).visitor(f"Bearer {text}").relaxed_speculation
    rows = [line.split() for line in run("ls")[1].splitlines()[1:]]
    assert [("relaxed" in row) for row in rows] == [True, False]
    assert [row.get("relaxed_speculation") for row in json.loads(run("ls", "--json")[1])] == [True, False]


def test_a_withdrawn_key_opens_nothing(run, file):
    keys = [json.loads(run("add", PUBLIC, "--json")[1]) for _ in range(2)]
    assert run("rm", keys[0]["id"])[0] == 0
    with pytest.raises(UnauthorizedError):
        KeyFile(file).visitor(f"Bearer {keys[0]['key']}")
    assert KeyFile(file).visitor(f"Bearer {keys[1]['key']}").tenant == PUBLIC


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0o600, ("ls",)),
        (None, 0o600, ("add", "")),
        (None, 0o600, ("add", "no/such tenant")),
        ("{}", 0o600, ("ls",)),
        ("nonsense", 0o600, ("add", "red")),
        ("\ud800", 0o600, ("ls",)),
        ('{"keys": [{"id": 1}]}', 0o600, ("ls",)),
        ('{"keys": []}', 0o644, ("ls",)),
        ('{"keys": []}', 0o600, ("rm", "nothing")),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(run, file, text, mode, words):
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        file.chmod(mode)
    before = file.read_bytes() if file.exists() else None
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("quiltwork: ")
    assert err.count("\n") == 1
    assert (file.read_bytes() if file.exists() else None) == before
