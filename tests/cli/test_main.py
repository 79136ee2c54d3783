"""The frame of the command line: what is imported when, and what a mistake looks like."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quiltwork
from quiltwork.cli import COMMANDS, Command, main
from quiltwork.cli.lazy import load_command


@pytest.fixture
def run(capsys):
    """Run a command line; gives exit code, standard output and standard error."""

    def call(*words):
        with pytest.raises(SystemExit) as exited:
            main(list(words))
        told = capsys.readouterr()
        return exited.value.code or 0, told.out, told.err

    return call


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Put a command of the given body in the table."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(body, head=""):
        (tmp_path / "extra_command.py").write_text(f"{head}\ndef broken() -> None:\n    {body}\n")
        monkeypatch.setitem(COMMANDS, "broken", Command("extra_command:broken", "For a test."))
        sys.modules.pop("extra_command", None)

    yield put
    sys.modules.pop("extra_command", None)


def test_help_names_every_command_and_imports_none():
    code = (
        "import sys; from quiltwork.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as e: assert not e.code\n"
        "print('loaded', *(m for m in sys.modules if m.startswith('quiltwork.cli.') or m in ('torch', 'fastapi')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded quiltwork.cli.lazy"
    assert all(f" {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"quiltwork {name}" in out


def test_the_version_is_said(run):
    assert run("--version") == (0, f"quiltwork {quiltwork.__version__}\n", "")


def test_an_unknown_command_suggests_the_one_meant(run):
    code, out, err = run("zo")
    assert (code, out) == (2, "")
    assert "'zoo'" in err


def test_a_wrong_option_is_bad_usage(run):
    code, _, err = run("zoo", "ls", "--nonsense")
    assert code == 2
    assert "--nonsense" in err


def test_bad_input_is_one_line_and_two(run, tmp_path):
    code, out, err = run("zoo", "ls", "--zoo", str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert err.startswith("quiltwork: ")
    assert err.count("\n") == 1
    assert str(tmp_path / "none") in err


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            "from quiltwork.core.errors import QuiltworkError as E; raise E('it broke', where='here')",
            1,
            "here: it broke",
        ),
        ("from quiltwork.core.errors import CorruptionError as E; raise E('rotten')", 1, "rotten"),
        ("from quiltwork.core.errors import NotFoundError as E; raise E('gone')", 2, "gone"),
        ("open('/no/such/file')", 1, "/no/such/file: No such file or directory"),
        ("import fastapi_nobody_has", 1, "needs the package 'fastapi_nobody_has'"),
    ],
)
def test_what_goes_wrong_is_one_line(run, command, body, code, message):
    command(body)
    got, out, err = run("broken")
    assert (got, out) == (code, "")
    assert err.startswith(f"quiltwork: {message}")
    assert err.count("\n") == 1


def test_a_missing_extra_names_package_and_extra(run, command):
    command("pass", head="raise ModuleNotFoundError('no', name='fastapi')")
    code, _, err = run("broken")
    assert code == 1
    assert "needs the package 'fastapi' (pip install 'quiltwork[serving]')" in err


def test_a_mistake_of_ours_is_not_hidden(command):
    command("1 / 0")
    with pytest.raises(ZeroDivisionError):
        main(["broken"])
    command("import quiltwork.no_such_module")
    with pytest.raises(ModuleNotFoundError):
        main(["broken"])


def test_a_command_ends_with_zero(run, command):
    command("print('done')")
    assert run("broken") == (0, "done\n", "")


def test_everything_in_the_table_can_be_loaded():
    for name in COMMANDS:
        assert load_command(name, COMMANDS[name]) is not None
