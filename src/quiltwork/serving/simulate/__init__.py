"""A world of servers, devices and links under virtual time, run by the policies that the live agents run by.

``Simulation`` asks the pure functions of ``serving/policy`` for every decision: which work an agent takes next, where a
segment is run, how keys and values get there, what is loaded, dropped, added and retired. Only time is not real.
"""

from quiltwork.serving.simulate.outcome import Outcome
from quiltwork.serving.simulate.simulation import Simulation, simulate
from quiltwork.serving.simulate.world import App, Arrival, Cluster, Device, Piece, Settings

__all__ = ["App", "Arrival", "Cluster", "Device", "Outcome", "Piece", "Settings", "Simulation", "simulate"]
