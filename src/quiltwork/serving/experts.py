"""What a request may say about experts, and what is told of those that its tokens took.

Blocks say by ``num_experts`` in their ``arch`` that they have any; what becomes of the option is theirs to know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.zoo.types import Chain

OPTION = "experts"
PER_TOKEN = "experts_per_token"
"""The name under which executors tell how many experts each row took."""
MOST_EXPERTS = 4096
EXPERTS_SCHEMA: Mapping[str, Json] = {
    "type": ["integer", "string", "object", "null"],
    "minimum": 1,
    "maximum": MOST_EXPERTS,
    "pattern": "^adaptive$",
    "properties": {
        "threshold": {
            "type": ["number", "null"],
            "minimum": -1,
            "maximum": 1,
            "description": "An expert beyond the first is taken where its probability is at most this far below the "
            "first one's: below 0 one expert, 1 all of `most`. The model's own, else 0.1, where absent.",
        },
        "most": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MOST_EXPERTS,
            "description": "Experts at most; the model's own number where absent.",
        },
    },
    "additionalProperties": False,
    "x-changes-state": True,
    "description": "For models with experts: how many each token takes in each layer. A number takes that many, "
    "adaptive as many as the token needs, an object says how far that goes; the model's own gate where absent. "
    "usage.experts_per_token tells what was taken.",
}


def parse_experts(value: Json) -> Mapping[str, Json] | None:
    """The option in its one form, ``{"most": int or None, "threshold": float or None}``; None where it is not given.

    Raises BadInputError naming the field that cannot be meant.
    """
    if value is None:
        return None
    if value == "adaptive":
        return {"most": None, "threshold": None}
    if isinstance(value, Mapping):
        unknown = sorted(map(str, value.keys() - {"most", "threshold"}))
        if unknown:
            raise BadInputError("is not a field of experts", where=f"{OPTION}.{unknown[0][:60]}")
        most, threshold = value.get("most"), value.get("threshold")
        return {
            "most": None if most is None else _number(most, f"{OPTION}.most"),
            "threshold": None if threshold is None else _gap(threshold),
        }
    if isinstance(value, str):
        raise BadInputError(f"must be a number, adaptive or an object, not {value[:40]!r}", where=OPTION)
    return {"most": _number(value, OPTION), "threshold": 1.0}


def _number(value: Json, where: str) -> int:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if type(whole) is not int or not 1 <= whole <= MOST_EXPERTS:
        raise BadInputError(f"must be a whole number from 1 to {MOST_EXPERTS}", where=where)
    return whole


def _gap(value: Json) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not -1 <= value <= 1:
        raise BadInputError("must be a number from -1 to 1", where=f"{OPTION}.threshold")
    return float(value)


def experts_of(chain: Chain) -> int:
    """Experts that every layer with any has at least; 0 for a model without."""
    counts = [link.block.arch.get("num_experts") for link in chain.links]
    return min((int(count) for count in counts if count is not None), default=0)


def check_experts(asked: Mapping[str, Json] | None, chain: Chain) -> None:
    """Raise BadInputError where a model has no experts, or fewer than are asked for."""
    if asked is None:
        return
    has, most = experts_of(chain), asked["most"]
    if has == 0:
        raise BadInputError(f"{chain.model.ref} has no experts to choose from", where=OPTION)
    if most is not None and most > has:
        raise BadInputError(f"{most} of {has} experts cannot be taken", where=OPTION)


@dataclass
class Spent:
    """A mean that is put together piece by piece."""

    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int) -> None:
        """Take in ``count`` numbers whose sum is ``total``."""
        self.total += total
        self.count += count


def spent_together(each: Iterable[Mapping[str, Spent]]) -> dict[str, Spent]:
    """What several sequences, or the agents that one went through, have spent together."""
    together: dict[str, Spent] = {}
    for one in each:
        for name, spent in one.items():
            together.setdefault(name, Spent()).add(spent.total, spent.count)
    return together
