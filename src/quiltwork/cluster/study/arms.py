"""What is compared: sets of rules by name, each perhaps with some rules or settings changed.

lyra                                a named set
lyra:headroom=0.1,reclaim=random    the same but for two rules
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from quiltwork.cluster.forecast import check_forecast
from quiltwork.cluster.policy.rules import Rules, rules_named
from quiltwork.cluster.running import Delays
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.units import parse_duration

_RULES = get_type_hints(Rules)
_DELAYS = get_type_hints(Delays)
_OWN = ("gpu_types", "seed", "delays")
_SETTINGS = {name: kind for name, kind in get_type_hints(Settings).items() if name not in _OWN} | _DELAYS
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Arm:
    """One way to run the cluster. ``settings`` : by name, fields of Settings and of Delays that differ from the
    study's."""

    name: str
    rules: Rules
    settings: Mapping[str, Any] = field(default_factory=dict)

    def settings_of(self, study: Settings) -> Settings:
        """The study's settings, with those that differ. Raises BadInputError."""
        delays = replace(study.delays, **{k: v for k, v in self.settings.items() if k in _DELAYS})
        return replace(study, delays=delays, **{k: v for k, v in self.settings.items() if k not in _DELAYS})

    def document(self) -> dict[str, Json]:
        told = dict(self.settings)
        return {"name": self.name, "rules": {name: _plain(v) for name, v in asdict(self.rules).items()}} | (
            {"settings": told} if told else {}
        )


def arm_of(text: str, changes: Sequence[str] = ()) -> Arm:
    """``NAME`` or ``NAME:RULE=VALUE,...``. changes : further ``RULE=VALUE``, which its own come after.

    Raises BadInputError naming what is known where a name is not.
    """
    name, _, own = text.strip().partition(":")
    rules = rules_named(name)
    given = [*changes, *(part for part in own.split(",") if part.strip())]
    changed = changes_of(given)
    try:
        rules = replace(rules, **{k: v for k, v in changed.items() if k in _RULES})
    except BadInputError as error:
        raise BadInputError(error.what, where=f"--set {error.where}", hint=error.hint) from error
    return Arm(text.strip(), rules, {k: v for k, v in changed.items() if k in _SETTINGS})


def arms_of(policies: Iterable[str | Arm], changes: Sequence[str] = ()) -> list[Arm]:
    """Each name as ``arm_of`` has it. Raises BadInputError also where one is given twice, and where none is."""
    arms = [each if isinstance(each, Arm) else arm_of(each, changes) for each in policies]
    names = [arm.name for arm in arms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInputError(f"{twice!r} is given twice", where="policy")
    if not arms:
        raise BadInputError("no policy is given", where="policy")
    return arms


def changes_of(texts: Iterable[str]) -> dict[str, Any]:
    """``RULE=VALUE`` each: fields of Rules, or else of Settings or Delays. Raises BadInputError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (piece.strip() for piece in text.partition("="))
        name = name.replace("-", "_")
        kind = _RULES.get(name, _SETTINGS.get(name))
        if kind is None:
            near = get_close_matches(name, [*_RULES, *_SETTINGS], 1)
            known = f"known: {', '.join([*_RULES, *_SETTINGS])}"
            hint = f"did you mean {near[0]}? {known}" if near else known
            raise BadInputError(f"{name[:40]!r} is not a rule", where="--set", hint=hint)
        if not equals or not value:
            raise BadInputError("has no value", where=f"--set {name}", hint=f"{name}=...")
        found[name] = _forecast(value) if name == "forecast" else _value(kind, name, value)
    return found


def _value(kind: Any, name: str, text: str) -> Any:
    """A field's value as people write it: a word of its enumeration, yes or no, a number, a length of time, or
    several with / between."""
    where = f"--set {name}"
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], name, part.strip()) for part in text.split("/"))
    kinds = get_args(kind) or (kind,)
    if NoneType in kinds and text.lower() == "none":
        return None
    wanted = next(each for each in kinds if each is not NoneType)
    if issubclass(wanted, StrEnum):
        if text not in tuple(wanted):
            raise BadInputError(f"{text[:40]!r} is not one of {', '.join(wanted)}", where=where)
        return wanted(text)
    if wanted is bool:
        if text.lower() not in _FLAGS:
            raise BadInputError(f"{text[:40]!r} is neither yes nor no", where=where)
        return _FLAGS[text.lower()]
    if wanted is float and name.endswith("_s"):
        return parse_duration(text, where=where)
    try:
        value = wanted(text)
    except ValueError as error:
        raise BadInputError(f"{text[:40]!r} is not a number", where=where) from error
    if wanted is float and not abs(value) < float("inf"):
        raise BadInputError(f"{text[:40]!r} is not a number", where=where)
    return value


def _forecast(text: str) -> str:
    try:
        return check_forecast(text)
    except BadInputError as error:
        raise BadInputError(error.what, where="--set forecast") from error


def _plain(value: Any) -> Json:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, StrEnum) else value
