"""The demo on models of one's own: what cannot be served is said in a line, what can be is served, nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).resolve().parents[2]
DEMO = PROJECT / "examples" / "demo.py"


def heed_interrupts() -> None:
    """A shell that runs the tests in its background has them ignored, and so would the demo."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(models: Path, temporary: Path, *options: str) -> subprocess.Popen[str]:
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(DEMO), "--models", str(models), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
        env=os.environ | {"TMPDIR": str(temporary), "COLUMNS": "80", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
    )


def run(models: Path, temporary: Path, *options: str) -> tuple[int, str]:
    process = start(models, temporary, *options)
    out, _ = process.communicate(timeout=200)
    return process.returncode, out


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    code, out = run(tmp_path / "nowhere", tmp_path / "scratch")
    assert (code, out.splitlines()) == (2, [f"demo: {tmp_path / 'nowhere'}: no such folder"])


def test_a_folder_without_models_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    code, out = run(tmp_path / "models", tmp_path / "scratch")
    assert code == 1
    assert out.splitlines() == [f"demo: {tmp_path / 'models'}: holds no model that can be served"]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_broken_models_are_named_and_the_rest_is_served(models: Path, tmp_path: Path) -> None:
    mine = tmp_path / "models"
    for name in ("base", "web-full", "asyncio-lora-r4"):
        shutil.copytree(models / name, mine / name)
    cut = shutil.copytree(models / "base", mine / "cut-short") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:2000])
    other = shutil.copytree(models / "base", mine / "other-family") / "config.json"
    config = json.loads(other.read_text())
    other.write_text(json.dumps({**config, "model_type": "mamba", "architectures": ["MambaForCausalLM"]}))
    orphan = shutil.copytree(models / "asyncio-lora-r4", mine / "orphan") / "adapter_config.json"
    orphan.write_text(json.dumps({**json.loads(orphan.read_text()), "base_model_name_or_path": "nobody/nothing"}))
    (mine / "notes.txt").write_text("")
    code, out = run(mine, tmp_path / "scratch", "--no-baseline", "--tokens", "4")
    assert code == 0, out
    lines = [line.strip() for line in out.splitlines()]
    assert "skipped notes.txt: not part of a model" in lines
    assert sum(line.startswith("cut-short is left out: ") for line in lines) == 1
    assert sum(line.startswith("other-family is stored, not served: ") for line in lines) == 1
    assert sum(line.startswith(("orphan is left out: ", "added orphan")) for line in lines) == 1
    assert any(line.endswith("starting the server") for line in lines)
    assert "asked how alike sentences are" in out
    assert "polarity: opposite" in out
    for knob in (1, 2):
        assert f"experts: {knob}         {knob}.00 experts per token" in out
    assert 1 < float(out.split("as it was trained")[1].split()[0]) < 2
    assert "Traceback" not in out
    assert "All of the above is exact. Might other models' blocks serve in web-full" in out
    assert ("tokens that had no part in the choice" in out) != ("candidates none is within that" in out)
    assert max(map(len, out[out.index("┏") :].splitlines()[:20])) <= 80
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_leaves_neither_process_nor_folder(models: Path, tmp_path: Path) -> None:
    process = start(models, tmp_path / "scratch", "--no-baseline")
    assert process.stdout is not None
    for line in process.stdout:
        if "starting the server" in line:
            break
    children: list[psutil.Process] = []
    while not children:
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "stopped; nothing is left behind"
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert list((tmp_path / "scratch").iterdir()) == []
