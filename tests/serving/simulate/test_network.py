"""Links are shared: what is sent waits for what is being sent."""

from __future__ import annotations

import pytest

from quiltwork.serving.policy.cost import Link
from quiltwork.serving.simulate import Cluster, Device
from quiltwork.serving.simulate.network import CHUNK_BYTES, Network

LONG = 100 * CHUNK_BYTES
WORLD = Cluster(
    tuple(Device(f"{s}{g}", s, 1e9) for s in "ab" for g in "01"), inside=Link(0.0, 1e9), between=Link(1e-3, 1e8)
)


def test_an_idle_link_takes_what_its_latency_and_rate_say_and_within_an_agent_nothing() -> None:
    network = Network(WORLD)
    assert network.send("a0", "a1", LONG, 5.0) == pytest.approx(5 + LONG / 1e9)
    assert network.send("a0", "a0", LONG, 5.0) == 5.0
    assert network.send("b0", "a1", LONG, 5.0) == pytest.approx(5 + 1e-3 + LONG / 1e8)
    assert network.moved_bytes == 2 * LONG
    assert network.between_bytes == LONG


def test_two_long_messages_out_of_one_server_go_one_after_the_other_whatever_their_devices() -> None:
    network = Network(WORLD)
    once = network.send("a0", "b0", LONG, 0.0)
    assert network.send("a1", "b1", LONG, 0.0) == pytest.approx(2 * once)
    assert network.link_now("a1", "b0", 0.0).seconds(LONG) == pytest.approx(3 * once)
    assert network.link_now("b0", "a0", 0.0).seconds(LONG) == pytest.approx(once)


def test_a_short_message_waits_for_one_piece_of_a_long_one_and_delays_it() -> None:
    network = Network(WORLD)
    long = network.send("a0", "b0", LONG, 0.0)
    piece = WORLD.between.seconds(CHUNK_BYTES)
    assert network.send("a0", "b0", 1000, 0.0) == pytest.approx(piece + WORLD.between.seconds(1000))
    assert network.send("a0", "b0", LONG, 0.0) > 2 * long
