"""A worker's keeper, seen by whoever started it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from quiltwork.cluster.live.backend import WorkerOrder, environment
from quiltwork.cluster.live.keeper import CHUNK, Lines, keeper_command
from quiltwork.cluster.live.process import KEEPER_MARK, MARK
from quiltwork.core.errors import CapacityError


class KeptWorker:
    """A worker that was just started.

    order : what. mark : word by which its processes are found. devices : see ``environment``. held : files of the slot
    locks, which keeper and program inherit. variables : the server's own. errors : file for what a keeper should never
    have to say. detached : whether the keeper is to be no child of this process, but its own: for processes that have
    their children killed when they end.

    Raises CapacityError where the machine starts no more processes.
    """

    def __init__(
        self,
        order: WorkerOrder,
        mark: str,
        devices: tuple[int, ...] | None,
        held: Sequence[int],
        variables: Mapping[str, str],
        errors: int,
        *,
        detached: bool = False,
    ) -> None:
        command, needed = keeper_command(detached=detached)
        try:
            self.process = subprocess.Popen(
                command, env={**variables, **needed, KEEPER_MARK: mark}, bufsize=0, pass_fds=held,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise CapacityError(f"no process can be started: {error.strerror}", where="server") from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._commands, self._answers = self.process.stdin, self.process.stdout
        self._lines = Lines()
        self.output = self._answers.fileno()
        """Where its answers can be read."""
        self.silent = False
        """Whether no more will come."""
        self._tell({
            "argv": order.argv, "env": {**variables, **environment(order, devices), MARK: mark}, "log": order.log,
            "workdir": order.workdir, "log_bytes": order.log_bytes, "grace_s": order.grace_s, "keep": list(held),
        })  # fmt: skip

    def stop(self, grace_s: float) -> None:
        """See ``Backend.stop_worker``."""
        self._tell({"stop": grace_s})

    def _tell(self, command: dict[str, Any]) -> None:
        data = memoryview(json.dumps(command).encode() + b"\n")
        with suppress(BrokenPipeError):  # that it is gone is found where its answers end
            while data:
                data = data[self._commands.write(data) :]

    def answers(self) -> list[dict[str, Any]]:
        """What it says next; waits for it. Sets ``silent`` at the end."""
        data = os.read(self.output, CHUNK)
        self.silent = not data
        return [json.loads(line) for line in self._lines.feed(data)]

    def close(self) -> None:
        self._commands.close()
        self._answers.close()
