"""Work in a thread that ends with it."""

from __future__ import annotations

import threading

import pytest

from quiltwork.core.errors import UnsupportedError
from quiltwork.serving.apart import in_thread_apart


def test_it_runs_elsewhere_and_its_thread_is_gone() -> None:
    worker = in_thread_apart(threading.current_thread)
    assert worker is not threading.current_thread()
    assert not worker.is_alive()


def test_what_it_raises_is_raised_here() -> None:
    def fail() -> None:
        raise UnsupportedError("no such kind", where="kind")

    with pytest.raises(UnsupportedError, match="no such kind"):
        in_thread_apart(fail)
