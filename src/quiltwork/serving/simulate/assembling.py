"""Which app's chain answers a request: asks ``policy.assembly`` with what the agents of a simulated world are at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quiltwork.serving.policy.assembly import Candidate, Outlook, added_s, assemble
from quiltwork.serving.simulate.agent import Agent
from quiltwork.serving.simulate.network import Network
from quiltwork.serving.simulate.world import App, Arrival, Settings

HORIZON = 32
"""Tokens that an answer is taken to have, at most."""


def chosen_app(
    app: App,
    stand_ins: Sequence[App],
    arrival: Arrival,
    agents: Mapping[str, Agent],
    network: Network,
    settings: Settings,
    now: float,
) -> App:
    """The app that was asked, or one of those that may stand in for it."""
    by_name = {each.name: each for each in (app, *stand_ins)}
    looks = {name: _outlook(each, arrival, agents, network, settings, now) for name, each in by_name.items()}
    exact, *others = (Candidate(name, look) for name, look in looks.items())
    return by_name[assemble(exact, others, hysteresis=settings.hysteresis).name]


def _outlook(
    app: App, arrival: Arrival, agents: Mapping[str, Agent], network: Network, settings: Settings, now: float
) -> Outlook:
    """A way through an app's chain, at each segment by the holder whose queue is shortest."""
    chunk = settings.prefill_chunk
    full, rest = divmod(arrival.prompt_tokens, chunk)
    load_s = queue_s = prompt_s = step_s = 0.0
    at: Agent | None = None
    for hop, piece in enumerate(app.route):
        profile, batch_s, there = piece.profile, piece.profile.rows.at, 0
        holders = [agent for agent in agents.values() if agent.has(piece)]
        if not holders:
            if not settings.swap:
                return Outlook(load_s=float("inf"))
            load_s += profile.load_s
        else:
            if at is None or at not in holders:
                before, at = at, min(holders, key=lambda agent: (agent.queue_s, agent.name))
                queue_s += at.queue_s
                if before is not None:
                    link, row = network.link(before.name, at.name), profile.hidden_bytes
                    step_s += link.seconds(row) + settings.hop_s
                    prompt_s += full * link.seconds(row * chunk) + (link.seconds(row * rest) if rest else 0.0)
            load_s += max(at.ready_at.get(piece.instance, now) - now, 0.0)
            there = at.users[piece.instance]
        step_s += added_s(batch_s, there, 1) + (settings.hop_s if hop else 0.0)
        prompt_s += full * added_s(batch_s, there, chunk) + (added_s(batch_s, there, rest) if rest else 0.0)
    steps = min(arrival.output_tokens, HORIZON)
    return Outlook(load_s=load_s, prompt_s=prompt_s, queue_s=queue_s, step_s=step_s, steps=steps)
