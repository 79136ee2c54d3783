"""Which Servable answers for a model's name, and what of it a tenant may see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import PUBLIC, ModelRef, visible_to
from quiltwork.core.servable import Hosted, Json, Servable, TaskSchema
from quiltwork.gateway.errors import ForbiddenError
from quiltwork.gateway.tenants import Visitor


@dataclass(frozen=True)
class Found:
    """A model and who serves it."""

    servable: Servable
    hosted: Hosted

    @property
    def ref(self) -> ModelRef:
        """The model itself."""
        return self.hosted.ref


class Directory:
    """The Servables of one server, by name."""

    def __init__(self, servables: Mapping[str, Servable]) -> None:
        self.servables = dict(servables)

    def visible(self, tenant: str) -> Iterator[Found]:
        """What a tenant sees, each under the name it asks with; its own model hides a public one of that name."""
        seen: dict[str, Found] = {}
        for servable in self.servables.values():
            for hosted in servable.models():
                name = hosted.ref.name
                if visible_to(hosted.ref, tenant) and (name not in seen or seen[name].ref.tenant == PUBLIC != tenant):
                    if name in seen and hosted.ref.tenant == PUBLIC:
                        continue
                    seen[name] = Found(servable, hosted)
        yield from seen.values()

    def find(self, model: Json, tenant: str, task: str | None = None, *, everything: bool = False) -> Found:
        """The model of that name whose Servable knows ``task``.

        everything : also find ``tenant::name`` of any tenant.

        Raises BadInputError where ``model`` is no name, NotFoundError where the tenant sees no such model, and
        UnsupportedError where it is of a kind that does not do the task.
        """
        if not isinstance(model, str) or not model:
            raise BadInputError("must be the name of a model" if model is not None else "is missing", where="model")
        owner, separator, name = model.partition("::")
        found = None
        for candidate in self._all() if everything and separator else self.visible(tenant):
            ref = candidate.ref
            if (ref.tenant, ref.name) == (owner, name) if separator else ref.name == model:
                found = candidate
        if found is None:
            raise NotFoundError(f"there is no model {model[:200]!r} here", where="model", hint="see /v1/models")
        if task is not None and task not in found.servable.tasks():
            known = ", ".join(found.servable.tasks())
            raise UnsupportedError(f"{model} does not do {task}", where="model", hint=f"it does {known}")
        return found

    def _all(self) -> Iterator[Found]:
        for servable in self.servables.values():
            for hosted in servable.models():
                yield Found(servable, hosted)

    def only(self, tenant: str, task: str) -> str | None:
        """The name of the one model that does a task, or None where there are several or none."""
        names = [f.ref.name for f in self.visible(tenant) if task in f.servable.tasks()]
        return names[0] if len(names) == 1 else None

    def schemas(self, task: str) -> list[TaskSchema]:
        """How the Servables that know a task declare it."""
        return [s.tasks()[task] for s in self.servables.values() if task in s.tasks()]

    def own_ref(self, name: Json, visitor: Visitor, *, where: str) -> ModelRef:
        """The model an administrator means: ``name`` of his own tenant, or ``tenant::name``."""
        if not isinstance(name, str) or not name:
            raise BadInputError("must be a name" if name is not None else "is missing", where=where)
        owner, separator, rest = name.partition("::")
        try:
            ref = ModelRef(rest, owner) if separator else ModelRef(name, visitor.tenant)
        except BadInputError as error:
            raise BadInputError(error.what, where=where, hint=error.hint) from error
        if ref.tenant not in (visitor.tenant, PUBLIC) and visitor.tenant != PUBLIC:
            raise ForbiddenError("is a model of another tenant", where=where)
        return ref
