"""Paced agents: real processes, queues, letters and decisions; batches are waited for as long as a profile says."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quiltwork.core.names import ModelRef
from quiltwork.serving import Engine, EngineConfig, SamplerState, SamplingOptions
from quiltwork.serving import Sequence as TokenSequence
from quiltwork.serving.agents.front import AgentEngine
from quiltwork.serving.agents.local import LocalCrew
from quiltwork.serving.agents.message import Beat
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.serving.policy.queueing import Instance
from quiltwork.zoo import Zoo
from quiltwork.zoo.segments import segments

ROWS = (1, 2, 4, 8, 16, 32)
CHUNKS = (64, 128, 256)


@dataclass(frozen=True)
class Asked:
    """A request of a paced run."""

    at: float
    """Seconds after the start."""
    model: str
    prompt: tuple[int, ...]
    new_tokens: int


def measured_rows(zoo: Path, model: str, *, repeats: int, vocab: int) -> CostTable:
    """Seconds of one step of a whole model by its rows, on this machine with the present number of threads.

    Rows up to 32 are decoding sequences with short contexts, larger numbers are pieces of prompts.
    """
    engine = Engine(EngineConfig(max_num_seqs=max(ROWS), prefill_chunk=max(CHUNKS), step_tokens=max(CHUNKS),
                                 kv_bytes=1 << 27, prefix_cache=False), time.monotonic)  # fmt: skip
    with Zoo(zoo) as opened:
        engine.install(engine.prepare(opened.chain(ModelRef(model)), opened.read))
    ids = 0

    def start(count: int, length: int, new_tokens: int) -> None:
        nonlocal ids
        for _ in range(count):
            ids += 1
            prompt = [(7 * ids + i) % vocab for i in range(length)]
            sampler = SamplerState(SamplingOptions(temperature=0.0), prompt)
            engine.add(TokenSequence(ids, ModelRef(model), prompt, sampler, new_tokens))

    def step() -> float:
        began = time.perf_counter()
        engine.step()
        return time.perf_counter() - began

    found: dict[float, float] = {}
    for rows in ROWS:
        start(rows, 4, repeats + 8)
        while any(s.pending > 1 for s in engine._running) or len(engine._waiting):
            engine.step()
        found[rows] = statistics.median([step() for _ in range(repeats)])
        while engine.has_work:
            engine.step()
    for rows in CHUNKS:
        times = []
        for _ in range(max(repeats // 4, 2)):
            start(1, rows, 1)
            times.append(step())
        found[rows] = statistics.median(times)
    amounts = sorted(found)
    highest, seconds = 0.0, []
    for amount in amounts:  # noise must not make more work cheaper
        highest = max(highest, found[amount])
        seconds.append(highest)
    return CostTable(tuple(amounts), tuple(seconds))


def instances(zoo: Path, models: Sequence[str]) -> dict[str, tuple[Instance, ...]]:
    """The segments of models that are loaded together, by model."""
    with Zoo(zoo) as opened:
        chains = {name: opened.chain(ModelRef(name)).links for name in models}
    cuts = segments(chains)
    return {
        name: tuple(tuple(part.block.id for part in chains[name][run.start : run.stop]) for run in cuts[name])
        for name in models
    }


@dataclass(frozen=True)
class Answered:
    """A request of a paced run and when its last token came, in seconds after the run's start."""

    asked: Asked
    end: float

    @property
    def latency(self) -> float:
        """From arrival to the last token."""
        return self.end - self.asked.at


@dataclass(frozen=True)
class PacedRun:
    """What a run of paced agents showed."""

    answered: tuple[Answered, ...]
    """In order of arrival."""
    seconds: float
    """From the start to the last answer."""
    cpu_s: float
    """Processor time of the front's process and the agents'."""
    beats: Mapping[str, Beat]
    """The agents' counts since they were started."""

    @property
    def latencies(self) -> Mapping[str, tuple[float, ...]]:
        """Seconds from arrival to the last token, by model."""
        found: dict[str, list[float]] = {}
        for one in sorted(self.answered, key=lambda one: one.end):
            found.setdefault(one.asked.model, []).append(one.latency)
        return {model: tuple(values) for model, values in found.items()}


