"""A server of this machine: a name, and a number of slots. That they are GPUs is said, not checked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quiltwork.cluster.live.backend import check_id
from quiltwork.core.errors import BadInputError, CorruptionError

ASIDE = "server.new"
_WRITTEN = re.compile(r"([^=:]+)=([^=:]+):([0-9]{1,6})", re.ASCII)
_DEVICE = re.compile(r"nvidia[0-9]+", re.ASCII)


@dataclass(frozen=True)
class LocalServer:
    """devices : the machine's GPU behind each slot, as far as there are any; None where the machine has none, so that
    none need be hidden from a worker."""

    id: str
    gpu_type: str
    gpus: int
    devices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_id(self.id, "server")
        if not self.gpu_type:
            raise BadInputError("a server has GPUs of some type", where=f"server {self.id}")
        if self.gpus < 1:
            raise BadInputError("a server needs at least one GPU", where=f"server {self.id}")

    def devices_of(self, slots: Sequence[int]) -> tuple[int, ...] | None:
        """The GPUs behind some slots."""
        if self.devices is None:
            return None
        return tuple(self.devices[slot] for slot in slots if slot < len(self.devices))


def gpus_here() -> int:
    """NVIDIA GPUs of this machine."""
    return sum(_DEVICE.fullmatch(path.name) is not None for path in Path("/dev").iterdir())


def parse_servers(texts: Sequence[str], gpus: int = 0) -> list[LocalServer]:
    """Servers written as ``a=V100:4``. The machine's ``gpus`` are dealt to their slots in that order, while there are
    any. Raises BadInputError."""
    found: list[LocalServer] = []
    dealt = 0
    for text in texts:
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise BadInputError(
                f"{text[:60]!r} is not a server", where="servers", hint="NAME=TYPE:GPUS, as in a=V100:4"
            )
        name, gpu_type, count = match[1], match[2], int(match[3])
        if any(server.id == name for server in found):
            raise BadInputError("is there twice", where=f"server {name}")
        devices = tuple(range(dealt, min(dealt + count, gpus))) if gpus else None
        dealt += count
        found.append(LocalServer(name, gpu_type, count, devices))
    return found


def write_server(server: LocalServer, folder: Path) -> None:
    """Have its folder say what it is."""
    aside = folder / ASIDE
    aside.write_text(json.dumps(asdict(server)), encoding="utf-8")
    aside.replace(folder / "server.json")


def read_server(folder: Path) -> LocalServer:
    """Raises CorruptionError."""
    path = folder / "server.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        devices = found["devices"]
        return LocalServer(found["id"], found["gpu_type"], found["gpus"], None if devices is None else tuple(devices))
    except (OSError, ValueError, TypeError, KeyError, BadInputError) as error:
        raise CorruptionError("does not say what server this is", where=str(path)) from error
