"""Scores that others gave to the same pairs, from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.columns import read_columns
from quiltwork.text.evaluate.gold import numbers

Numbers = npt.NDArray[np.float64]

PAPER_FILE = "sentences-and-calculated-similarities.csv"
"""Blagec et al.'s own scores of each pair of BIOSSES, in its order, as their repository has them."""
PAPER_COLUMNS = ("PV-DM", "PV-DBOW", "Sent2vec", "Skip-thoughts", "Jaccard", "Qgram", "Skip-gram max pooling",
                 "CBOW max pooling", "Hybrid model")  # fmt: skip
"""``Hybrid model`` is their supervised one."""


def read_scores(path: Path, names: Sequence[str], pairs: int) -> Mapping[str, Numbers]:
    """Columns of scores (n,) of a CSV, TSV or Parquet file that has a row for each pair, in the gold set's order.

    Raises BadInputError naming file, line and column, and where there are more rows or fewer than ``pairs``.
    """
    table = read_columns(path, names)
    if len(table) != pairs:
        raise BadInputError(f"has {len(table)} rows for {pairs} pairs", where=str(path))
    return dict(zip(names, numbers(table, names).T, strict=True))
