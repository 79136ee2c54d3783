"""One worker's process: ``python -m quiltwork.cluster.elastic.worker --job=... --worker=... --link=host:port ...``.

It runs any ``Trainable``, an ``Elastic`` one together with others. SIGTERM has it leave at the next step boundary, the
last one of a job after a checkpoint. It exits with 0 when it was not needed any more, 1 when it failed and 2 for wrong
arguments; why is one line at the link, and more on standard error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.contact import Contact, hello_of
from quiltwork.cluster.elastic.inbox import Inbox
from quiltwork.cluster.elastic.settings import TOKEN, WorkerSettings, read_arguments
from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.registry import missing_package


class _Worker:
    """What the parts of a worker share: who hears what comes from the link, and what it is told after a loss."""

    def __init__(self, settings: WorkerSettings, token: str | None) -> None:
        self.settings, self.inbox = settings, Inbox()
        self._ready: m.Ready | None = None
        self._recall: Callable[[], Sequence[m.FromWorker]] = list
        self._pulse: Callable[[], m.Heartbeat] = lambda: m.Heartbeat(0, time.monotonic() - self._began)
        self._prepare: Callable[[m.Prepare | m.Cancel | m.Abandon | None], None] = lambda order: None
        self._began = time.monotonic()
        self._leaving = threading.Event()
        self.failed = False
        """Whether it ends with an error, which it says before anything else."""
        self.contact = Contact(
            settings.link,
            hello_of(settings.job, settings.worker, token, settings.host),
            clock=time.monotonic,
            hear=self._hear,
            lost=self._lost,
            recall=self._recalled,
            pulse=lambda: self._pulse(),
        )

    def leave(self) -> None:
        """Ask to be let go at the next boundary. One that has not begun has nothing to lose, and ends at once."""
        self._leaving.set()
        if self._ready is None:
            self.contact.part(m.Left())
            os._exit(0)
        self.contact.send(m.Leaving())

    def run(self) -> None:
        """Build what is needed, and train. Raises what goes wrong with it."""
        # Late: they bring torch, and the link is to hear of this process before that is loaded.
        try:
            import torch
        except ModuleNotFoundError as error:
            raise missing_package(error, where="elastic training") from error

        from quiltwork.cluster.elastic.joining import Joining
        from quiltwork.cluster.elastic.saving import Saver
        from quiltwork.cluster.elastic.training import Training
        from quiltwork.cluster.elastic.work import Work

        settings, say = self.settings, self.contact.send
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        joining = Joining(settings, self.inbox.void, say)
        store = joining.offer()
        work = Work(settings)
        saver = Saver(settings.checkpoint, time.monotonic, say)
        training = Training(settings, work, self.inbox, joining, saver, say=say, lost_for=self.contact.lost_for)
        layout = "" if work.layout is None else work.layout.digest()
        self._pulse = training.pulse

        def prepare(order: m.Prepare | m.Cancel | m.Abandon | None) -> None:
            match order:
                case m.Prepare(plan):
                    joining.prepare(plan)
                case m.Cancel(generation):
                    joining.drop(generation)
                case m.Abandon(generation):
                    joining.drop_upto(generation)
                case None:
                    joining.drop_upto(None)

        self._prepare = prepare
        ready = m.Ready(os.getpid(), settings.host, work.elastic, store, layout)
        # In this order: nothing else may be said before it, whenever the link is lost.
        self._ready, self._recall = ready, training.recall
        say(ready)
        training.run()

    def _recalled(self) -> list[m.FromWorker]:
        ready = [] if self._ready is None else [replace(self._ready, again=True)]
        return [*ready, *self._recall(), *([m.Leaving()] if self._leaving.is_set() else [])]

    def _hear(self, order: m.ToWorker) -> None:
        if isinstance(order, m.End) and self._ready is None and not self.failed:
            # It has nothing to lose, and may be loading libraries for a while yet. From this thread, which reads what
            # the link says, nobody can wait for the link's end.
            self.contact.send(m.Left())
            os._exit(0)
        if isinstance(order, m.Prepare | m.Cancel | m.Abandon):
            self._prepare(order)
        self.inbox.tell(order)

    def _lost(self) -> None:
        self.inbox.cut_off()
        self._prepare(None)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Be a worker; returns the exit code."""
    try:
        settings = read_arguments(sys.argv[1:] if arguments is None else arguments)
        worker = _Worker(settings, environment.get(TOKEN))
    except QuiltworkError as error:
        print(f"error: {error}", file=sys.stderr)
        return BadInputError.exit_code
    with _on_termination(worker.leave):
        worker.contact.start()
        try:
            worker.run()
        except QuiltworkError as error:
            return _failed(worker, str(error))
        except Exception as error:  # noqa: BLE001  a trainable may raise anything; the link gets one line of it
            traceback.print_exc()
            return _failed(worker, f"{settings.trainable}: {_one_line(error)}")
        worker.contact.part(m.Left())
    return 0


def _failed(worker: _Worker, what: str) -> int:
    print(f"error: {what}", file=sys.stderr)
    worker.failed = True
    worker.contact.part(m.Failed(what))
    return 1


def _one_line(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{at}"


@contextlib.contextmanager
def _on_termination(leave: Callable[[], None]) -> Iterator[None]:
    """Call ``leave`` when SIGTERM comes, also while the main thread is inside a library for long."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)

    def watch() -> None:
        ours.setblocking(True)
        while data := ours.recv(64):
            if signal.SIGTERM in data:
                leave()

    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    # An interrupt at the terminal is for whoever started this process to handle.
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="elastic-signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)
        theirs.close()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end: an operation of a group that was abandoned would be waited for there.
    os._exit(code)
