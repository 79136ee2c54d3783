"""What speaks for an interval's confidence is measured on pairs that the interval was not fitted on."""

from __future__ import annotations

import numpy as np


def test_the_surer_the_more_fits_cover_what_they_promise_and_the_wider_they_are():
    from work.text_interval import table

    chance = np.random.default_rng(0)
    scores = chance.uniform(size=170)
    rows = table(scores, np.clip(4 * scores + 0.5 * chance.normal(size=170), 0, 4), 0.9)
    assert [row["confidence"] for row in rows] == [None, 0.8, 0.9, 0.95]
    for figure in ("mean", "tenth percentile", "fits that cover it", "mean width"):
        values = [row[figure] for row in rows]
        assert values == sorted(values), figure
    assert rows[0]["mean"] >= 0.88
    assert rows[-1]["fits that cover it"] <= 1
