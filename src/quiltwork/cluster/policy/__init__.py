"""Decisions of the cluster: pure functions that the simulator and the live controller both call.

State comes in as plain data, a decision goes out. No clock, no input or output; randomness is handed in.
"""
