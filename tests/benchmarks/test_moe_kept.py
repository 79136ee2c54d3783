"""Runs that are kept from one time to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from quiltwork.core.errors import BadInputError
from work.moe_kept import FINISHED, Kept, digest_of_sources, work_folder

TOLD = {"task": "lm", "arm": "top2", "seed": 3, "rate": 1e-3}


def test_a_finished_run_is_found_again_and_a_started_one_is_not(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "abc")
    assert kept.read(TOLD) is None
    kept.folder(TOLD).mkdir(parents=True)
    assert kept.read(TOLD) is None
    kept.write(TOLD, {"losses": [1.5]})
    assert kept.read(TOLD) == {"losses": [1.5], "settings": TOLD, "sources": "abc"}
    assert kept.folder(TOLD).name.startswith("lm-top2-3-")


def test_another_setting_or_other_sources_are_another_run(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "abc")
    kept.write(TOLD, {"losses": []})
    assert kept.read({**TOLD, "rate": 2e-3}) is None
    assert Kept(tmp_path, "abd").read(TOLD) is None
    assert Kept(tmp_path, "abc").read(dict(reversed(TOLD.items()))) is not None


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "abc")
    kept.write(TOLD, {})
    (kept.folder(TOLD) / FINISHED).write_text('{"losses": [1.', encoding="utf-8")
    with pytest.raises(BadInputError, match=FINISHED):
        kept.read(TOLD)


def test_comments_and_docstrings_do_not_make_other_sources(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    path.write_text('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1\n', encoding="utf-8")
    before = digest_of_sources([path])
    path.write_text("# other words\ndef f(x):\n    return (\n        x + 1)\n", encoding="utf-8")
    assert digest_of_sources([path]) == before
    path.write_text("def f(x):\n    return x + 2\n", encoding="utf-8")
    assert digest_of_sources([path]) != before


def test_runs_are_kept_in_the_named_folder_else_with_the_scratch(tmp_path: Path) -> None:
    assert work_folder(tmp_path, {}) == tmp_path / "moe"
    assert work_folder(tmp_path, {"QUILTWORK_BENCH_WORK": "/kept"}) == Path("/kept/moe")
