"""Workers that compute together, as one of them sees it: torch.distributed without its global group.

A group is an object: the next one is connected while the present one is in use, and both are there at once. That is
what makes a change short.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor
from torch.distributed import (
    AllreduceOptions,
    BroadcastOptions,
    PrefixStore,
    ProcessGroup,
    ProcessGroupGloo,
    Store,
    TCPStore,
    Work,
)

from quiltwork.core.errors import QuiltworkError, UnsupportedError

_SLICE = timedelta(seconds=0.25)
"""How often a worker that waits for another one looks up, in case it is told to stop."""
_leaked: list[tuple[ProcessGroup, Work]] = []
"""Groups with an operation that cannot be ended; to let go of one would wait for it. They are gone with the process."""


class GroupBroken(Exception):
    """Somebody of the group has gone, or it was abandoned. What was computed together is void."""


class Group:
    """One rank of a group. Raises GroupBroken from every operation that another rank's absence spoils.

    Parameters
    ----------
    device : where tensors have to be for this group; others are copied there and back.
    stopped : asked now and then while waiting: whether to wait no longer.
    """

    def __init__(self, group: ProcessGroup, device: torch.device, stopped: Callable[[], bool]) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._group: ProcessGroup | None = group
        self._device, self._stopped = device, stopped

    def add_up(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by the sum over all ranks, the same bits at each."""
        there = tensor.to(self._device)
        self._do(lambda group: group.allreduce([there], AllreduceOptions()))
        self._back(tensor, there)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Replace ``tensor`` by that of rank ``root``."""
        there = tensor.to(self._device)
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        self._do(lambda group: group.broadcast([there], options))
        self._back(tensor, there)

    def gather(self, tensor: Tensor) -> Tensor:
        """(size, n): the (n,) tensors of all ranks, in their order."""
        there = tensor.to(self._device)
        parts = [torch.empty_like(there) for _ in range(self.size)]
        self._do(lambda group: group.allgather([parts], [there]))
        return torch.stack(parts).to(tensor.device)

    def exchange(self, sent: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """``sent[i]`` goes to rank i; returns what each rank sent here, (sizes[i],) from rank i."""
        out = torch.cat(sent).to(self._device)
        got = out.new_empty(sum(sizes))
        lengths = [len(part) for part in sent]
        self._do(lambda group: group.alltoall_base(got, out, sizes, lengths))
        return list(got.to(sent[0].device).split(sizes))

    def close(self) -> None:
        """Leave the group; whoever still waits for this rank gets GroupBroken."""
        self._group = None

    def _back(self, tensor: Tensor, there: Tensor) -> None:
        if there is not tensor:
            tensor.copy_(there)

    def _do(self, begin: Callable[[ProcessGroup], Work]) -> None:
        group = self._group
        if group is None:
            raise GroupBroken("it was left")
        if self._stopped():
            self.close()
            raise GroupBroken("it was abandoned")
        ended = _ended if self._device.type == "cpu" else _ended_on_device
        try:
            work = begin(group)
            while not ended(work):
                if self._stopped():
                    _leaked.append((group, work))
                    self.close()
                    raise GroupBroken("it was abandoned")
        except RuntimeError as error:
            self.close()
            group = None  # the error remembers this frame, and would keep the sockets open
            raise GroupBroken(str(error).splitlines()[0]) from error


def _ended(work: Work) -> bool:
    """Wait for a while; whether it is done. Raises RuntimeError where it failed."""
    try:
        work.wait(_SLICE)
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # it ended in between: well, or with an error of its own
    return True


def _ended_on_device(work: Work) -> bool:
    """The same for NCCL, which would abort the whole group when a wait of its own is over."""
    end = time.monotonic() + _SLICE.total_seconds()
    while not work.is_completed():
        if time.monotonic() > end:
            return False
        time.sleep(0)
    work.wait()
    return True


def serve_store(host: str) -> tuple[Store, str]:
    """A store through which other workers can find each other, and its ``host:port``."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, f"{host}:{store.port}"


def join(
    address: str,
    name: str,
    rank: int,
    size: int,
    *,
    host: str,
    backend: str,
    device: torch.device,
    connect_s: float,
    collective_s: float,
    stopped: Callable[[], bool],
) -> Group:
    """Be rank ``rank`` of the group ``name``; returns when all ranks are connected.

    ``address`` is the ``host:port`` of the store, ``host`` where the others reach this process. Raises QuiltworkError
    where they do not come within ``connect_s`` seconds, UnsupportedError for a backend that torch was built without.
    """
    where, _, port = address.rpartition(":")
    connect = timedelta(seconds=connect_s)
    try:
        store = PrefixStore(name, TCPStore(where, int(port), is_master=False, timeout=connect))
        group = ProcessGroup(store, rank, size)
        if backend == "gloo":
            _add_gloo(group, store, rank, size, host, connect, timedelta(seconds=collective_s))
        else:
            _add_nccl(group, store, rank, size, device, timedelta(seconds=collective_s))
    except RuntimeError as error:
        raise QuiltworkError(f"could not be joined: {str(error).splitlines()[0]}", where=f"group {name}") from error
    return Group(group, torch.device("cpu") if backend == "gloo" else device, stopped)


def _add_gloo(
    group: ProcessGroup, store: Store, rank: int, size: int, host: str, connect: timedelta, collective: timedelta
) -> None:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stubs know only the shorter constructor
    options._devices = [ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = connect
    options._threads = 2
    gloo = ProcessGroupGloo(store, rank, size, options)
    gloo._set_default_timeout(collective)
    group._register_backend(torch.device("cpu"), ProcessGroup.BackendType.GLOO, gloo)


def _add_nccl(
    group: ProcessGroup, store: Store, rank: int, size: int, device: torch.device, collective: timedelta
) -> None:
    try:
        from torch.distributed import ProcessGroupNCCL
    except ImportError as error:
        raise UnsupportedError("this torch has none", where="backend: nccl", hint="gloo works everywhere") from error
    options = ProcessGroupNCCL.Options()
    options._timeout = collective
    nccl = ProcessGroupNCCL(store, rank, size, options)
    nccl.eager_connect_single_device(device)
    group._register_backend(device, ProcessGroup.BackendType.NCCL, nccl)
