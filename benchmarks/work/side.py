"""A side of a comparison, alone in its own process: its threads, its memory and its imports are its own.

``Side("work.hf:PeftMixed", threads=1, fleet=...)`` starts a process, builds ``PeftMixed(fleet=...)`` there, forwards
calls: ``side.call("generate", prompts)``. Arguments and results must pickle.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

from quiltwork.core.bench import Peak, peak_pss, tree_pss_bytes
from quiltwork.core.errors import QuiltworkError

BENCHMARKS = Path(__file__).resolve().parents[1]


class Side:
    """The parent's end. Use as a context manager; leaving it ends the process.

    Parameters
    ----------
    factory : ``module:Class`` to build in the child, importable from the benchmarks folder.
    threads : compute threads of the child (OpenMP, MKL and torch).
    environment : further environment variables of the child.
    settings : keyword arguments of the factory.
    """

    def __init__(
        self, factory: str, *, threads: int, environment: dict[str, str] | None = None, **settings: Any
    ) -> None:
        here, there = socketpair()
        fd = there.fileno()
        self._name = factory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "work.side", str(fd)],
            env=child_environment(threads) | (environment or {}),
            cwd=BENCHMARKS,
            pass_fds=(fd,),
            stdout=sys.stderr,
        )
        there.close()
        self._connection = Connection(here.detach())
        self._busy = threading.Lock()
        try:
            self.floor_pss: int = self._exchange((factory, threads))
            """What the process takes after its imports, before it builds anything, in bytes."""
            self._exchange(settings)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the side and wait for its result. Raises QuiltworkError with the child's traceback."""
        return self._exchange((method, args, kwargs))

    def _exchange(self, message: Any) -> Any:
        with self._busy:
            try:
                self._connection.send(message)
                ok, value = self._connection.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                code = self._process.wait()
                raise QuiltworkError(f"its process ended with code {code}", where=self._name) from error
        if not ok:
            raise QuiltworkError(f"failed in its process:\n{value}", where=self._name)
        return value

    def peak_pss(self, every: float = 0.02) -> AbstractContextManager[Peak]:
        """Watch the child's memory while the block runs; ``Peak.bytes`` holds the largest PSS seen."""
        return peak_pss(self.pid, every=every)

    def close(self) -> None:
        """End the child."""
        with suppress(OSError):
            self._connection.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def child_environment(threads: int) -> dict[str, str]:
    """Environment variables of a child with that many compute threads, which finds the benchmarks' modules."""
    n = str(threads)
    paths = [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "OMP_NUM_THREADS": n,
        "MKL_NUM_THREADS": n,
        "OPENBLAS_NUM_THREADS": n,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
    }


def _serve(fd: int) -> None:
    """The child's end: import, report memory after the imports, build, answer calls until the parent hangs up."""
    connection = Connection(fd)
    built: Any = None
    stage = 0
    while True:
        try:
            message = connection.recv()
        except EOFError:
            break
        try:
            if stage == 0:
                factory, threads = message
                module, _, name = factory.partition(":")
                build = getattr(import_module(module), name)
                _set_threads(threads)
                value = _settled_pss()
            elif stage == 1:
                built, value = build(**message), None
            else:
                method, args, kwargs = message
                value = getattr(built, method)(*args, **kwargs)
            connection.send((True, value))
            stage = min(stage + 1, 2)
        except Exception:  # noqa: BLE001  (whatever it is, it is the parent's to report)
            connection.send((False, traceback.format_exc()))
    close = getattr(built, "close", None)
    if close is not None:
        close()


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _settled_pss() -> int:
    import gc

    gc.collect()
    time.sleep(0.05)  # worker threads of the imports come to rest
    return tree_pss_bytes()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
