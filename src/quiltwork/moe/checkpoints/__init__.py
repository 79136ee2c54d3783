"""Checkpoints of others as mixtures of experts: dense ones upcycled, sparse ones adopted, both saved and calibrated."""
