"""One worker: its program, and every process that comes of it, run, logged, stopped, and told as ended only when none
of them is left.

A keeper is a small program beside each worker. The kernel hands it every orphan among the worker's processes (it is
their subreaper), so that "no child is left" is the kernel's word, whatever the worker did: forked twice, began a
session, closed all its files. It is spoken to in lines of JSON through its standard input, and answers through its
standard output:

    {"argv": ..., "env": ..., "workdir": ..., "log": ..., "log_bytes": ..., "grace_s": ..., "keep": [...]}     to be run
    {"stop": seconds}                                                              SIGTERM, and SIGKILL after that long

    {"started": [pid, started, boot]}    {"trouble": text}    {"ended": {"code": ..., "signal": ..., "why": ...}}

When its standard input ends, whoever started it is gone, however that came about: the worker is killed at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.output import Log
from quiltwork.cluster.live.process import Process, descendants, processes

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_DETACHED = "detached"
CHUNK = 1 << 16
LINGER_S = 1.0
"""How long what a worker started may outlive it before it is told to go."""
RETRY_S = 0.02
"""How soon SIGKILL is sent again the first time; each wait is twice the one before."""
RETRY_MOST_S = 1.0
STUCK_S = 10.0
"""What is there so long after SIGKILL is told about."""
NOT_FOUND, NOT_RUNNABLE = 127, 126
"""Exit codes of what could not be started, as a shell has them."""


def become_subreaper() -> None:
    """Have orphans among one's descendants become one's children. Raises OSError."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel gives no orphans away")


def keeper_command(*, detached: bool) -> tuple[list[str], dict[str, str]]:
    """How a keeper is started: its program, and the variables that are not everybody's. One that is detached goes on in
    a process whose parent is not the one that started it."""
    root = Path(__file__).resolve().parents[3]
    # Without site packages: of all there is, it needs the standard library and two files of this folder.
    command = [sys.executable, "-S", "-m", "quiltwork.cluster.live.keeper", *([_DETACHED] if detached else [])]
    return command, {"PYTHONPATH": str(root)}


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"


