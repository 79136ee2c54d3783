"""A cluster and its fleet, as people write them down: YAML or JSON.

    servers: [2, 2, 4, 4]            # devices of each server
    device: a100                     # a100, h100 or a40
    links:
      inside: {table: a100_dgx/send_recv.csv}
      between: {gbit_per_s: 100, latency_us: 24}
    families:
      - name: llama-7b
        operators: a100/Llama-2-7b-hf.mlp.csv
        layers: 32
        apps: {base: 1, lora: 6, top: 3, full: 2}
        top_layers: 8                # of an app of kind ``top``, the upper layers that are its own
    settings: {hop_us: 100, kv: best}

Paths are relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.serving.policy.cost import Link
from quiltwork.serving.profiles.accelerator import ACCELERATORS, Accelerator, span_profile
from quiltwork.serving.profiles.vidur import read_link, read_operators
from quiltwork.serving.simulate.arms import Family, Tuning
from quiltwork.serving.simulate.world import Cluster, Device, Settings

SETTINGS = ("kv", "hysteresis", "by_cost", "priorities", "replicate", "swap", "locality", "provisioning", "fill",
            "kv_share", "attached_share", "prefill_chunk", "period_s", "high", "low")  # fmt: skip
"""Of ``Settings``, those that a description may set by name; ``hop_us`` besides."""


@dataclass(frozen=True)
class Described:
    """A cluster, its fleet, and how it is run."""

    servers: tuple[int, ...]
    device: Accelerator
    inside: Link
    between: Link
    families: tuple[Family, ...]
    settings: Settings

    @property
    def apps(self) -> tuple[str, ...]:
        """All apps by name."""
        return tuple(name for family in self.families for name, _, _ in family.members)

    def only(self, names: Sequence[str]) -> Described:
        """The same cluster for some of the apps. Raises NotFoundError naming one that is not described."""
        for name in names:
            if name not in self.apps:
                raise NotFoundError(f"is not described; there are {', '.join(self.apps)}", where=name)
        kept = [replace(f, members=tuple(m for m in f.members if m[0] in names)) for f in self.families]
        return replace(self, families=tuple(f for f in kept if f.members))

    def cluster(self, servers: int | None = None) -> Cluster:
        """The cluster, or one of so many servers: the described ones again and again."""
        count = len(self.servers) if servers is None else servers
        sizes = [self.servers[i % len(self.servers)] for i in range(count)]
        devices = [
            Device(f"s{i:03}g{k}", f"s{i:03}", self.device.memory_bytes) for i, n in enumerate(sizes) for k in range(n)
        ]
        return Cluster(tuple(devices), self.inside, self.between)


def read_description(path: str | Path) -> Described:
    """Raises NotFoundError, or BadInputError naming the file and the field."""
    import yaml

    where = Path(path)
    try:
        document = yaml.safe_load(where.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(where)) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInputError(f"cannot be read: {str(error).splitlines()[0]}", where=str(where)) from error
    return described(document, where.parent, str(where))


def described(document: Any, root: Path, where: str = "cluster") -> Described:
    """A description from its fields; ``root`` is where relative paths begin. Raises as ``read_description``."""
    top = _fields(document, where, ("servers", "device", "links", "families", "settings"), ("servers", "families"))
    servers = top["servers"]
    if not isinstance(servers, list) or not servers or not all(type(n) is int and n > 0 for n in servers):
        raise BadInputError("must list how many devices each server has", where=f"{where}: servers")
    device = ACCELERATORS.get(str(top.get("device", "a100")))
    if device is None:
        raise BadInputError(f"is not one of {', '.join(sorted(ACCELERATORS))}", where=f"{where}: device")
    links = _fields(top.get("links", {}), f"{where}: links", ("inside", "between"))
    families = top["families"]
    if not isinstance(families, list) or not families:
        raise BadInputError("must list families of models", where=f"{where}: families")
    found = tuple(_family(f, root, device, f"{where}: families[{i}]") for i, f in enumerate(families))
    names = [name for family in found for name, _, _ in family.members]
    if len(set(names)) < len(names):
        raise BadInputError("two families of one name", where=f"{where}: families")
    return Described(
        tuple(servers),
        device,
        _link(links.get("inside", {}), root, True, f"{where}: links.inside"),
        _link(links.get("between", {}), root, False, f"{where}: links.between"),
        found,
        _settings(top.get("settings", {}), f"{where}: settings"),
    )


def _family(document: Any, root: Path, device: Accelerator, where: str) -> Family:
    allowed = ("name", "operators", "layers", "apps", "top_layers")
    fields = _fields(document, where, allowed, ("name", "operators", "layers", "apps"))
    layers, top = fields["layers"], fields.get("top_layers", 0)
    if type(layers) is not int or layers < 1:
        raise BadInputError("must be a number of layers", where=f"{where}: layers")
    counts = _fields(fields["apps"], f"{where}: apps", tuple(Tuning))
    members = []
    for kind in Tuning:
        count = counts.get(kind, 0)
        if type(count) is not int or count < 0:
            raise BadInputError("must be a number of apps", where=f"{where}: apps.{kind}")
        if kind is Tuning.TOP and count and not (type(top) is int and 0 < top < layers):
            raise BadInputError(f"must be between 1 and {layers - 1}", where=f"{where}: top_layers")
        members += [(f"{fields['name']}/{kind}-{i}", kind, top if kind is Tuning.TOP else 0) for i in range(count)]
    times = read_operators(root / str(fields["operators"]))
    return Family(str(fields["name"]), layers, partial(span_profile, times, device), tuple(members))


def _link(document: Any, root: Path, inside: bool, where: str) -> Link:
    fields = _fields(document, where, ("table", "gbit_per_s", "latency_us"))
    if "table" in fields:
        return read_link(root / str(fields["table"]), inside=inside)
    rate, latency = fields.get("gbit_per_s", float("inf")), fields.get("latency_us", 0.0)
    for name, value in (("gbit_per_s", rate), ("latency_us", latency)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise BadInputError("must be a number", where=f"{where}: {name}")
    return Link(latency * 1e-6, rate * 1e9 / 8)


def _settings(document: Any, where: str) -> Settings:
    fields = dict(_fields(document, where, (*SETTINGS, "hop_us")))
    if "hop_us" in fields:
        fields["hop_s"] = fields.pop("hop_us") * 1e-6
    defaults = Settings()
    for name, value in fields.items():
        kind = type(getattr(defaults, name))
        if kind is float and type(value) is int:
            fields[name] = value = float(value)
        if type(value) is not kind:
            raise BadInputError(f"must be of type {kind.__name__}", where=f"{where}: {name}")
    return replace(defaults, **fields)


def _fields(document: Any, where: str, allowed: tuple[str, ...], needed: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise BadInputError("must be a set of named fields", where=where)
    for name in document:
        if name not in allowed:
            raise BadInputError(f"is not one of {', '.join(allowed)}", where=f"{where}: {name}")
    for name in needed:
        if name not in document:
            raise BadInputError("is missing", where=f"{where}: {name}")
    return document
