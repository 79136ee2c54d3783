"""``quiltwork train``: anything that can be trained, stopped by Ctrl-C and gone on with by the line that it prints."""

from __future__ import annotations

import json
import shlex
import signal

import pytest
from tiny_trained import save_trained, story

from quiltwork.cli import main

COUNTING = "counting_trainable:Counting"


@pytest.fixture
def run(capsys):
    """Run ``quiltwork train``; gives standard output (parsed where JSON was asked for) and standard error."""

    def call(*words, code=0):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["train", *map(str, words)])
        told = capsys.readouterr()
        assert (exited.value.code or 0) == code, told.err
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        return (json.loads(told.out) if "--json" in words and told.out else told.out), told.err

    return call


@pytest.fixture
def settings(tmp_path):
    """Write settings as a file."""

    def write(name="count.yaml", **fields):
        path = tmp_path / name
        path.write_text(json.dumps(fields))
        return path

    return write


def test_it_trains_to_the_end_and_keeps_the_state_beside_the_settings(run, settings, tmp_path):
    report, err = run("--trainable", COUNTING, "--config", settings(steps=4), "--json")
    assert report == {
        "trainable": COUNTING,
        "done": 4,
        "total": 4,
        "finished": True,
        "resumed": False,
        "checkpoint": str(tmp_path / "count.checkpoint.safetensors"),
        "metrics": {"total": 10.0},
    }
    assert err == ""
    assert (tmp_path / "count.checkpoint.safetensors").exists()


def test_for_people_it_is_a_table(run, settings):
    shown, _ = run("--trainable", COUNTING, "--config", settings(steps=4))
    assert "step 4 of 4" in shown
    assert shown.split()[-2:] == ["total", "10"]


def test_after_ctrl_c_the_line_it_prints_goes_on_to_the_same_end(run, settings):
    shown, err = run("--trainable", COUNTING, "--config", settings(steps=6, interrupt_at=3), "--json", code=1)
    assert (shown["done"], shown["finished"]) == (3, False), "the step under way is done"
    assert err.count("\n") == 1
    line = err.partition("quiltwork: stopped after step 3 of 6; go on with: ")[2]
    words = shlex.split(line)
    assert words[:2] == ["quiltwork", "train"]
    report, _ = run(*words[2:], "--json")
    assert (report["done"], report["resumed"], report["metrics"]) == (6, True, {"total": 21.0})


def test_steps_on_the_command_line_go_before_the_settings_and_can_be_raised_later(run, settings, tmp_path):
    words = ("--trainable", COUNTING, "--config", settings(steps=6), "--checkpoint", tmp_path / "c", "--json")
    assert run(*words, "--steps", 2)[0]["metrics"] == {"total": 3.0}
    report, _ = run(*words, "--steps", 3)
    assert (report["metrics"], report["resumed"]) == ({"total": 6.0}, True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "steps: [", "a.yaml: line 1: is not YAML"),
        ("a.yaml", "- steps", "a.yaml: must be a set of named fields"),
        ("a.json", "{", "a.json: is not JSON"),
        ("a.json", "[]", "a.json: must be a set of named fields"),
        ("a.yaml", "", "a.yaml: is empty"),
        ("a.yaml", "stepz: 3", "config: stepz: is not a setting"),
    ],
)
def test_settings_that_cannot_be_read_are_one_line(run, tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    _, err = run("--trainable", COUNTING, "--config", path, code=2)
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("langage", "nothing is registered as 'langage'"),
        ("json:no_such", "no_such"),
        ("builtins:dict", "builtins:dict: makes a dict, which cannot be trained"),
    ],
)
def test_what_cannot_be_trained_is_named(run, settings, trainable, message):
    _, err = run("--trainable", trainable, "--config", settings(steps=1), code=2)
    assert message in err
    assert err.count("\n") == 1


def test_settings_that_are_not_there_are_named(run, tmp_path):
    _, err = run("--trainable", COUNTING, "--config", tmp_path / "none.yaml", code=2)
    assert "none.yaml: there is no such file" in err


def test_a_damaged_checkpoint_is_told_and_left_alone(run, settings, tmp_path):
    (tmp_path / "c").write_bytes(b"\0" * 40)
    words = ("--trainable", COUNTING, "--config", settings(steps=1), "--checkpoint", tmp_path / "c")
    _, err = run(*words, code=1)
    assert "c: is truncated or damaged" in err
    assert (tmp_path / "c").read_bytes() == b"\0" * 40


def test_a_language_model_is_fine_tuned_by_the_name_it_is_registered_under(run, tmp_path):
    save_trained("small", tmp_path / "base", steps=5)
    (tmp_path / "story.txt").write_text(story(200))
    path = tmp_path / "tune.yaml"
    path.write_text(
        f"model: {tmp_path / 'base'}\ntext: {tmp_path / 'story.txt'}\nout: {tmp_path / 'tuned'}\n"
        "method: lora\nrate: 3e-2\nsteps: 12\nwindow: 24\n"
    )
    report, err = run("--trainable", "language", "--config", path, "--json")
    assert report["finished"]
    assert report["metrics"]["held_out_after"] < report["metrics"]["held_out_before"]
    assert (tmp_path / "tuned" / "adapter_config.json").exists()
    assert err == ""
