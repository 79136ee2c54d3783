"""Quiltwork: train and serve many models on few machines by sharing what is usually kept apart."""

__version__ = "0.1.0"
