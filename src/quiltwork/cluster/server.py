"""Servers, the pools they are in, and the whitelists that say which side may use which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from quiltwork.core.errors import BadInputError, ConflictError


class Pool(StrEnum):
    """Whose a server is, and who uses it now. A server changes hands whole: never single GPUs of it."""

    TRAIN = "train"
    INFER = "infer"
    ONLOAN = "onloan"
    DRAINING = "draining"


class Group(StrEnum):
    """What runs on a lent server. One with only flexible workers is given back without preempting a job."""

    NONE = "none"
    BASE = "base"
    FLEX = "flex"


@dataclass(frozen=True, slots=True)
class Server:
    """A server: its name, its GPUs, and the pool it begins in."""

    id: str
    gpu_type: str
    gpus: int
    pool: Pool

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise BadInputError("a server needs at least one GPU", where=f"server {self.id}")


def group_of(used: int, flexible: int) -> Group:
    """The group of a lent server with ``used`` GPUs taken, ``flexible`` of them by flexible workers."""
    if used > flexible:
        return Group.BASE
    return Group.FLEX if flexible else Group.NONE


@dataclass(frozen=True, slots=True)
class Whitelists:
    """Which side may place work on which servers. Every move makes a new epoch.

    ``ids`` : each side's servers; no server is on both. ``done`` : what each request led to, so that one that is sent
    twice moves nothing twice.
    """

    training: frozenset[str]
    inference: frozenset[str]
    epoch: int = 0
    done: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := self.training & self.inference:
            raise BadInputError("a server is on both whitelists", where=f"server {min(both)}")

    def lend(self, ids: Iterable[str], *, epoch: int, request: str) -> Whitelists:
        """Inference's servers become training's. Raises ConflictError as ``move`` does."""
        return self._move(frozenset(ids), to_training=True, epoch=epoch, request=request)

    def give_back(self, ids: Iterable[str], *, epoch: int, request: str) -> Whitelists:
        """Lent servers become inference's again. Raises ConflictError as ``move`` does."""
        return self._move(frozenset(ids), to_training=False, epoch=epoch, request=request)

    def _move(self, ids: frozenset[str], *, to_training: bool, epoch: int, request: str) -> Whitelists:
        """Compare and set: raises ConflictError where the lists have moved on, or a server is not where it is moved
        from; then nothing is changed."""
        if request in self.done:
            return self
        if epoch != self.epoch:
            raise ConflictError(f"the whitelists are at epoch {self.epoch}, not {epoch}", hint="read them again")
        source = self.inference if to_training else self.training
        if missing := ids - source:
            raise ConflictError("the server is not on the list it is to leave", where=f"server {min(missing)}")
        done = {**self.done, request: epoch + 1}
        if to_training:
            return Whitelists(self.training | ids, self.inference - ids, epoch + 1, done)
        return Whitelists(self.training - ids, self.inference | ids, epoch + 1, done)