class PacedFleet:
    """Agents that wait instead of computing, and a front that replays requests on them.

    zoo : of the models. holders : by model, for each of its segments, who holds it.
    """

    def __init__(
        self,
        zoo: Path,
        holders: Mapping[str, Sequence[Sequence[str]]],
        profiles: Mapping[Instance, SegmentProfile],
        settings: AgentSettings,
        *,
        agents: int,
        kv_bytes: int,
        prefill_chunk: int = 128,
    ) -> None:
        # A run that is made again must not find its prompts computed.
        config = EngineConfig(max_num_seqs=256, prefill_chunk=prefill_chunk, step_tokens=256, kv_bytes=kv_bytes,
                              prefix_cache=False)  # fmt: skip
        chosen = replace(settings, profiles=profiles)
        self._crew = LocalCrew(agents, str(zoo), config, chosen, paced=True)
        self._engine = AgentEngine(config, self._crew, time.monotonic, chosen)
        with Zoo(zoo) as opened:
            for name in holders:
                self._engine.install(self._engine.prepare(opened.chain(ModelRef(name)), opened.read))
        for name, wanted in holders.items():
            self._engine.holdings.lay_out(ModelRef(name), tuple(tuple(agents) for agents in wanted))
        self._ids = 0

    def replay(self, requests: Sequence[Asked]) -> PacedRun:
        """Serve timed requests; returns when all have ended."""
        waiting = sorted(requests, key=lambda asked: asked.at, reverse=True)
        due: dict[int, Asked] = {}
        answered: list[Answered] = []
        cpu = self._cpu_s()
        began = time.monotonic()
        over = threading.Event()
        # A step waits for letters; an arrival must not wait for it.
        times = [began + asked.at for asked in reversed(waiting)]
        knocking = threading.Thread(target=_knock, args=(self._engine.wake, times, over))
        knocking.start()
        try:
            while waiting or self._engine.has_work:
                now = time.monotonic() - began
                while waiting and waiting[-1].at <= now:
                    self._ids += 1
                    due[self._ids] = waiting.pop()
                    self._add(self._ids, due[self._ids])
                if not self._engine.has_work:
                    time.sleep(max(waiting[-1].at - now, 0.0))
                    continue
                for emission in self._engine.step():
                    if emission.finish_reason is not None:
                        answered.append(Answered(due.pop(emission.sequence_id), time.monotonic() - began))
        finally:
            over.set()
            knocking.join()
        seconds = time.monotonic() - began
        cpu = self._cpu_s() - cpu
        time.sleep(0.6)  # two signs of life later the agents' own counts are all here
        beats = {name: beat for name, beat in self._engine.agents().items() if beat is not None}
        return PacedRun(tuple(sorted(answered, key=lambda one: one.asked.at)), seconds, cpu, beats)

    def _add(self, id: int, asked: Asked) -> None:
        sampler = SamplerState(SamplingOptions(temperature=0.0), list(asked.prompt))
        self._engine.add(TokenSequence(id, ModelRef(asked.model), list(asked.prompt), sampler, asked.new_tokens))

    def _cpu_s(self) -> float:
        """Seconds of processor time so far, this process and the agents."""
        agents = 0
        for name in self._crew.names:
            fields = Path(f"/proc/{self._crew.pid(name)}/stat").read_text().rpartition(")")[2].split()
            agents += int(fields[11]) + int(fields[12])  # utime and stime (proc(5))
        return time.process_time() + agents / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the agents."""
        self._engine.close()


def _knock(wake: Callable[[], None], times: Sequence[float], over: threading.Event) -> None:
    """Wake somebody at given times, until it is over."""
    for at in times:
        if over.wait(max(at - time.monotonic(), 0.0)):
            return
        wake()
