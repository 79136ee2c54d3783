"""What a controller and the supervisors of this machine's servers have between them: a socket that lines of JSON go
through, and a gate that is a file's name."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import BadInputError, CapacityError, ConflictError, NotFoundError, QuiltworkError

_SOCKET = "socket"
_OPEN, _FENCED = "gate-open", "gate-fenced"
_KINDS: dict[str, type[QuiltworkError]] = {
    kind.code: kind for kind in (BadInputError, CapacityError, ConflictError, NotFoundError, QuiltworkError)
}


def line(message: dict[str, Any]) -> bytes:
    """One message."""
    return json.dumps(message).encode() + b"\n"


def error_document(error: QuiltworkError) -> dict[str, Any]:
    """An error as it travels."""
    return {"code": error.code, "what": error.what, "where": error.where, "hint": error.hint}


def error_of(document: dict[str, Any]) -> QuiltworkError:
    """The same error on the other side."""
    kind = _KINDS.get(document["code"], QuiltworkError)
    return kind(document["what"], where=document["where"], hint=document["hint"])


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The socket's path in a folder, however long the folder's own is: a socket's may have 107 characters."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{_SOCKET}"
    finally:
        os.close(opened)


def bind(listener: socket.socket, folder: Path) -> None:
    """Be what is reached through a folder, in place of who was before."""
    (folder / _SOCKET).unlink(missing_ok=True)
    with _short(folder) as path:
        listener.bind(path)


def connect(folder: Path) -> socket.socket | None:
    """None where nobody is reached."""
    connected = socket.socket(socket.AF_UNIX)
    try:
        with _short(folder) as path:
            connected.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connected.close()
        return None
    except BaseException:
        connected.close()
        raise
    return connected


def make_gate(folder: Path) -> None:
    """A gate that is open; one that there is stays as it is."""
    if not is_fenced(folder):
        with disk_errors(folder):
            (folder / _OPEN).touch()


def is_fenced(folder: Path) -> bool:
    """Whether nothing may start."""
    return (folder / _FENCED).exists()


def move_gate(folder: Path, fenced: bool) -> None:
    """Fence, or open. It is a file that is renamed, which takes no room on a disk that may be full."""
    if fenced == is_fenced(folder):
        return
    before, after = (_OPEN, _FENCED) if fenced else (_FENCED, _OPEN)
    with disk_errors(folder):
        os.rename(folder / before, folder / after)
        sync(folder)
