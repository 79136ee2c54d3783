"""From which threshold on each further expert of a token is taken; counted, so that any threshold's cost is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.gate import Gate, first
from quiltwork.moe.gates import Adaptive, gaps_of
from quiltwork.moe.routing import Routing
from quiltwork.moe.top_p import TopP

Numbers = npt.NDArray[np.float64]

BINS = 512
REACH = 14.0
"""Levels are counted in bins of equal width of log(level / (1 - level)), from -REACH to REACH: levels crowd at 0 while
a router is fresh, and at 1 when it is sure."""
TOKENS, ASSIGNMENTS, LEVELS = 0, 1, 2
"""Columns of a tally: how many tokens, how many experts they took, and from here on the bins."""
COLUMNS = LEVELS + BINS


def levels_of(gate: Gate, probabilities: Tensor) -> Tensor:
    """(T, K - 1) in 0 to 1, of each candidate after the first the threshold from which on it is taken; ascending.

    probabilities : (T, E), of a ``Routing``. Raises BadInputError for a gate that has no threshold.
    """
    if isinstance(gate, Adaptive):
        most = min(int(torch.as_tensor(gate.most).max()), probabilities.shape[1])
        values, _ = first(probabilities, most)
        return gaps_of(values, gate.reading)[:, 1:]
    if isinstance(gate, TopP):
        most = probabilities.shape[1] if gate.most is None else int(torch.as_tensor(gate.most).max())
        values, _ = first(probabilities, min(most, probabilities.shape[1]))
        return (values.cumsum(-1) - values)[:, 1:].clamp(0, 1)
    raise BadInputError(f"{type(gate).__name__} has no threshold that a controller could set", where="gate")


def tally_of(gate: Gate, routing: Routing) -> Tensor:
    """(COLUMNS,) float64: what one layer did with some tokens. Tallies of a layer may be added."""
    levels = levels_of(gate, routing.probabilities)
    place = (torch.logit(levels.double(), eps=1e-9) + REACH) * (BINS / (2 * REACH))
    bins = torch.bincount(place.long().clamp_(0, BINS - 1).flatten(), minlength=BINS)
    told = bins.new_tensor([routing.tokens, len(routing.token)])
    return torch.cat([told, bins]).double()


def threshold_for(bins: Numbers, share: float) -> float:
    """The threshold that a share of the counted levels (BINS,) does not exceed.

    -1 for a share of 0, 1 for all: there no level is left to chance. Raises BadInputError where nothing is counted.
    """
    total = float(bins.sum())
    if total <= 0:
        raise BadInputError("no token was counted", where="tally")
    if share <= 0:
        return -1.0
    if share >= 1:
        return 1.0
    below = np.cumsum(bins)
    place = int(np.searchsorted(below, share * total))
    inside = 1 - (float(below[place]) - share * total) / float(bins[place])
    return level_at((place + inside) * (2 * REACH / BINS) - REACH)


def level_at(z: float) -> float:
    """The level whose log(level / (1 - level)) is ``z``."""
    return float(1 / (1 + np.exp(-z)))


def place_of(level: float) -> float:
    """log(level / (1 - level)), from -REACH to REACH."""
    level = min(max(level, 1e-12), 1 - 1e-12)
    return float(np.clip(np.log(level / (1 - level)), -REACH, REACH))
