"""``RULE=VALUE`` as people write it: a field of the rules, or of a simulated or live cluster's settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType, NoneType
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from quiltwork.cluster.forecast import check_forecast
from quiltwork.cluster.policy.quotas import quotas_of
from quiltwork.cluster.policy.rules import Rules, rules_named
from quiltwork.cluster.running import Delays
from quiltwork.core.errors import BadInputError
from quiltwork.core.units import parse_duration

RULES = get_type_hints(Rules)
DELAYS = get_type_hints(Delays)
NO_QUOTAS: Mapping[str, int] = MappingProxyType({})
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def fields_of(settings: type, but: Iterable[str]) -> dict[str, Any]:
    """What may be set of a class of settings: its fields without some, and those of its delays."""
    left_out = {*but, "delays"}
    return {name: kind for name, kind in get_type_hints(settings).items() if name not in left_out} | DELAYS


class _Delayed(Protocol):
    @property
    def delays(self) -> Delays: ...


_Settings = TypeVar("_Settings", bound=_Delayed)


def changed(settings: _Settings, changes: Mapping[str, Any]) -> _Settings:
    """Settings with some of their fields, and of their delays', changed. Raises BadInputError."""
    delays = replace(settings.delays, **{name: value for name, value in changes.items() if name in DELAYS})
    own = {name: value for name, value in changes.items() if name not in DELAYS}
    return replace(settings, delays=delays, **own)  # type: ignore[type-var]


def policy_of(
    text: str, changes: Iterable[str], quotas: Mapping[str, int], settings: Mapping[str, Any]
) -> tuple[Rules, dict[str, Any]]:
    """``NAME`` or ``NAME:RULE=VALUE,...``: its rules, and what it changes of ``settings`` (kinds by name).

    changes : further ``RULE=VALUE``, which its own come after. quotas : GPUs that teams are guaranteed, where none of
    these says so. Raises BadInputError naming what is known where a name is not.
    """
    name, _, own = text.strip().partition(":")
    rules = rules_named(name)
    given = [*changes, *(part for part in own.split(",") if part.strip())]
    found = ({"quotas": dict(quotas)} if quotas else {}) | changes_of(given, settings)
    try:
        rules = replace(rules, **{name: value for name, value in found.items() if name in RULES})
    except BadInputError as error:
        raise BadInputError(error.what, where=f"--set {error.where}", hint=error.hint) from error
    return rules, {name: value for name, value in found.items() if name in settings}


def changes_of(texts: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``RULE=VALUE`` each: a field of Rules, or one of ``settings`` (kinds by name). Raises BadInputError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (piece.strip() for piece in text.partition("="))
        name = name.replace("-", "_")
        kind = RULES.get(name, settings.get(name))
        if kind is None:
            near = get_close_matches(name, [*RULES, *settings], 1)
            known = f"known: {', '.join([*RULES, *settings])}"
            hint = f"did you mean {near[0]}? {known}" if near else known
            raise BadInputError(f"{name[:40]!r} is not a rule", where="--set", hint=hint)
        if not equals or not value:
            raise BadInputError("has no value", where=f"--set {name}", hint=f"{name}=...")
        found[name] = _forecast(value) if name == "forecast" else _value(kind, name, value)
    return found


def _value(kind: Any, name: str, text: str) -> Any:
    """A field's value as people write it: a word of its enumeration, yes or no, a number, a length of time, several
    with / between, or TEAM=GPUs with / between."""
    where = f"--set {name}"
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], name, part.strip()) for part in text.split("/"))
    if get_origin(kind) is Mapping:
        return quotas_of(text.split("/"), where)
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