class Lines:
    """Bytes as they come, cut into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        yield from whole


class Keeper:
    """What a keeper does.

    spec : what to run (see above). say : is handed each answer. now : seconds. kill : sends a signal to a process.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        say: Callable[[dict[str, Any]], None],
        now: Callable[[], float] = time.monotonic,
        kill: Callable[[int, int], None] = os.kill,
    ) -> None:
        self._spec, self._say, self._now, self._kill = spec, say, now, kill
        self.log = Log(spec["log"], spec["log_bytes"], lambda text: say({"trouble": text}))
        self.leader: int | None = None
        self.gone = False
        """Whether there is no process of the worker."""
        self.output: int | None = None
        """Where its output is read from; None where there is none to come."""
        self._status: int | None = None
        self._why = ""
        self._linger_until: float | None = None
        self._kill_at: float | None = None
        self._killing_since: float | None = None
        self._retry_s = RETRY_S
        self._told_stuck = False

    def start(self) -> None:
        """Start the program; where that fails the worker has ended."""
        spec = self._spec
        workdir = spec["workdir"]
        program = spec["argv"][0]
        if workdir is not None and not os.path.isdir(workdir):
            self._cannot_start(NOT_FOUND, f"there is no working folder {workdir}")
            return
        keeper = os.getpid()

        def prepare() -> None:
            # Should this keeper be killed by SIGKILL, the kernel kills the program too.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(1)

        self.output, theirs = os.pipe()
        os.set_blocking(self.output, False)
        try:
            process = subprocess.Popen(
                spec["argv"], env=spec["env"], cwd=workdir, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                start_new_session=True, preexec_fn=prepare, pass_fds=spec["keep"],
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError):
            self._cannot_start(NOT_FOUND, f"cannot start {program!r}: there is no such program")
            return
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._cannot_start(NOT_RUNNABLE, f"cannot start {program!r}: {reason}")
            return
        finally:
            os.close(theirs)
        process.returncode = 0  # its end is waited for here, together with everybody else's
        self.leader = process.pid
        self._say({"started": Process.of(process.pid)})

    def _cannot_start(self, code: int, why: str) -> None:
        self.log.line(why)
        self._why = why
        self._status = code << 8
        self.gone = True

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the process group, SIGKILL to everything ``grace_s`` later. Asked again, the sooner end counts."""
        if self.gone:
            return
        first = self._kill_at is None
        self._linger_until = None
        until = self._now() + grace_s
        self._kill_at = until if self._kill_at is None else min(self._kill_at, until)
        if not first or grace_s <= 0:
            return
        if self._status is None and self.leader is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.leader, signal.SIGTERM)
        else:
            self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for pid in descendants(os.getpid(), processes()):
            with suppress(ProcessLookupError, PermissionError):
                self._kill(pid, number)

    def due(self) -> float | None:
        """Seconds until ``look`` has something to do though nothing happens; None where it has not."""
        times = [at for at in (self._linger_until, self._kill_at) if at is not None]
        return max(min(times) - self._now(), 0.0) if times else None

    def look(self) -> None:
        """See who has ended, and send the signals that are due."""
        self._reap()
        if self.gone:
            return
        now = self._now()
        if self._status is not None and self._kill_at is None:
            if self._linger_until is None:
                self._linger_until = now + LINGER_S
            elif now >= self._linger_until:
                left = len(descendants(os.getpid(), processes()))
                self._say({"trouble": f"ended and left {left} processes behind, which are now stopped"})
                self.stop(self._spec["grace_s"])
        if self._kill_at is not None and now >= self._kill_at:
            self._signal_all(signal.SIGKILL)
            if self._killing_since is None:
                self._killing_since = now
            elif now - self._killing_since >= STUCK_S and not self._told_stuck:
                self._told_stuck = True
                self._say({"trouble": "survives SIGKILL; its slots stay taken until it is gone"})
            self._kill_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_MOST_S)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.gone = True
                return
            if pid == 0:
                return
            if pid == self.leader:
                self._status = status

    def pump(self) -> None:
        """Write to the log what was printed."""
        if self.output is None:
            return
        try:
            data = os.read(self.output, CHUNK)
        except BlockingIOError:
            return
        if data:
            self.log.write(data)
        else:
            self.close_output()

    def close_output(self) -> None:
        if self.output is not None:
            os.close(self.output)
            self.output = None

    def end(self) -> None:
        """The rest of the output, and the last answer."""
        while self.output is not None:
            try:
                data = os.read(self.output, CHUNK)
            except BlockingIOError:  # a process that is not the worker's holds the other end
                data = b""
            if not data:
                self.close_output()
            else:
                self.log.write(data)
        status = self._status
        code = os.waitstatus_to_exitcode(status) if status is not None else None
        if code is not None and code < 0:
            self.log.line(f"ended by {signal_name(-code)}")
        self.log.close()
        self._say({
            "ended": {
                "code": code if code is not None and code >= 0 else None,
                "signal": -code if code is not None and code < 0 else None,
                "why": self._why,
            }
        })  # fmt: skip


def main() -> None:
    """Read what to run, then run it until nothing of it is left."""
    if sys.argv[1:] == [_DETACHED] and os.fork():
        os._exit(0)
    commands, answers = sys.stdin.fileno(), sys.stdout.fileno()
    # Only whoever started this ends it. Handlers, unlike ignoring, are not inherited by the worker.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    bell, ring = os.pipe()
    for end in (bell, ring):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    become_subreaper()
    lines = Lines()
    waiting: list[bytes] = []
    while not waiting:
        data = os.read(commands, CHUNK)
        if not data:
            return  # nobody is there to run anything for
        waiting += lines.feed(data)

    def say(answer: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # whoever would read it is gone
            os.write(answers, json.dumps(answer).encode() + b"\n")

    keeper = Keeper(json.loads(waiting.pop(0)), say)
    keeper.start()
    listening = True
    while not keeper.gone:
        for line in waiting:
            keeper.stop(json.loads(line)["stop"])
        waiting = []
        keeper.look()
        if keeper.gone:
            break
        watched = [bell, *([commands] if listening else []), *([] if keeper.output is None else [keeper.output])]
        ready = select.select(watched, [], [], keeper.due())[0]
        if bell in ready:
            os.read(bell, CHUNK)
        if keeper.output in ready:
            keeper.pump()
        if commands in ready:
            data = os.read(commands, CHUNK)
            waiting += lines.feed(data)
            if not data:
                listening = False
                keeper.stop(0.0)
    keeper.end()


if __name__ == "__main__":
    main()
