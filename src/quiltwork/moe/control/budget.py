"""What may be spent, in experts, FLOPs or bytes per token: all come to a mean number of experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quiltwork.core.errors import BadInputError


def experts_for(budget: float, each: Sequence[float], *, besides: float, most: int, where: str, unit: str) -> float:
    """The mean number of experts per token and layer that a budget buys, layers counted by what an expert costs there.

    budget : of one token, all layers together. each : (L,) what one assignment of a layer costs. besides : what a token
    costs whatever the gates do. Raises BadInputError naming ``where`` and the range, where it buys less than one expert
    in each layer or more than ``most``.
    """
    price = math.fsum(each)
    if not each or min(each) <= 0 or not math.isfinite(price):
        raise BadInputError("an assignment costs more than nothing in each layer", where=f"{where}: cost")
    bought = (budget - besides) / price if math.isfinite(budget) else math.nan
    if not 1 <= bought <= most:
        low, high = besides + price, besides + most * price
        what = f"{budget:g} {unit} per token are none that 1 to {most} experts in each of {len(each)} layers can cost"
        raise BadInputError(what, where=where, hint=f"from {low:.6g} to {high:.6g}")
    return bought


def exchange_bytes(width: int, number_bytes: int) -> int:
    """Bytes that one assignment sends in a forward pass where experts are on other devices: a row there, a row back."""
    return 2 * width * number_bytes
