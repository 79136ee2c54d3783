"""Arithmetic on blocks of many sequences at once. torch and numba only; knows neither models nor servers."""
