"""How the learning rate follows the batch: pure functions, so that a job which grows and shrinks back has its own rate.

Nothing is multiplied step by step. A rate is computed from where the job began and where it is now; what it was in
between is no argument, and cannot leave anything behind.
"""

from __future__ import annotations

import math

from quiltwork.core.errors import BadInputError

RULES = ("linear", "sqrt", "none")


def factor(rule: str, batch: int, first: int) -> float:
    """By how much the rate of a job that began with batches of ``first`` samples is scaled at ``batch`` samples.

    ``linear`` keeps what a sample contributes (SGD; Goyal et al. 2017, arXiv 1706.02677), ``sqrt`` suits methods that
    divide by the gradients' size (Adam), ``none`` leaves the rate alone. Raises BadInputError for another rule.
    """
    if batch < 1 or first < 1:
        raise BadInputError(f"{min(batch, first)} is not a number of samples", where="batch")
    if rule == "linear":
        return batch / first
    if rule == "sqrt":
        return math.sqrt(batch / first)
    if rule == "none":
        return 1.0
    raise BadInputError(f"{rule!r} is not a rule", where="lr: rule", hint=f"known: {', '.join(RULES)}")


def learning_rate(base: float, rule: str, batch: int, first: int, since: int, warmup: int) -> float:
    """The rate of a step.

    Parameters
    ----------
    base : the rate for batches of ``first`` samples, the job's first.
    batch : samples of the step, of all workers together.
    since : steps done since the batch last changed.
    warmup : steps in which a rate above ``base`` is reached from ``base``, in a straight line. Always from there: the
        rate before the change is no argument. A lower rate holds at once.
    """
    scaled = factor(rule, batch, first)
    if scaled > 1 and since < warmup:
        scaled = 1 + (scaled - 1) * since / warmup
    return base * scaled
