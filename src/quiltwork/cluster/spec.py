"""What a user asks for: one job, as YAML or JSON.

    name: bert-large
    team: language
    command: python train.py --epochs 3      # or  trainable: module:factory  with  config: {...}
    workers: {min: 2, max: 8}
    checkpoint: {path: /data/bert, interval: 10m}

Whether the cluster is large enough is not asked here: it may grow.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.cluster.yaml_fields import Field, parse_yaml
from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import check_name
from quiltwork.core.registry import TRAINABLES, spec
from quiltwork.core.servable import Json

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FIXED_LOCAL, _FIXED_GLOBAL = "fixed_local", "fixed_global"


@dataclass(frozen=True)
class Batch:
    """``fixed_local``: every worker's batch stays and the whole grows with the workers; ``fixed_global``: the whole
    stays and is dealt out."""

    mode: str = _FIXED_GLOBAL
    size: int | None = None
    """Samples of one worker, or of all; None where the trainable decides."""


@dataclass(frozen=True)
class LearningRate:
    base: float
    rule: str = "linear"
    """How it follows the whole batch: ``linear``, ``sqrt`` or ``none``."""
    warmup_steps: int = 200


@dataclass(frozen=True)
class Checkpoint:
    path: str
    interval_s: float | None = None
    on_warning: bool = True
    """Whether one is written when the job is told that it will be stopped."""
    takes_s: float | None = None
    """Seconds that writing one takes, as its owner thinks."""


@dataclass(frozen=True)
class JobSpec:
    """One job. Exactly one of ``command`` and ``trainable`` is set."""

    name: str
    command: tuple[str, ...] = ()
    """A program and its arguments, started once for each worker."""
    trainable: str | None = None
    """``module:factory`` of a ``core.trainable.Trainable``."""
    config: Mapping[str, Json] = field(default_factory=dict)
    """What the trainable is set up with."""
    seed: int = 0
    team: str = "default"
    w_min: int = 1
    w_max: int = 1
    gpus_per_worker: int = 1
    gpu_types: tuple[str, ...] = ()
    """Those that it may run on; none named is any that it is ``fungible`` over."""
    mem_per_gpu: int | None = None
    """Bytes."""
    fungible: bool = False
    heterogeneous: bool = False
    batch: Batch | None = None
    lr: LearningRate | None = None
    checkpoint: Checkpoint | None = None
    est_duration_s: float | None = None
    """Running time with ``w_min`` workers, as its owner thinks."""
    priority: int = 0
    """The larger, the sooner."""
    retries: int = 0
    """How often it is started again after it failed by itself."""
    time_limit_s: float | None = None
    grace_s: float = 30.0
    """From being asked to stop until it is made to."""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None

    @property
    def elastic(self) -> bool:
        return self.w_max > self.w_min


_KNOWN = (
    *("name", "team", "command", "trainable", "config", "seed", "workers", "gpus_per_worker", "gpu_types"),
    *("mem_per_gpu", "fungible", "heterogeneous", "batch", "lr", "checkpoint", "est_duration", "priority"),
    *("retries", "time_limit", "grace", "env", "workdir"),
)


def read_spec(path: str | Path) -> JobSpec:
    """Raises NotFoundError, or BadInputError naming the file, the line and the field."""
    where = Path(path)
    try:
        text = where.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(where)) from error
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=str(where)) from error
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(where)) from error
    return parse_spec(text, str(where))


def parse_spec(text: str, where: str = "job") -> JobSpec:
    """A job from YAML or JSON. Raises BadInputError naming ``where``, the line and the field."""
    document = parse_yaml(text, where)
    found = document.fields(_KNOWN, ("name",))
    w_min, w_max = _workers(found.get("workers"))
    command, trainable = found.get("command"), found.get("trainable")
    if (command is None) == (trainable is None):
        raise (document if command is None else command).wrong("needs a command or a trainable, and not both")
    if command is not None:
        for name in ("config", "seed"):
            if name in found:
                raise found[name].wrong("is for a trainable; a command has its arguments")
    types = found.get("gpu_types")
    env = found.get("env")
    return JobSpec(
        name=_name(found["name"]),
        command=() if command is None else _command(command),
        trainable=None if trainable is None else _factory(trainable),
        config=_config(found["config"]) if "config" in found else {},
        seed=found["seed"].whole(0) if "seed" in found else 0,
        team=_name(found["team"]) if "team" in found else JobSpec.team,
        w_min=w_min,
        w_max=w_max,
        gpus_per_worker=found["gpus_per_worker"].whole(1) if "gpus_per_worker" in found else 1,
        gpu_types=() if types is None else _types(types),
        mem_per_gpu=found["mem_per_gpu"].bytes() if "mem_per_gpu" in found else None,
        fungible=found["fungible"].flag() if "fungible" in found else False,
        heterogeneous=found["heterogeneous"].flag() if "heterogeneous" in found else False,
        batch=_batch(found["batch"]) if "batch" in found else None,
        lr=_lr(found["lr"]) if "lr" in found else None,
        checkpoint=_checkpoint(found["checkpoint"]) if "checkpoint" in found else None,
        est_duration_s=found["est_duration"].seconds() if "est_duration" in found else None,
        priority=found["priority"].whole(-1000) if "priority" in found else 0,
        retries=found["retries"].whole(0) if "retries" in found else 0,
        time_limit_s=found["time_limit"].seconds() if "time_limit" in found else None,
        grace_s=found["grace"].seconds() if "grace" in found else JobSpec.grace_s,
        env={} if env is None else _env(env),
        workdir=found["workdir"].text() if "workdir" in found else None,
    )


def _workers(given: Field | None) -> tuple[int, int]:
    """``4``, or ``{min: 2, max: 8}``."""
    if given is None:
        return 1, 1
    if not given.is_map():
        workers = given.whole(1)
        return workers, workers
    found = given.fields(("min", "max"), ("min", "max"))
    least, most = found["min"].whole(1), found["max"].whole(1)
    if most < least:
        raise found["max"].wrong(f"{most} is less than min, {least}")
    return least, most


def _name(given: Field) -> str:
    text = given.text()
    try:
        return check_name(text)
    except BadInputError as error:
        raise given.wrong(error.what, hint=error.hint) from error


def _command(given: Field) -> tuple[str, ...]:
    """A list of arguments, or a line that is split as a shell would; nothing else of a shell's is done."""
    if given.is_list():
        parts = tuple(part.text() for part in given.items())
    else:
        try:
            parts = tuple(shlex.split(given.text()))
        except ValueError as error:
            raise given.wrong(f"cannot be split into arguments: {error}") from error
    if not parts:
        raise given.wrong("is empty")
    return parts


