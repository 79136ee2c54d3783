"""mteb runs one of its own tasks on an embedder of ours: in memory, without a network."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.text.embedder import Embedded, cosines
from quiltwork.text.evaluate.mteb import MtebEncoder

ROWS = [
    ("a cell divides", "the cell divides", 5.0),
    ("a gene is silenced", "a gene is expressed", 3.0),
    ("proteins fold", "mice were fed", 0.5),
    ("tumours grow in mice", "in mice tumours grow", 4.5),
    ("", "something", 0.0),
]


class Letters:
    """Counts of letters."""

    name = "letters of (a) sentence"
    dimensions = 26

    def embed(self, sentences):
        rows = np.array([[s.count(chr(97 + i)) for i in range(26)] for s in sentences], np.float32)
        count = np.array([len(s) for s in sentences], np.int64)
        return Embedded(rows, rows.any(axis=1), count, count, np.zeros(len(sentences), np.bool_))


def task():
    datasets = pytest.importorskip("datasets")
    from mteb.mocks.mock_tasks import MockSTSTask

    class OurPairs(MockSTSTask):
        min_score, max_score = 0, 5

        def load_data(self, num_proc=None, **how):
            columns = dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*ROWS, strict=True)), strict=True))
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)})
            self.data_loaded = True

    return OurPairs()


@pytest.mark.slow
def test_a_task_of_mteb_gives_the_correlation_of_our_cosines(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mteb = pytest.importorskip("mteb")
    from mteb.models.models_protocols import EncoderProtocol
    from scipy.stats import pearsonr, spearmanr

    encoder = MtebEncoder(Letters(), "1")
    assert isinstance(encoder, EncoderProtocol)
    assert encoder.mteb_model_meta.name == "quiltwork/letters-of-a-sentence"
    result = mteb.evaluate(encoder, task(), cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    a, b, gold = zip(*ROWS, strict=True)
    ours = np.nan_to_num(cosines(Letters().embed(a), Letters().embed(b)))
    assert scores["pearson"] == pytest.approx(pearsonr(ours, gold).statistic, abs=1e-5)
    assert scores["cosine_spearman"] == pytest.approx(spearmanr(ours, gold).statistic, abs=1e-5)


@pytest.mark.slow
def test_no_sentence_at_all_has_no_vectors():
    pytest.importorskip("mteb")
    assert MtebEncoder(Letters()).encode([]).shape == (0, 26)
