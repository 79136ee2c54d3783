"""The folder that a training leaves: whole or not at all, known again, and never in the place of something else."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError, ConflictError, QuiltworkError
from quiltwork.core.result_folder import ResultFolder


def written(folder, run="a", text="weights"):
    folder.write(run, {"loss": 1.5}, lambda place: (place / "model").write_text(text))
    return folder


def test_a_training_knows_its_own_result_and_no_others(tmp_path):
    folder = written(ResultFolder(tmp_path / "out", where="out"))
    assert folder.report("a") == {"run": "a", "loss": 1.5}
    assert folder.report("b") is None
    folder.require_free("a")
    with pytest.raises(ConflictError, match="not by this training"):
        folder.require_free("b")


def test_another_trainings_result_is_replaced_only_where_that_is_wanted(tmp_path):
    kept = written(ResultFolder(tmp_path / "kept", where="out"))
    with pytest.raises(QuiltworkError):
        written(kept, "b", "others")
    assert (tmp_path / "kept" / "model").read_text() == "weights"
    replaced = written(ResultFolder(tmp_path / "replaced", where="out", replaces=True))
    replaced.require_free()
    written(replaced, "b", "others")
    assert ((tmp_path / "replaced" / "model").read_text(), replaced.report("a")) == ("others", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "replaced"]


@pytest.mark.parametrize("replaces", [True, False])
def test_a_folder_that_is_no_result_is_not_touched(tmp_path, replaces):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(ConflictError, match=r"out: .*is in use"):
        ResultFolder(tmp_path / "out", where="out", replaces=replaces).require_free("a")


def test_nothing_is_left_of_a_result_that_could_not_be_written(tmp_path):
    def fill(place):
        (place / "model").write_text("half")
        raise QuiltworkError("broke off")

    folder = ResultFolder(tmp_path / "out", where="out")
    with pytest.raises(QuiltworkError, match="broke off"):
        folder.write("a", {}, fill)
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="no folder can be made"):
        ResultFolder(tmp_path / "file" / "out", where="out").require_free("a")
