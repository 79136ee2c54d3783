"""Who may come in: API keys, kept as hashes in one file that only its owner can read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.core.servable import NO_LATITUDE, Latitude
from quiltwork.gateway.errors import UnauthorizedError


@dataclass(frozen=True)
class Key(Latitude):
    """An API key as it is kept: never the key itself."""

    id: str
    tenant: str
    hash: str
    """SHA-256 (hex) of the key, which is 256 random bits: there is nothing to guess, so nothing to slow down."""
    admin: bool = False
    """May load and unload models and read every tenant's figures."""
    created: str = ""
    """ISO 8601."""


@dataclass(frozen=True)
class Visitor(Latitude):
    """Who a request comes from."""

    tenant: str = PUBLIC
    admin: bool = False


class KeyFile:
    """The keys of a server. A change to the file, by any process, counts from the next request on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def keys(self) -> list[Key]:
        """All keys. Raises BadInputError where others may read the file, or where it is malformed."""
        return list(self._read().values())

    def visitor(self, authorization: str | None) -> Visitor:
        """Whose key an ``Authorization: Bearer`` header brings. Raises UnauthorizedError."""
        if not authorization:
            raise UnauthorizedError("is missing", where="Authorization", hint="send 'Authorization: Bearer KEY'")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise UnauthorizedError("is not of the form 'Bearer KEY'", where="Authorization")
        # What is looked up is a hash, so the time it takes tells nothing about the keys.
        found = self._read().get(_hash(key.strip()))
        if found is None:
            raise UnauthorizedError("the API key is not known here", where="Authorization")
        return Visitor(found.tenant, found.admin, **found.granted())

    def add(
        self, tenant: str, *, admin: bool = False, created: str = "", latitude: Latitude = NO_LATITUDE
    ) -> tuple[Key, str]:
        """Make a key and return it together with the text to give away, which is not kept."""
        ModelRef("name", tenant)
        with self._changing() as keys:
            id = secrets.token_hex(4)
            text = f"qw-{id}-{secrets.token_urlsafe(32)}"
            key = Key(id, tenant, _hash(text), admin, created, **latitude.granted())
            keys[key.hash] = key
        return key, text

    def remove(self, id: str) -> Key:
        """Withdraw a key. Raises NotFoundError."""
        with self._changing() as keys:
            found = next((key for key in keys.values() if key.id == id), None)
            if found is None:
                raise NotFoundError(f"there is no key {id[:60]!r}", where=str(self.path))
            del keys[found.hash]
        return found

    def _read(self) -> dict[str, Key]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise NotFoundError("there is no such file", where=str(self.path), hint="quiltwork keys add") from None
        except OSError as error:
            raise BadInputError(str(error.strerror), where=str(self.path)) from error
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError("is not a file", where=str(self.path))
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._seen:
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise BadInputError("others may read or write it", where=str(self.path), hint="chmod 600")
            self._keys = _parse(self.path)
            self._seen = seen
        return self._keys

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys, to change; written by renaming, so that a reader sees the old file or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = dict(self._read()) if self.path.exists() else {}
            yield keys
            new = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
            handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump({"keys": [asdict(key) for key in keys.values()]}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        finally:
            os.close(lock)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _parse(path: Path) -> dict[str, Key]:
    try:
        rows = json.loads(path.read_bytes())["keys"]
        keys = [Key(**row) for row in rows]
    except BadInputError as error:
        raise BadInputError(f"a key's {error}", where=str(path)) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BadInputError("is not a file of keys", where=str(path)) from error
    if not all(isinstance(v, str) for k in keys for v in (k.id, k.tenant, k.hash)):
        raise BadInputError("is not a file of keys", where=str(path))
    return {key.hash: key for key in keys}
