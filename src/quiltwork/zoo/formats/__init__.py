"""Readers of the files that models come in: each gives names, dtypes, shapes and byte ranges, never a whole model."""
