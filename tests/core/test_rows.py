"""Text files that people hand in, packed or plain."""

from __future__ import annotations

import gzip

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.core.rows import csv_blocks, csv_header, csv_rows, lines

TABLE = "a,b\n1,x\n\n2,y\n3,z\n"


def packed(tmp_path, text=TABLE, cut=None):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(text.encode())[:cut])
    return path


def plain(tmp_path, text=TABLE):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_a_packed_file_reads_as_the_plain_one(tmp_path):
    assert [line for line, _ in lines(packed(tmp_path))] == [line for line, _ in lines(plain(tmp_path))]
    assert [row for row, _ in csv_rows(packed(tmp_path), ("a",))] == [
        row for row, _ in csv_rows(plain(tmp_path), ("a",))
    ]


def test_a_truncated_packed_file_is_refused_by_name(tmp_path):
    with pytest.raises(BadInputError, match=r"table\.csv\.gz: line \d+: is not whole gzip"):
        list(lines(packed(tmp_path, cut=-12)))


def test_a_file_that_is_packed_by_its_name_alone_is_refused(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_text(TABLE)
    with pytest.raises(BadInputError, match="is not whole gzip"):
        list(lines(path))


def test_blocks_are_the_rows_by_column_with_their_lines(tmp_path):
    first, second = csv_blocks(plain(tmp_path), ("b", "a"), size=2)
    assert first.columns == {"b": ("x", "y"), "a": ("1", "2")}
    assert (first.numbers, second.numbers) == ((2, 4), (5,))


def test_only_the_columns_asked_for_are_kept(tmp_path):
    assert [block.columns for block in csv_blocks(plain(tmp_path), ("a",))] == [{"a": ("1", "2", "3")}]


def test_a_table_parted_by_bars_has_no_quotes(tmp_path):
    path = plain(tmp_path, 'id|name\n1|"half\n2|b\n')
    assert csv_header(path, delimiter="|") == ("id", "name")
    assert [block.columns["name"] for block in csv_blocks(path, ("name",), delimiter="|")] == [('"half', "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n1\n", "line 1: has no column 'b'"),
        ("a,b,b\n1,2,3\n", "line 1: has more than one column 'b'"),
        ("a,b\n1,2\n1\n", "line 3: has 1 fields instead of 2"),
        ('a,b\n1,"2\n', "line 2: is not CSV"),
        ("", "has no column 'a'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(tmp_path, text, message):
    with pytest.raises(BadInputError, match=message):
        list(csv_blocks(plain(tmp_path, text), ("a", "b")))


def test_a_folder_or_a_missing_file_is_said_by_name(tmp_path):
    for path in (tmp_path, tmp_path / "absent.csv", tmp_path / "absent.csv.gz"):
        with pytest.raises(BadInputError, match="cannot be read"):
            list(lines(path))
