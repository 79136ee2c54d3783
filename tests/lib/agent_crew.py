"""Agents as threads of this process: the same agents, letters and loop, without the price of processes."""

from __future__ import annotations

import queue
import threading
import time

import torch

from quiltwork.layers.protocol import Placement
from quiltwork.serving.agents.agent import Agent
from quiltwork.serving.agents.compute import computing
from quiltwork.serving.agents.message import FRONT, from_bytes, to_bytes
from quiltwork.serving.agents.serve import serve
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.kv import KVCache
from quiltwork.serving.weights import Library

CPU = Placement(torch.device("cpu"), torch.float32)


class MemorySource:
    """Chains and tensors held in memory."""

    def __init__(self, bench):
        self.bench, self.chains = bench, {}

    def chain(self, ref):
        return self.chains[ref]

    def read(self, ref):
        return self.bench.read(ref)


class Post:
    """Queues by name; a letter crosses as bytes."""

    def __init__(self):
        self.boxes: dict[str, queue.SimpleQueue] = {}
        self.spoil = lambda to, message: message
        """What becomes of a letter on its way; None loses it."""

    def mailbox(self, name):
        self.boxes[name] = queue.SimpleQueue()
        return Box(self, self.boxes[name])


class Box:
    def __init__(self, post, box):
        self.post, self.box = post, box

    def send(self, to, message):
        message = self.post.spoil(to, message)
        if message is not None and to in self.post.boxes:
            self.post.boxes[to].put(to_bytes(message))

    def learn(self, born):
        pass

    def wake(self):
        self.box.put(b"")

    def receive(self, timeout):
        found = []
        try:
            found.append(self.box.get(timeout=timeout) if timeout > 0 else self.box.get_nowait())
            while True:
                found.append(self.box.get_nowait())
        except queue.Empty:
            return [from_bytes(data) for data in found if data]


class ThreadCrew:
    """Agents in threads. ``kill`` ends one as suddenly as a thread can be ended: between two steps, telling nobody."""

    def __init__(self, source, count=2, kv_bytes=1 << 24, settings=None, clock=time.monotonic, memory_bytes=None):
        self.source, self.kv_bytes, self.clock, self.memory_bytes = source, kv_bytes, clock, memory_bytes
        self.settings = settings or AgentSettings()
        self.names = [f"a{i}" for i in range(count)]
        self.born = {}
        self.post = Post()
        self.mailbox = self.post.mailbox(FRONT)
        self.agents: dict[str, Agent] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._killed: dict[str, threading.Event] = {}
        self._dead: list[str] = []
        for name in self.names:
            self.restart(name)

    def restart(self, name):
        box = self.post.mailbox(name)
        cache = KVCache(self.memory_bytes or self.kv_bytes, CPU.dtype, CPU.device)
        agent = Agent(
            name, Library(CPU), cache, computing(cache), self.source, self.clock, self.settings, self.memory_bytes
        )
        killed = threading.Event()
        agent_loop = threading.Thread(
            target=serve, args=(agent, box, self.clock), kwargs={"beat_s": 0.02, "orphaned": killed.is_set}, daemon=True
        )
        self.agents[name], self._killed[name], self._threads[name] = agent, killed, agent_loop
        agent_loop.start()

    def kill(self, name):
        agent = self.agents[name]
        agent.outbox = _Void()
        agent._queue.clear()
        self._killed[name].set()
        agent.stopping = True
        del self.post.boxes[name]
        self._dead.append(name)

    def dead(self):
        dead, self._dead = self._dead, []
        return dead

    def close(self):
        for name in self.names:
            self.agents[name].stopping = True
        for thread in self._threads.values():
            thread.join(5)


class _Void:
    def append(self, letter):
        pass

    def __len__(self):
        return 0
