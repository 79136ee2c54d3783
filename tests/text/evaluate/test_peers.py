"""Scores of others, by columns."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.gold import read_biosses
from quiltwork.text.evaluate.peers import PAPER_COLUMNS, PAPER_FILE, read_scores


def test_a_row_for_each_pair(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("id,a,b\nx,1,2\ny,3,4\n")
    assert read_scores(path, ["b", "a"], 2)["b"].tolist() == [2.0, 4.0]
    with pytest.raises(BadInputError, match="has 2 rows for 3 pairs"):
        read_scores(path, ["a"], 3)
    with pytest.raises(BadInputError, match=r"theirs\.csv: line 2: id: 'x' is not a number"):
        read_scores(path, ["id"], 2)


@pytest.mark.realdata
def test_the_papers_columns_have_the_figures_of_its_table(data_dir):
    gold = read_biosses(data_dir / "text")
    scores = read_scores(data_dir / "text" / "biosses" / PAPER_FILE, PAPER_COLUMNS, len(gold))
    printed = {
        "PV-DM": 0.819,
        "PV-DBOW": 0.804,
        "Sent2vec": 0.798,
        "Skip-thoughts": 0.485,
        "Jaccard": 0.751,
        "Qgram": 0.723,
    }
    found = {name: float(np.corrcoef(scores[name], gold.gold)[0, 1]) for name in printed}
    assert found == pytest.approx(printed, abs=1e-3)
