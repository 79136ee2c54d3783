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

A front as the live agents have one, where ``front_us`` is given (its work for each token), and what agents do besides
batches, for each step and for each request in it; how often they hear of each other, and the way to the front:

    links: {front: {gbit_per_s: 10, latency_us: 200}}
    settings: {front_us: 400, beat_s: 0.25, horizon: 32, step_us: 300, piece_us: 200}

Real models instead of ``families``, with block times measured by ``quiltwork serve profile``:

    device: {memory_gb: 4, load_gb_per_s: 2}
    zoo: {path: zoo, profile: profile.json, models: [base, web-full]}    # all models where none are named

Paths are relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import parse_ref
from quiltwork.serving.policy.cost import Link, SegmentProfile
from quiltwork.serving.profiles.accelerator import ACCELERATORS, Accelerator, span_profile
from quiltwork.serving.profiles.measured import Measured, read_measured
from quiltwork.serving.profiles.vidur import read_link, read_operators
from quiltwork.serving.simulate.arms import Arm, Family, Tuning, apps_of, apps_of_chains
from quiltwork.serving.simulate.world import App, Cluster, Device, Front, Settings
from quiltwork.zoo.types import Part

SETTINGS = ("kv", "hysteresis", "by_cost", "priorities", "replicate", "swap", "locality", "provisioning", "fill",
            "kv_share", "attached_share", "prefill_chunk", "period_s", "high", "low", "admission", "slack", "power",
            "output_tokens")  # fmt: skip
"""Of ``Settings``, those that a description may set by name; besides them ``MICROSECONDS`` and those of the front."""
MICROSECONDS = {"hop_us": "hop_s", "step_us": "step_s", "piece_us": "piece_s"}
FRONT_SETTINGS = ("front_us", "beat_s", "horizon")


@dataclass(frozen=True)
class Described:
    """A cluster, its fleet, and how it is run."""

    servers: tuple[int, ...]
    device: Accelerator
    inside: Link
    between: Link
    families: tuple[Family, ...]
    settings: Settings
    chains: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    measured: Measured | None = None

    @property
    def apps(self) -> tuple[str, ...]:
        """All apps by name."""
        return (*(name for family in self.families for name, _, _ in family.members), *sorted(self.chains))

    def served(self, arm: Arm) -> tuple[App, ...]:
        """All apps as an arm serves them."""
        return (*apps_of(self.families, arm), *apps_of_chains(self.chains, self._cost, arm))

    def _cost(self, parts: Sequence[Part]) -> SegmentProfile:
        assert self.measured is not None
        found = self.measured.segment(parts)
        return replace(found, load_s=found.weight_bytes / self.device.load_bytes_per_s)

    def only(self, names: Sequence[str]) -> Described:
        """The same cluster for some of the apps. Raises NotFoundError naming one that is not described."""
        for name in names:
            if name not in self.apps:
                raise NotFoundError(f"is not described; there are {', '.join(self.apps)}", where=name)
        kept = [replace(f, members=tuple(m for m in f.members if m[0] in names)) for f in self.families]
        chains = {name: links for name, links in self.chains.items() if name in names}
        return replace(self, families=tuple(f for f in kept if f.members), chains=chains)

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
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise BadInputError(f"cannot be read: {reason}", where=str(where)) from error
    return described(document, where.parent, str(where))


def described(document: Any, root: Path, where: str = "cluster") -> Described:
    """A description from its fields; ``root`` is where relative paths begin. Raises as ``read_description``."""
    known = ("servers", "device", "links", "families", "zoo", "settings")
    top = _fields(document, where, known, ("servers",))
    servers = top["servers"]
    if not isinstance(servers, list) or not servers or not all(type(n) is int and n > 0 for n in servers):
        raise BadInputError("must list how many devices each server has", where=f"{where}: servers")
    device = _device(top.get("device", "a100"), f"{where}: device")
    links = _fields(top.get("links", {}), f"{where}: links", ("inside", "between", "front"))
    inside = _link(links.get("inside", {}), root, True, f"{where}: links.inside")
    between = _link(links.get("between", {}), root, False, f"{where}: links.between")
    settings = _settings(top.get("settings", {}), f"{where}: settings")
    if settings.front is not None:
        way = _link(links.get("front", {}), root, False, f"{where}: links.front")
        settings = replace(settings, front=replace(settings.front, link=way))
    families = top.get("families", [])
    if not isinstance(families, list) or not (families or "zoo" in top):
        raise BadInputError("must list families of models, where there is no zoo", where=f"{where}: families")
    found = tuple(_family(f, root, device, f"{where}: families[{i}]") for i, f in enumerate(families))
    chains, measured = _zoo(top["zoo"], root, f"{where}: zoo") if "zoo" in top else ({}, None)
    world = Described(tuple(servers), device, inside, between, found, settings, chains, measured)
    if len(set(world.apps)) < len(world.apps):
        raise BadInputError("two apps of one name", where=where)
    return world


def _device(document: Any, where: str) -> Accelerator:
    if isinstance(document, str):
        if document not in ACCELERATORS:
            raise BadInputError(f"is not one of {', '.join(sorted(ACCELERATORS))}", where=where)
        return ACCELERATORS[document]
    fields = _fields(document, where, ("memory_gb", "load_gb_per_s"), ("memory_gb", "load_gb_per_s"))
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise BadInputError("must be a positive number", where=f"{where}: {name}")
    # Measured blocks have attention in them: the rates that model it are not asked for.
    return Accelerator("measured", fields["memory_gb"] * 1e9, 1.0, 1.0, load_bytes_per_s=fields["load_gb_per_s"] * 1e9)


def _zoo(document: Any, root: Path, where: str) -> tuple[dict[str, Sequence[Part]], Measured]:
    from quiltwork.zoo import Zoo

    fields = _fields(document, where, ("path", "profile", "models"), ("path", "profile"))
    measured = read_measured(root / str(fields["profile"]))
    with Zoo(root / str(fields["path"]), create=False) as zoo:
        names = fields.get("models", [str(ref) for ref in zoo.models()])
        if not isinstance(names, list) or not names:
            raise BadInputError("must list models", where=f"{where}: models")
        return {str(name): zoo.chain(parse_ref(str(name))).links for name in names}, measured


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
    fields = dict(_fields(document, where, (*SETTINGS, *MICROSECONDS, *FRONT_SETTINGS)))
    given = {name: fields.pop(name) for name in FRONT_SETTINGS if name in fields}
    for name, own in MICROSECONDS.items():
        if name in fields:
            fields[own] = _number(fields.pop(name), f"{where}: {name}") * 1e-6
    if given:
        fields["front"] = _front(given, where)
    defaults = Settings()
    for name, value in fields.items():
        kind = type(getattr(defaults, name))
        if kind is float and type(value) is int:
            fields[name] = value = float(value)
        if name != "front" and type(value) is not kind:
            raise BadInputError(f"must be of type {kind.__name__}", where=f"{where}: {name}")
    return replace(defaults, **fields)


def _front(given: Mapping[str, Any], where: str) -> Front:
    if "front_us" not in given:
        raise BadInputError("is missing, and only a front heeds the others", where=f"{where}: front_us")
    numbers = {name: _number(value, f"{where}: {name}") for name, value in given.items()}
    horizon = given.get("horizon", Front().horizon)
    if type(horizon) is not int:
        raise BadInputError("must be a number of tokens", where=f"{where}: horizon")
    return Front(numbers["front_us"] * 1e-6, numbers.get("beat_s", Front().beat_s), horizon)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInputError("must be a number", where=where)
    return float(value)


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
