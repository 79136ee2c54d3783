"""Groups whose ranks are threads of this process: the same sockets and collectives, without the price of processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import torch

from quiltwork.cluster.elastic.group import join, serve_store

_names = count()


def ranks(size, work, stopped=lambda rank: False):
    """What ``work(group)`` returns at each rank of a new group."""
    store, address = serve_store("127.0.0.1")
    name = f"test-{next(_names)}"

    def one(rank):
        group = join(
            address,
            name,
            rank,
            size,
            host="127.0.0.1",
            backend="gloo",
            device=torch.device("cpu"),
            connect_s=20.0,
            collective_s=60.0,
            stopped=lambda: stopped(rank),
        )
        try:
            return work(group)
        finally:
            group.close()

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(one, range(size)))
    del store
    return found
