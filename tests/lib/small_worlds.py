"""Small simulated worlds: one-segment apps on a few devices, random but sound requests."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quiltwork.serving.policy.cost import CostTable, Link, SegmentProfile
from quiltwork.serving.simulate import App, Arrival, Cluster, Device, Piece

FLAT = SegmentProfile(CostTable((1, 64, 512), (0.01, 0.0105, 0.05)), 1e-6, 1000, 100, 64, 0.5, 1e-7)


def piece(name: str, start: int = 0, profile: SegmentProfile = FLAT) -> Piece:
    return Piece((name,), start, profile)


def cluster(servers: Sequence[int] = (2, 2), memory: float = 1e6, rate: float = 1e7) -> Cluster:
    devices = [Device(f"s{s}g{g}", f"s{s}", memory) for s, n in enumerate(servers) for g in range(n)]
    return Cluster(tuple(devices), Link(1e-5, rate * 20), Link(1e-4, rate))


def shared_apps() -> tuple[App, ...]:
    """Three models over one lower segment: a base, an adapter of it, and one whose top is its own."""
    lower, upper, own = piece("lower"), piece("upper", 8), piece("own", 8)
    return (App("base", (lower, upper)), App("lora", (lower, upper), attached=True), App("top", (lower, own)))


def arrivals(apps: Sequence[App], count: int, rate: float, seed: int, longest: int = 60) -> list[Arrival]:
    """Poisson arrivals of random lengths."""
    rng = random.Random(f"arrivals/{seed}")
    at, made = 0.0, []
    for i in range(count):
        at += rng.expovariate(rate)
        app = rng.choice([a.name for a in apps])
        made.append(Arrival(i, app, at, rng.randint(1, longest), rng.randint(1, longest // 2)))
    return made