def _factory(given: Field) -> str:
    """``module:factory``, or the name that one is registered under."""
    text = given.text()
    if _FACTORY.fullmatch(text) is not None:
        return text
    if ":" in text:
        raise given.wrong(f"{text[:80]!r} is not of the form module:factory")
    try:
        return spec(TRAINABLES, text)
    except NotFoundError as error:
        raise given.wrong(f"{text[:80]!r} is not of the form module:factory, and not registered",
                          hint=error.hint) from error  # fmt: skip


def _config(given: Field) -> Mapping[str, Json]:
    config = given.json()
    if not isinstance(config, dict):
        raise given.wrong("must be a set of named fields")
    return config


def _types(given: Field) -> tuple[str, ...]:
    types = tuple(part.text() for part in given.items())
    if not types or len(set(types)) < len(types):
        raise given.wrong("must list GPU types, each once")
    return types


def _batch(given: Field) -> Batch:
    found = given.fields(("mode", "size"))
    mode = found["mode"].one_of((_FIXED_LOCAL, _FIXED_GLOBAL)) if "mode" in found else Batch.mode
    return Batch(mode, found["size"].whole(1) if "size" in found else None)


def _lr(given: Field) -> LearningRate:
    found = given.fields(("base", "rule", "warmup_steps"), ("base",))
    rule = found["rule"].one_of(("linear", "sqrt", "none")) if "rule" in found else LearningRate.rule
    steps = found["warmup_steps"].whole(0) if "warmup_steps" in found else LearningRate.warmup_steps
    return LearningRate(found["base"].positive(), rule, steps)


def _checkpoint(given: Field) -> Checkpoint:
    found = given.fields(("path", "interval", "on_warning", "takes"), ("path",))
    interval = found["interval"].seconds() if "interval" in found else None
    warned = found["on_warning"].flag() if "on_warning" in found else Checkpoint.on_warning
    takes = found["takes"].seconds() if "takes" in found else None
    return Checkpoint(found["path"].text(), interval, warned, takes)


def _env(given: Field) -> Mapping[str, str]:
    env = given.named()
    for name, value in env.items():
        if _VARIABLE.fullmatch(name) is None:
            raise value.wrong(f"{name[:40]!r} is not the name of a variable")
    return {name: value.text() for name, value in env.items()}
