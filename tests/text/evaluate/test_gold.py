"""Gold sets: the two that are known by name, and one's own tables, with what is wrong in them told by its place."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.gold import GoldSet, read_biosses, read_ctr, read_pairs

ROWS = [("a, b", "c", "1"), ('say "d"', "e", "2.5"), ("β-actin", "", "4")]


def written(path, rows, header=("sentence1", "sentence2", "score")):
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = [list(column) for column in zip(*rows, strict=True)]
        parquet.write_table(pa.table(dict(zip(header, columns, strict=True))), path)
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]), encoding="utf-8")
    else:
        quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in [header, *rows]]
        path.write_text("".join(",".join(row) + "\n" for row in quoted), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_the_same_pairs_from_every_kind_of_table(tmp_path, suffix):
    gold = read_pairs(written(tmp_path / f"mine.{suffix}", ROWS))
    assert gold.pairs == tuple((a, b) for a, b, _ in ROWS)
    assert gold.gold.tolist() == [1.0, 2.5, 4.0]
    assert gold.raters is None
    assert gold.name == f"mine.{suffix}"


def test_parquet_may_hold_numbers(tmp_path):
    rows = [(a, b, float(c)) for a, b, c in ROWS]
    assert read_pairs(written(tmp_path / "mine.parquet", rows)).gold.tolist() == [1.0, 2.5, 4.0]


def test_columns_go_by_their_names_and_raters_make_the_score(tmp_path):
    rows = [("x", "1", "a", "b", "2"), ("x", "3", "c", "d", "4"), ("x", "0", "e", "f", "0")]
    path = written(tmp_path / "mine.csv", rows, ("id", "anna", "left", "right", "ben"))
    gold = read_pairs(path, first="left", second="right", score=None, raters=["anna", "ben"])
    assert gold.pairs[1] == ("c", "d")
    assert gold.gold.tolist() == [1.5, 3.5, 0.0]
    assert gold.raters.tolist() == [[1, 2], [3, 4], [0, 0]]
    assert gold.one_annotators_error() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("mine.csv", b"sentence1,sentence2\na,b\n", "line 1: has no column 'score'"),
        ("mine.csv", b"sentence1,sentence2,score\na,b,1\na,b,high\n", "line 3: score: 'high' is not a number"),
        ("mine.csv", b"sentence1,sentence2,score\na,b,nan\n", "'nan' is not a finite number"),
        ("mine.csv", b"sentence1,sentence2,score\na,b\n", "line 2: has 2 fields instead of 3"),
        ("mine.csv", b"sentence1,sentence2,score\na\xff,b,1\n", "is not UTF-8"),
        ("mine.csv", b"sentence1,sentence2,score\na,b,1\nc,d,2\n", "has 2 pairs"),
        ("mine.csv", b"", "has no column 'sentence1'"),
        ("mine.parquet", b"PAR1 and then nothing", "is not Parquet"),
        ("mine.xlsx", b"", "no table that is known"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_by_its_place(tmp_path, name, text, told):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(text)
    with pytest.raises(BadInputError) as raised:
        read_pairs(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)


def test_parquet_without_a_column_or_a_cell(tmp_path):
    pytest.importorskip("pyarrow")
    path = written(tmp_path / "mine.parquet", [("a", None, 1.0)] * 3)
    with pytest.raises(BadInputError, match="row 1: sentence2: there is nothing"):
        read_pairs(path)
    with pytest.raises(BadInputError, match=r"has no column 'said'.*it has sentence1"):
        read_pairs(path, score="said")


def test_a_file_that_is_not_there(tmp_path):
    for name in ("mine.csv", "mine.parquet"):
        with pytest.raises(BadInputError, match="cannot be read: "):
            read_pairs(tmp_path / name)
    with pytest.raises(BadInputError, match=r"there is no ctr_similarity_corpus\.csv"):
        read_ctr(tmp_path)


def test_a_gold_set_has_a_finite_number_for_each_pair():
    pairs = (("a", "b"),) * 3
    for gold in (np.zeros(2), np.array([1.0, np.inf, 0.0])):
        with pytest.raises(BadInputError, match="mine: does not have a number for each of 3 pairs"):
            GoldSet("mine", pairs, gold)


@pytest.mark.realdata
def test_biosses_is_the_version_that_most_papers_report_on(data_dir):
    gold = read_biosses(data_dir / "text")
    assert len(gold) == 100
    assert gold.gold[6] == 1.4
    assert gold.raters.shape == (100, 5)
    mean = gold.raters.mean(axis=1)
    assert np.flatnonzero(np.abs(mean - gold.gold) > 1e-9).tolist() == [6]
    assert mean[6] == pytest.approx(1.6)
    assert not gold.pairs[2][1].startswith("Moreover")


@pytest.mark.realdata
def test_ctr_has_three_raters(data_dir):
    gold = read_ctr(data_dir / "text")
    assert len(gold) == 171
    assert gold.raters.shape == (171, 3)
    assert gold.gold[0] == pytest.approx(8 / 3)
    assert gold.one_annotators_error() == pytest.approx(0.409, abs=1e-3)
