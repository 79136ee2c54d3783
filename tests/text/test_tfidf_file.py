"""Counts that are kept with a model, and what is told where they are not."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.files import Folder
from quiltwork.text.tfidf import TfIdf
from quiltwork.text.tfidf_file import load_tfidf, save_tfidf


def test_counts_come_back_as_they_were(tmp_path):
    fitted = TfIdf.fit([("p53", "βactin"), ("p53",), ()])
    save_tfidf(fitted, tmp_path)
    assert load_tfidf(Folder(tmp_path)) == fitted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "is not a JSON object"),
        ('{"sentences": 3}', "does not hold counts of sentences"),
        ('{"sentences": 3, "having": {"a": 1.5}}', "does not hold counts of sentences"),
        ('{"sentences": 3, "having": {"a": 4}}', "'a' is in 4 of 3 sentences"),
    ],
)
def test_a_file_that_holds_something_else(tmp_path, text, told):
    (tmp_path / "idf.json").write_text(text)
    with pytest.raises(BadInputError) as raised:
        load_tfidf(Folder(tmp_path))
    assert told in str(raised.value)
    assert "idf.json" in str(raised.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        load_tfidf(Folder(tmp_path))
