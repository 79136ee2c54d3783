"""``quiltwork text evaluate`` on small tables: what it prints, and what it says of what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from quiltwork.cli.text_evaluate import evaluate
from quiltwork.core.errors import QuiltworkError

pytest.importorskip("nltk")
pytest.importorskip("rapidfuzz")
pytest.importorskip("scipy")

WORDS = ("gene", "protein", "cell", "tumour", "mouse", "pathway", "kinase", "receptor", "membrane", "mutation")
app = typer.Typer()
app.command()(evaluate)


@pytest.fixture
def table(tmp_path):
    """Forty pairs; the more words both sentences have, the higher the score."""
    chance = np.random.default_rng(0)
    rows = ["left\tright\trated\tann"]
    for at in range(40):
        shared = at % 9
        words = list(chance.permutation(WORDS))
        a, b = words[:shared] + ["alpha"] * (9 - shared), words[:shared] + ["beta"] * (9 - shared)
        rows.append(f"{' '.join(a)}\t{' '.join(b)}\t{shared / 2}\t{shared % 5}")
    path = tmp_path / "mine.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def asked(table, *args):
    return run("--pairs", table, "--first", "left", "--second", "right", "--score", "rated", "--resamples", 200,
               "--deals", 2, *args)  # fmt: skip


def test_a_document_has_every_measure_with_its_interval_and_difference(table):
    done = asked(table, "--baseline", "qgram", "--json")
    assert done.exit_code == 0, done.output
    (told,) = json.loads(done.stdout)["sets"]
    assert (told["gold"], told["pairs"]) == ("mine.tsv", 40)
    found = {scorer["name"]: scorer for scorer in told["scorers"]}
    assert {"liblock", "jaccard (paper)", "token_set"} <= found.keys()
    liblock = found["liblock"]
    assert liblock["r"] > 0.95
    assert liblock["r_interval"][0] <= liblock["r"] <= liblock["r_interval"][1]
    assert liblock["deltas"]["qgram"]["r"] == pytest.approx(liblock["r"] - found["qgram"]["r"])
    (protocols,) = told["protocols"]
    assert protocols["p3_transfer"] is None
    assert protocols["p2_leave_one_out"] <= protocols["in_sample"]


def test_the_tables_have_all_three_protocols_of_two_sets(table, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text(table.read_text())
    done = asked(table, "--pairs", other)
    assert done.exit_code == 0, done.output
    for text in ("mine.tsv, 40 pairs", "other.tsv", "P1 mean of folds", "P2 leave-one-out", "P3", "best of", "rank"):
        assert text in done.stdout


def test_the_same_seed_prints_the_same(table):
    assert asked(table, "--json").stdout == asked(table, "--json").stdout


def test_sentences_of_the_set_are_found_in_a_corpus(table, tmp_path):
    pytest.importorskip("quiltwork.text.corpus")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Nothing to see.\n" + table.read_text().splitlines()[3].split("\t")[0] + "\n")
    (scan,) = json.loads(asked(table, "--corpus", corpus, "--json").stdout)["contamination"]
    assert scan["above_half"] >= 1
    assert scan["worst"][0]["share"] == 1.0
    assert scan["worst"][0]["line"] == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "there is nothing to evaluate on"),
        (("--pairs", "no.csv"), "no.csv: cannot be read"),
        (("--pairs", "TABLE"), "has no column 'sentence1'"),
        (("--pairs", "TABLE", "--pairs", "TABLE", "--first", "left", "--second", "right", "--rater", "ann"),
         "there are two sets 'mine.tsv'"),
        (("--pairs", "TABLE", "--first", "left", "--second", "right", "--score", "left"), "is not a number"),
        (("--pairs", "TABLE", "--first", "left", "--second", "right", "--rater", "ann", "--baseline", "best"),
         "baseline: 'best' is not one of jaccard"),
        (("--pairs", "TABLE", "--first", "left", "--second", "right", "--rater", "ann", "--model", "=x"),
         "is neither a folder nor NAME=FOLDER"),
        (("--pairs", "TABLE", "--first", "left", "--second", "right", "--rater", "ann", "--model", "nowhere"),
         "nowhere: no such folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(table, args, told):
    done = run(*(table if arg == "TABLE" else arg for arg in args))
    assert isinstance(done.exception, QuiltworkError)
    assert done.exception.exit_code == 2
    assert told in str(done.exception)
    assert "\n" not in str(done.exception)
