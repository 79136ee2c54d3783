"""The same numbers as CSV."""

import csv
from pathlib import Path

import pytest
from moe_figures import TEXT, figures

from quiltwork.core.errors import QuiltworkError
from quiltwork.moe.report.tables import write_tables


def test_every_table_has_what_the_page_shows(tmp_path: Path) -> None:
    written = write_tables(tmp_path / "t", figures())
    tables = {path.stem: list(csv.DictReader(path.open(encoding="utf-8", newline=""))) for path in written}
    assert "".join(row["text"] for row in tables["tokens"]) == TEXT
    assert [row["experts_per_token"] for row in tables["layers"]][:2] == ["1.0", "1.0"]
    assert [row["held_out"] for row in tables["training"]] == ["", "2.75", "", "2.25"]
    assert sum(int(row["assignments"]) for row in tables["load"]) == 180
    assert {row["word"] for row in tables["words"]} == {"the", "cat", "dog", "said", "end"}


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("")
    with pytest.raises(QuiltworkError, match="t"):
        write_tables(tmp_path / "t", figures())
