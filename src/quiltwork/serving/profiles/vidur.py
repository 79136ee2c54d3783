"""Operator times that Vidur measured on real accelerators, read into cost tables.

Its ``MODEL.mlp.csv`` files hold milliseconds by operator, tokens in the batch and tensor-parallel width. Times of the
attention kernel and of the vocabulary projection are not in them; ``accelerator.py`` models those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.rows import csv_rows
from quiltwork.serving.policy.cost import CostTable, Link

ATTENTION = ("input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "add")
"""Operators of an attention block but for attention itself."""
FFN = ("post_attention_layernorm", "mlp_up_proj", "mlp_act", "mlp_down_proj", "add")
EMBED = ("emb",)
OPERATORS = tuple(dict.fromkeys((*EMBED, *ATTENTION, *FFN)))
_OPTIONAL = ("post_attention_layernorm",)
"""Models whose attention and feed-forward run side by side have one norm for both."""
_FAR = 1024.0
_SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size")


@dataclass(frozen=True)
class OperatorTimes:
    """One model's operators on one kind of accelerator."""

    heads: int
    kv_heads: int
    width: int
    ffn_width: int
    vocabulary: int
    gated: bool
    operators: Mapping[str, CostTable]
    """Seconds by tokens in the batch."""

    def together(self, operators: tuple[str, ...]) -> CostTable:
        """Seconds of several operators, one after the other."""
        amounts = sorted({a for name in operators for a in self.operators[name].amounts})
        return CostTable(tuple(amounts), tuple(sum(self.operators[name].at(a) for name in operators) for a in amounts))


def read_operators(path: str | Path, *, parallel: int = 1) -> OperatorTimes:
    """Median times of a model's operators at one tensor-parallel width.

    Where a number of tokens was measured more than once, the median of those medians. Raises NotFoundError where there
    is no such file, BadInputError naming the file, the line and the column of what is malformed or missing.
    """
    where = _there(path)
    columns = {name: f"time_stats.{name}.median" for name in OPERATORS}
    needed = (
        *(c for name, c in columns.items() if name not in _OPTIONAL),
        *_SHAPE,
        "use_gated_mlp",
        "num_tokens",
        "num_tensor_parallel_workers",
    )
    found: dict[str, dict[int, list[float]]] = {name: {} for name in OPERATORS}
    shape: tuple[int, ...] | None = None
    gated = False
    for row, at in csv_rows(where, needed):
        if _whole(row, "num_tensor_parallel_workers", at) != parallel:
            continue
        tokens = _whole(row, "num_tokens", at)
        here = tuple(_whole(row, name, at) for name in _SHAPE)
        if shape is not None and here != shape:
            raise BadInputError("another model's shape than in the lines before", where=at)
        shape, gated = here, row["use_gated_mlp"] == "True"
        for name, column in columns.items():
            seconds = _milliseconds(row, column, at) if row.get(column) or name not in _OPTIONAL else 0.0
            found[name].setdefault(tokens, []).append(seconds)
    if shape is None:
        raise BadInputError(f"has no lines of tensor-parallel width {parallel}", where=str(where))
    heads, kv_heads, width, ffn_width, vocabulary = shape
    tables = {name: _extended(_table(points)) for name, points in found.items()}
    return OperatorTimes(heads, kv_heads, width, ffn_width, vocabulary, gated, tables)


def read_link(path: str | Path, *, inside: bool) -> Link:
    """A link by its measured send/receive times: between two devices of one server (``inside``) or of two.

    Raises NotFoundError, or BadInputError naming the file, the line and the column.
    """
    where = _there(path)
    column = "time_stats.send_recv.median"
    points: dict[int, list[float]] = {}
    for row, at in csv_rows(where, (column, "size", "devices_per_node")):
        if (_whole(row, "devices_per_node", at) > 1) is inside:
            points.setdefault(_whole(row, "size", at), []).append(_milliseconds(row, column, at))
    if not points:
        raise BadInputError(f"has no times {'inside a server' if inside else 'between servers'}", where=str(where))
    table = _table(points)
    first, last, low, high = table.amounts[0], table.amounts[-1], table.seconds[0], table.seconds[-1]
    if last <= first or high <= low:
        raise BadInputError("the largest message is not slower than the smallest", where=str(where))
    rate = (last - first) / (high - low)
    # Beyond what was measured the rate of the whole table goes on, not that of two neighbouring points.
    far = last * _FAR
    return Link(low, rate, CostTable((*table.amounts, far), (*table.seconds, high + (far - last) / rate)))


def _extended(table: CostTable) -> CostTable:
    """Beyond what was measured time grows with the tokens, as it does where arithmetic is all that counts."""
    return CostTable((*table.amounts, table.amounts[-1] * _FAR), (*table.seconds, table.seconds[-1] * _FAR))


def _there(path: str | Path) -> Path:
    found = Path(path)
    if not found.is_file():
        raise NotFoundError("there is no such table", where=str(found))
    return found


def _table(points: Mapping[int, list[float]]) -> CostTable:
    amounts = sorted(points)
    return CostTable(tuple(map(float, amounts)), tuple(median(points[a]) for a in amounts))


def _whole(row: Mapping[str, str], column: str, where: str) -> int:
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if value <= 0 or value != int(value):
        raise BadInputError(f"{row[column][:40]!r} is not a positive whole number", where=f"{where}: {column}")
    return int(value)


def _milliseconds(row: Mapping[str, str], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BadInputError(f"{row[column][:40]!r} is not a time", where=f"{where}: {column}")
    return value / 1000
