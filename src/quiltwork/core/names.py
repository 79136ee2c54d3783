"""What a model is called: a name within a tenant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError

PUBLIC = "public"
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*")


def check_name(name: str, *, where: str = "name") -> str:
    """Return ``name`` if it is safe as a name and as a path: segments of ``[A-Za-z0-9._:@+-]`` joined by ``/``.

    Raises BadInputError for an empty, over-long (> 200), absolute or climbing (``..``) name.
    """
    if not name or len(name) > 200 or not all(_SEGMENT.fullmatch(part) for part in name.split("/")):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise BadInputError(
            f"{shown!r} is not a name",
            where=where,
            hint="letters, digits and ._:@+- in segments joined by '/'",
        )
    return name


@dataclass(frozen=True, order=True)
class ModelRef:
    """A model of a tenant. Models of the tenant ``public`` are visible to every tenant."""

    name: str
    tenant: str = PUBLIC

    def __post_init__(self) -> None:
        check_name(self.name, where="model")
        check_name(self.tenant, where="tenant")
        if "/" in self.tenant:
            raise BadInputError(f"{self.tenant!r} is not a tenant", where="tenant", hint="no '/' in a tenant's name")

    def __str__(self) -> str:
        return self.name if self.tenant == PUBLIC else f"{self.tenant}::{self.name}"


def parse_ref(text: str) -> ModelRef:
    """``name`` or ``tenant::name``, as a ModelRef writes itself. Raises BadInputError."""
    tenant, separator, name = text.partition("::")
    return ModelRef(name, tenant) if separator else ModelRef(text)


def visible_to(ref: ModelRef, tenant: str) -> bool:
    """Whether ``tenant`` may see and use ``ref``: its own models and the public ones."""
    return ref.tenant in (tenant, PUBLIC)
