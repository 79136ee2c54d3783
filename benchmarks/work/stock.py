"""A zoo stocked from folders, through its public Python call."""

from __future__ import annotations

from pathlib import Path

from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo
from work.fleet import Fleet


def stock(zoo: Path, fleet: Fleet, *, lossy: str | None = None) -> int:
    """Add a fleet's folders to a zoo, the base first. Returns the bytes the zoo takes."""
    with Zoo(zoo) as opened:
        for app in fleet.apps:
            base = None if app is fleet.base else ModelRef(fleet.base.name)
            opened.add(app.path, name=app.name, base=base, lossy=None if app is fleet.base else lossy)
        return opened.stored_bytes()
