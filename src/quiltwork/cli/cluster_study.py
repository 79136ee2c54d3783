"""What ``cluster simulate`` and ``cluster whatif`` have in common: the options of a study, and how they are read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say
from quiltwork.core.units import parse_duration

if TYPE_CHECKING:
    from quiltwork.cluster.demand import Demand
    from quiltwork.cluster.study import Study

LINEAR = "linear"

JobsOption = Annotated[
    Path, typer.Option("--jobs", help="Jobs: .csv, .csv.gz, or what sacct --parsable2 prints (docs/cluster-input.md).")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option("--columns", help="Which columns of --jobs say what: 'id=..., submit=..., gpus=..., duration=..., "
                 "team=..., unit=s|ms'."),
]  # fmt: skip
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many jobs.")]
InferenceOption = Annotated[
    Path | None, typer.Option("--inference", help="What inference needs over time: .csv with t_s and shares.")
]
ColumnOption = Annotated[
    str | None, typer.Option("--column", help="Which column of --inference; its only one where there is one.")
]
CountsOption = Annotated[
    bool, typer.Option("--counts", help="That column counts servers, instead of telling their share of --infer.")
]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option("--policy", help="A set of rules, perhaps with some changed: lyra:headroom=0.1. Repeat it to compare; "
                 "the first is what the others are compared with. Without it, fifo and lyra."),
]  # fmt: skip
PerServerOption = Annotated[int, typer.Option("--gpus-per-server", help="GPUs of each server.")]
TypesOption = Annotated[
    str, typer.Option("--types", help="Training's GPU type and inference's; with speeds where they are not known: "
                      "A100=2.5,T4=0.33.")
]  # fmt: skip
FungibleOption = Annotated[float, typer.Option("--fungible", help="Share of jobs that may run on lent servers.")]
ElasticOption = Annotated[
    str, typer.Option("--elastic", help="Which jobs may grow: most-gpu-time, large-and-long, drawn or none.")
]
ElasticShareOption = Annotated[float, typer.Option("--elastic-share", help="Share of jobs that may grow.")]
StretchOption = Annotated[int, typer.Option("--stretch", help="To so many times the workers that they asked for.")]
CheckpointedOption = Annotated[
    float,
    typer.Option("--checkpointed", help="Share of jobs that go on after a preemption instead of beginning again."),
]
HeteroOption = Annotated[
    float, typer.Option("--hetero", help="Share of jobs of which one run may mix GPU types, where they may grow.")
]
SpeedOption = Annotated[
    str, typer.Option("--speed", help="linear, or a folder of Sia's measurements: how jobs that may grow speed up.")
]
MixingOption = Annotated[float, typer.Option("--mixing", help="Share that is left of a run that mixes GPU types.")]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="Between checkpoints: 600, 10m ...")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="RULE=VALUE for all policies: headroom=0.1, reclaim=random, restart_s=30 ... Repeat it."
    ),
]
QuotaOption = Annotated[
    list[str] | None,
    typer.Option("--quota", metavar="TEAM=GPUS", help="GPUs of training's that a team is guaranteed; others borrow "
                 "what it leaves idle. Repeat it; team default is all others together."),
]  # fmt: skip
EstimatesOption = Annotated[
    str,
    typer.Option("--estimates", help="What is thought of running times: oracle (the truth), learned (from jobs that "
                 "ended before) or none."),
]  # fmt: skip
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of random choices.")]
DaysOption = Annotated[float, typer.Option("--days", help="Days, from the first job on, for which usage is told.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-too-large", help="Leave out jobs that training's servers cannot hold.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InferOption = Annotated[int, typer.Option("--infer", help="Inference's servers.")]
DEFAULT_POLICIES = ("fifo", "lyra")
Command = Callable[..., None]


def _study(
    jobs: JobsOption,
    infer: InferOption = 0,
    policy: PolicyOption = None,
    inference: InferenceOption = None,
    column: ColumnOption = None,
    counts: CountsOption = False,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
    gpus_per_server: PerServerOption = 8,
    types: TypesOption = "V100,T4",
    fungible: FungibleOption = 0.21,
    elastic: ElasticOption = "most-gpu-time",
    elastic_share: ElasticShareOption = 0.05,
    stretch: StretchOption = 2,
    checkpointed: CheckpointedOption = 0.0,
    hetero: HeteroOption = 1.0,
    speed: SpeedOption = LINEAR,
    mixing: MixingOption = 1.0,
    checkpoint: CheckpointOption = "600",
    set_: SetOption = None,
    quota: QuotaOption = None,
    estimates: EstimatesOption = "oracle",
    seed: SeedOption = 0,
    days: DaysOption = 15.0,
    skip_too_large: SkipOption = False,
) -> None:
    """The options of a study and their defaults; nobody calls it."""


def of_a_study(command: Command) -> Command:
    """A command with these options beside its own. It gets them by name in one mapping, ``given``, as its first."""
    own = list(signature(command, eval_str=True).parameters.values())[1:]
    shared = list(signature(_study, eval_str=True).parameters.values())
    needed = [each for each in own if each.default is Parameter.empty]
    left = [each for each in own if each.default is not Parameter.empty]

    @wraps(command)
    def run(**options: Any) -> None:
        command({each.name: options.pop(each.name) for each in shared}, **options)

    context, *needed = needed
    together = [context, shared[0], *needed, *shared[1:], *left]
    run.__signature__ = Signature([each.replace(kind=Parameter.KEYWORD_ONLY) for each in together])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in together} | {"return": None}
    return run


def study_from(options: Mapping[str, Any], train: int, say: Say) -> tuple[Study, list[Path]]:
    """The study that a command's options describe, and the files that it was read from.

    options : the command's parameters by name. Raises BadInputError.
    """
    from quiltwork.cluster.curves import read_sia_curves
    from quiltwork.cluster.labels import LabelRules
    from quiltwork.cluster.study import Fleet, Study, types_of
    from quiltwork.cluster.traces import Columns, read_jobs

    labels = LabelRules(
        fungible=options["fungible"],
        hetero=options["hetero"],
        checkpointed=options["checkpointed"],
        elastic=options["elastic"],
        elastic_share=options["elastic_share"],
        stretch=options["stretch"],
    )
    types, capability = types_of(options["types"])
    fleet = Fleet(train, options["infer"], options["gpus_per_server"], types, capability)
    columns = None if options["columns"] is None else Columns.parse(options["columns"])
    inputs = [options["jobs"]]
    curves = None
    if options["speed"] != LINEAR:
        folder = Path(options["speed"])
        if not folder.is_dir():
            raise BadInputError(f"{options['speed']!r} is neither linear nor a folder", where="--speed")
        curves = read_sia_curves(folder, fleet.gpu_types)
        inputs.append(folder)
    demand = None
    if options["inference"] is not None:
        demand = _demand(options["inference"], options["column"], fleet.infer, counts=options["counts"])
        inputs.append(options["inference"])
    elif options["column"] is not None or options["counts"]:
        raise BadInputError("a column is named of no file", where="--column", hint="--inference FILE")
    say("reading the jobs")
    trace = read_jobs(options["jobs"], columns)
    if options["limit"] is not None:
        trace = trace[: options["limit"]]
    study = Study(
        trace,
        fleet,
        demand,
        labels,
        curves,
        options["mixing"],
        parse_duration(options["checkpoint"], where="--checkpoint"),
        options["estimates"],
        options["seed"],
        options["days"],
        options["skip_too_large"],
    )
    return study, inputs


def _demand(path: Path, column: str | None, infer: int, *, counts: bool) -> Demand:
    from quiltwork.cluster.demand import read_demand
    from quiltwork.core.rows import csv_header

    if not infer:
        raise BadInputError("is given, but inference has no servers", where="--inference", hint="--infer N")
    if column is None:
        columns = [name for name in csv_header(path) if name not in ("t_s", "is_extension")]
        shares = columns if counts else [name for name in columns if name.endswith("_frac")] or columns
        if len(shares) != 1:
            known = ", ".join(name.removesuffix("_frac") for name in shares) or "none"
            raise BadInputError(
                "does not say which column is meant", where=str(path), hint=f"--column, one of: {known}"
            )
        column = shares[0]
    return read_demand(path, column, fleet=infer if counts else None)


def spelled(context: typer.Context) -> str:
    """The command that is running, as it would be typed: what was left to its default is left out."""
    words = ["quiltwork", "cluster", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name == "json":
            continue
        value = context.params[name]
        values = value if isinstance(value, (list, tuple)) else [value]
        for each in values:
            words += [parameter.opts[0]] if each is True else [parameter.opts[0], str(each)]
    return shlex.join(words)
