"""What is compared: sets of rules by name, each perhaps with some rules or settings changed.

lyra                                a named set
lyra:headroom=0.1,reclaim=random    the same but for two rules
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from quiltwork.cluster.changes import NO_QUOTAS, changed, fields_of, policy_of
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

SETTINGS = fields_of(Settings, but=("gpu_types", "seed"))
"""What may be set of a simulated cluster, beside its rules."""


@dataclass(frozen=True)
class Arm:
    """One way to run the cluster. ``settings`` : by name, fields of Settings and of Delays that differ from the
    study's."""

    name: str
    rules: Rules
    settings: Mapping[str, Any] = field(default_factory=dict)

    def settings_of(self, study: Settings) -> Settings:
        """The study's settings, with those that differ. Raises BadInputError."""
        return changed(study, self.settings)

    def document(self) -> dict[str, Json]:
        told = dict(self.settings)
        return {"name": self.name, "rules": {name: _plain(v) for name, v in asdict(self.rules).items()}} | (
            {"settings": told} if told else {}
        )


def arm_of(text: str, changes: Sequence[str] = (), quotas: Mapping[str, int] = NO_QUOTAS) -> Arm:
    """``NAME`` or ``NAME:RULE=VALUE,...``. changes : further ``RULE=VALUE``, which its own come after. quotas : GPUs
    that teams are guaranteed, where none of these says so.

    Raises BadInputError naming what is known where a name is not.
    """
    rules, settings = policy_of(text, changes, quotas, SETTINGS)
    return Arm(text.strip(), rules, settings)


def arms_of(
    policies: Iterable[str | Arm], changes: Sequence[str] = (), quotas: Mapping[str, int] = NO_QUOTAS
) -> list[Arm]:
    """Each name as ``arm_of`` has it. Raises BadInputError also where one is given twice, and where none is."""
    arms = [each if isinstance(each, Arm) else arm_of(each, changes, quotas) for each in policies]
    names = [arm.name for arm in arms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInputError(f"{twice!r} is given twice", where="policy")
    if not arms:
        raise BadInputError("no policy is given", where="policy")
    return arms


def _plain(value: Any) -> Json:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, StrEnum) else value
