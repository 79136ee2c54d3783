"""An agent's process: told by its parent what to be, it works until the parent is gone."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from quiltwork.serving.agents.serve import Mailbox
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.config import EngineConfig

WIDTH, VOCABULARY = 64, 32
"""Of what a paced agent hands out instead of results."""


@dataclass(frozen=True)
class AgentTask:
    """What an agent is to be, wherever it runs."""

    name: str
    zoo: str
    """The folder of the zoo, as this agent reaches it."""
    config: EngineConfig
    """Memory in it is this agent's own share."""
    settings: AgentSettings
    threads: int = 1
    paced: bool = False
    """Whether batches are waited for instead of computed; the settings' profiles then say how long."""


def run_agent(task: AgentTask, mailbox: Mailbox, orphaned: Callable[[], bool]) -> None:
    """Be that agent, until told to stop or ``orphaned``."""
    import torch

    from quiltwork.serving.agents.agent import Agent
    from quiltwork.serving.agents.compute import Compute, Paced, computing
    from quiltwork.serving.agents.serve import serve
    from quiltwork.serving.kv import KVCache
    from quiltwork.serving.roster import placement
    from quiltwork.serving.weights import Library
    from quiltwork.zoo import Zoo

    torch.set_num_threads(task.threads)
    place = placement(task.config)
    cache = KVCache(
        task.config.memory_bytes or task.config.kv_bytes, place.dtype, place.device, keep=task.config.prefix_cache
    )
    compute: Compute = computing(cache)
    if task.paced:
        compute = Paced(task.settings.profiles.__getitem__, time.sleep, WIDTH, VOCABULARY)
    source = Zoo(task.zoo, create=False)
    memory = task.config.memory_bytes
    agent = Agent(task.name, Library(place), cache, compute, source, time.monotonic, task.settings, memory)
    serve(agent, mailbox, time.monotonic, orphaned=orphaned)


def _watch(parent: int, orphaned: threading.Event) -> None:
    """The parent holds the other end of this pipe; it ends with the parent, however that ends."""
    while os.read(parent, 1):
        continue
    orphaned.set()


def _read(parent: int, count: int) -> bytes:
    """Exactly ``count`` bytes. Raises EOFError where the parent has gone."""
    data = b""
    while len(data) < count:
        more = os.read(parent, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def main() -> None:
    """Read the specification, then work."""
    from quiltwork.serving.agents.local import AgentSpec, LocalMailbox

    # An interrupt at the terminal is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not through sys.stdin: a thread that waits in its buffer would be in the way at the end.
    parent = sys.stdin.fileno()
    (length,) = struct.unpack("<I", _read(parent, 4))
    spec: AgentSpec = pickle.loads(_read(parent, length))
    orphaned = threading.Event()
    threading.Thread(target=_watch, args=(parent, orphaned), daemon=True).start()
    mailbox = LocalMailbox(spec.folder, spec.task.name, spec.places, spec.born, spec.task.settings.links)
    run_agent(spec.task, mailbox, orphaned.is_set)


if __name__ == "__main__":
    main()
