"""What teams are guaranteed of training's GPUs, and who runs on what others leave idle of theirs.

A quota covers base demand on training's own servers: flexible workers leave for anybody's base demand as it is, and
lent servers are inference's. Any job may start on idle GPUs, whosesoever they are. Each running job is either *covered*
by its team's quota, all of it, or *borrows*, all of it. A team that waits within its quota has its own back: borrowing
jobs stop for it, and covered ones never do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from quiltwork.cluster.policy.placing import Placement
from quiltwork.cluster.policy.preempting import Victim
from quiltwork.core.errors import BadInputError

DEFAULT = "default"
"""Teams without a quota of their own have this one together; without it they only borrow."""


def quotas_of(texts: Iterable[str], where: str = "--quota") -> dict[str, int]:
    """``TEAM=GPUs`` each. Raises BadInputError."""
    found: dict[str, int] = {}
    for text in texts:
        team, _, gpus = (piece.strip() for piece in text.rpartition("="))
        if not team:
            raise BadInputError(f"{text[:40]!r} is not TEAM=GPUs", where=where, hint="vision=16")
        if team in found:
            raise BadInputError(f"team {team[:40]!r} is given twice", where=where)
        if not (gpus.isascii() and gpus.isdigit() and len(gpus) < 10):
            raise BadInputError(f"{gpus[:40]!r} is not a number of GPUs", where=f"{where} {team[:40]}")
        found[team] = int(gpus)
    return found


def check_quotas(quotas: Mapping[str, int], gpus: int) -> None:
    """Raises BadInputError where teams are guaranteed more than training's own servers have."""
    if (total := sum(quotas.values())) > gpus:
        told = ", ".join(f"{team}={n}" for team, n in sorted(quotas.items())[:8])
        raise BadInputError(
            f"teams are guaranteed {total:,} GPUs in all, and training's servers have {gpus:,}",
            where="quotas",
            hint=f"lower some of {told}",
        )


def account_of(team: str, quotas: Mapping[str, int]) -> str:
    """Whose quota a team's jobs are counted against."""
    return team if team in quotas else DEFAULT


def covered(held: Mapping[int, int], guaranteed: int) -> set[int]:
    """The running jobs of one team that its quota covers: those that have run for longest, as far as they fit into it.

    held : GPUs by job, in the order of their starts. Stopping one that is not covered changes nothing for the others.
    """
    found, left = set(), guaranteed
    for job, gpus in held.items():
        if gpus <= left:
            found.add(job)
            left -= gpus
    return found


class Borrower(NamedTuple):
    """A running job that no quota covers. ``lost`` : GPU-seconds that stopping it throws away."""

    job: int
    placement: Placement
    priority: int
    lost: float


def cheapest_first(borrowers: Iterable[Borrower]) -> list[Victim]:
    """In the order in which they are thought of when GPUs are wanted back: the lowest priority first, then who loses
    least for each GPU that becomes free, then who came last."""

    def cost(borrower: Borrower) -> tuple[int, float, int]:
        return borrower.priority, borrower.lost / sum(gpus for _, gpus in borrower.placement), -borrower.job

    return [Victim(each.job, each.placement) for each in sorted(borrowers, key=cost)]
