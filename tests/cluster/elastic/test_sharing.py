"""Who computes which samples of a step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.cluster.elastic.sharing import shares, span

counts = st.integers(0, 200)
parts = st.integers(1, 40)


@given(counts, parts)
def test_all_ids_are_dealt_out_once_in_order_and_evenly(count, workers):
    ids = np.random.default_rng(count).permutation(count)
    dealt = shares(ids, workers)
    assert np.concatenate(dealt).tolist() == ids.tolist()
    assert len(dealt) == workers
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(counts, parts)
def test_spans_cover_all_things_once(count, workers):
    spans = [span(count, rank, workers) for rank in range(workers)]
    assert [thing for one in spans for thing in one] == list(range(count))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1
