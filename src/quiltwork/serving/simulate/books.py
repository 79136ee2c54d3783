"""What a run counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quiltwork.serving.policy.admission import expected_tokens
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.simulate.agent import Agent
from quiltwork.serving.simulate.network import Network
from quiltwork.serving.simulate.outcome import Finished, Outcome
from quiltwork.serving.simulate.request import Running
from quiltwork.serving.simulate.world import App


class Books:
    """Counts of one run, and the rates that placement asks for."""

    def __init__(self) -> None:
        self.finished: list[Finished] = []
        self.refused: list[int] = []
        self.kv: Counter[str] = Counter()
        self.hops = self.loads = self.evictions = self.preemptions = self.added = self.retired = self.assembled = 0
        self.loaded_bytes = self.peak_kv = self.peak_weights = 0.0
        self._generated = 0
        self._asked: Counter[Instance] = Counter()
        self._since: float | None = None

    def asked(self, app: App, now: float) -> None:
        """A request of an app has come."""
        if self._since is None:
            self._since = now
        for piece in app.route:
            self._asked[piece.instance] += 1

    def rates(self, now: float) -> dict[Instance, float]:
        """Requests per second by segment, since the first."""
        # A second more than has passed, so that the first request does not count as an endless stream.
        span = now - (self._since if self._since is not None else now) + 1.0
        return {instance: n / span for instance, n in self._asked.items()}

    def output_tokens(self, default: float) -> float:
        """Tokens that a request generates, as far as can be told."""
        return expected_tokens(self._generated, len(self.finished), default)

    def finish(self, seq: Running, now: float) -> None:
        """A request got its last token."""
        a = seq.arrival
        self._generated += a.output_tokens
        self.finished.append(Finished(a.id, a.app, a.at, seq.first_token, now, a.prompt_tokens, a.output_tokens))

    def refuse(self, seq: Running) -> None:
        """A request can never be served."""
        self.refused.append(seq.arrival.id)

    def outcome(self, agents: Sequence[Agent], network: Network, start: float) -> Outcome:
        """All of it."""
        finished = tuple(sorted(self.finished, key=lambda f: f.id))
        return Outcome(
            finished=finished,
            refused=tuple(sorted(self.refused)),
            seconds=max((f.end for f in finished), default=start) - start,
            devices=len(agents),
            devices_used=sum(a.used for a in agents),
            busy_s=sum(a.busy_s for a in agents),
            useful_s=sum(a.useful_s for a in agents),
            peak_weight_bytes=max(self.peak_weights, sum(a.weight_bytes for a in agents)),
            peak_kv_bytes=self.peak_kv,
            moved_bytes=network.moved_bytes,
            between_bytes=network.between_bytes,
            hops=self.hops,
            tokens=sum(f.output_tokens for f in finished),
            batches=sum(a.batches for a in agents),
            rows=sum(a.rows_run for a in agents),
            steps=sum(a.steps for a in agents),
            pieces=sum(a.pieces for a in agents),
            loads=self.loads,
            loaded_bytes=self.loaded_bytes,
            evictions=self.evictions,
            preemptions=self.preemptions,
            replicas_added=self.added,
            replicas_retired=self.retired,
            kv_choices={str(choice): n for choice, n in self.kv.items()},
            assembled=self.assembled,
        )
