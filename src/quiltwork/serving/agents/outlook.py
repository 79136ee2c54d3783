"""What a request would take on a chain whose segments several agents hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from quiltwork.serving.agents.dispatching import TOKEN_BYTES
from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.agents.message import FRONT, Beat
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.policy.assembly import Outlook, added_s
from quiltwork.serving.policy.queueing import Instance


class Outlooks:
    """Ways through chains, by what agents say of their queues and of the steps they have run.

    Seconds of a segment's batch are those of ``settings.profiles``, else learnt from what the agents were busy with,
    all blocks alike; until there is anything to learn from they are a guess.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self.timing = Timing(settings.profiles)
        self._beats: Mapping[str, Beat] = {}
        self._gone: Collection[str] = ()

    def hear(self, beats: Mapping[str, Beat], gone: Collection[str] = ()) -> None:
        """Every agent's last sign of life, and who is gone."""
        for name, beat in beats.items():
            before = self._beats.get(name)
            blocks = sum(batch[0] for batch in beat.batches)
            if before is None or beat.steps <= before.steps or not blocks:
                continue
            rows = sum(batch[0] * batch[1] for batch in beat.batches) / blocks
            seconds = (beat.busy_s - before.busy_s) / (beat.steps - before.steps)
            self.timing.learn(max(round(rows), 1), blocks, seconds)
        self._beats, self._gone = beats, gone

    def of(self, cut: Cut, riding: Mapping[Instance, int], *, prompt: int, chunk: int, tokens: int) -> Outlook:
        """A way through a chain from agent to agent, at each segment by the holder whose queue is shortest.

        Parameters
        ----------
        riding : sequences that run through each segment.
        prompt, chunk, tokens : tokens of the prompt, of it in one go, and of the answer at most.

        What of the prompt is computed already only the agents know: it is taken to be nothing. Infinite where a segment
        is held by nobody.
        """
        steps = min(tokens, self._settings.horizon)
        queue_s = prompt_s = step_s = 0.0
        full, rest = divmod(prompt, chunk)
        at = FRONT
        for segment, key in enumerate(cut.keys):
            holders = [agent for agent in cut.holders[segment] if agent not in self._gone]
            if not holders:
                return Outlook(load_s=float("inf"), steps=steps)
            if at not in holders:
                before, at = at, min(holders, key=lambda agent: (self._queue_s(agent), agent))
                queue_s += self._queue_s(at)
                row = cut.hidden_bytes if segment else TOKEN_BYTES
                link = self._settings.link(before, at)
                step_s += link.seconds(row)
                prompt_s += full * link.seconds(row * chunk) + (link.seconds(row * rest) if rest else 0.0)
            batch_s = self.timing.of(cut, segment).rows.at
            there = riding.get(key, 0)
            step_s += added_s(batch_s, there, 1)
            prompt_s += full * added_s(batch_s, there, chunk) + (added_s(batch_s, there, rest) if rest else 0.0)
        return Outlook(prompt_s=prompt_s, queue_s=queue_s, step_s=step_s, steps=steps)

    def _queue_s(self, agent: str) -> float:
        beat = self._beats.get(agent)
        return 0.0 if beat is None else beat.queue_s
