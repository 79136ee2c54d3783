"""``quiltwork serve``: what serving costs, simulated: profiles, runs on described clusters, how many servers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.cli.parallel import check_parallel
from quiltwork.core.errors import BadInputError
from quiltwork.core.names import parse_ref

if TYPE_CHECKING:
    from quiltwork.serving.simulate import Arrival
    from quiltwork.serving.simulate.arms import Arm
    from quiltwork.serving.simulate.describe import Described

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Measure blocks; simulate clusters; plan how many servers."
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ClusterArgument = Annotated[Path, typer.Argument(help="A cluster and its fleet, YAML or JSON (docs/serving.md).")]
TraceOption = Annotated[Path, typer.Option("--trace", help="A .csv (Azure) or .jsonl (Mooncake) trace.")]
RateOption = Annotated[float, typer.Option("--rate", help="Requests per second on average.")]
ArmOption = Annotated[str, typer.Option("--arm", help="blocks, adapters (shared bases only) or models (none).")]
LimitOption = Annotated[int, typer.Option("--limit", min=2, help="Only the first so many requests.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the choice of apps.")]
PopularityOption = Annotated[
    Path | None, typer.Option("--popularity", help="GenTD26's lora_request_trace.csv; all apps alike where absent.")
]


@app.command()
def profile(
    model: Annotated[str, typer.Option(help="A model of the zoo.")],
    zoo: Annotated[Path, typer.Option(envvar="QUILTWORK_ZOO", help="The zoo's folder.")] = Path("zoo"),
    out: Annotated[Path | None, typer.Option(help="Write the profile here.")] = None,
    rows: Annotated[
        int, typer.Option(min=1, max=1 << 16, help="Measure batches of 1, 2, 4 ... up to so many rows.")
    ] = 256,
    context: Annotated[int, typer.Option(min=16, max=1 << 17, help="Tokens of context for attention's share.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="The median of so many.")] = 9,
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads.")] = None,
    dtype: Annotated[str, typer.Option(help="Precision; auto is float32 on the CPU.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    json: JsonOption = False,
) -> None:
    """Measure each kind of block of a model, as the engine executes it."""
    import torch

    from quiltwork.core.bench.machine import machine
    from quiltwork.serving.config import EngineConfig
    from quiltwork.serving.profiles.measure import Sizes, measure
    from quiltwork.serving.profiles.measured import Measured, document, write_measured
    from quiltwork.serving.roster import placement
    from quiltwork.zoo import Zoo

    check_parallel("--threads", threads)
    if out is not None and not out.parent.is_dir():
        # Before an hour's measuring, not after it.
        raise BadInputError("there is no such folder", where=str(out.parent))
    if threads is not None:
        torch.set_num_threads(threads)
    place = placement(EngineConfig(dtype=dtype, device=device))
    sizes = Sizes(tuple(1 << i for i in range(rows.bit_length())), context, repeats)
    with Zoo(zoo, create=False) as opened, narration("profile") as say:
        chain = opened.chain(parse_ref(model))
        blocks = measure(chain, opened.read, place, clock=time.perf_counter, sizes=sizes, progress=say)
    conditions = {
        "model": str(chain.model.ref),
        "threads": torch.get_num_threads(),
        "dtype": str(place.dtype).removeprefix("torch."),
        "device": device,
        "repeats": repeats,
        "context": context,
        "machine": machine(),
    }
    found = Measured(blocks, conditions)
    if out is not None:
        write_measured(found, out)
    shown = table(
        "block", "1 row", "most rows", "per context token", numbers=("1 row", "most rows", "per context token")
    )
    for name, block in blocks.items():
        most, seconds = block.rows[-1]
        shown.add_row(name, f"{block.rows[0][1] * 1e6:.1f} us", f"{seconds * 1e6:.1f} us ({most})",
                      f"{block.context_s * 1e9:.1f} ns")  # fmt: skip
    emit(document(found), json, shown)


@app.command()
def simulate(
    cluster: ClusterArgument,
    trace: TraceOption,
    rate: RateOption,
    arm: ArmOption = "blocks",
    servers: Annotated[int | None, typer.Option(min=1, help="So many servers instead of those described.")] = None,
    popularity: PopularityOption = None,
    limit: LimitOption = 1000,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Serve a trace on a described cluster under virtual time. Exits with 1 where nothing was answered."""
    from quiltwork.serving.simulate.planning import run_world

    world, chosen, arrivals, shares = _world(cluster, arm, trace, rate, popularity, limit, seed)
    with narration("simulating"):
        outcome = run_world(world, chosen, arrivals, shares, rate, servers=servers)
    found = outcome.document() | {"arm": str(chosen), "rate": rate}
    shown = table("figure", "value", numbers=("value",))
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        shown.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    emit(found, json, shown)
    if not outcome.finished:
        raise typer.Exit(1)


@app.command()
def plan(
    cluster: ClusterArgument,
    trace: TraceOption,
    rate: RateOption,
    slo: Annotated[list[str], typer.Option(help="Like 'p95<=2s' or 'ttft_p95<=500ms'; repeat it for several.")],
    models: Annotated[
        list[str] | None, typer.Option("--models", help="Only these apps of the description; repeat it.")
    ] = None,
    arm: ArmOption = "blocks",
    most: Annotated[int, typer.Option(min=1, help="Try no more servers than this.")] = 64,
    popularity: PopularityOption = None,
    limit: LimitOption = 1000,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Answer how many servers hold an objective, with the curve that stands on. Exits with 1 where none tried does."""
    from quiltwork.serving.simulate.planning import objective_of
    from quiltwork.serving.simulate.planning import plan as search

    objectives = [objective_of(text) for text in slo]
    world, chosen, arrivals, shares = _world(cluster, arm, trace, rate, popularity, limit, seed, models)
    with narration("plan") as say:
        answer = search(world, chosen, arrivals, shares, rate, objectives, most=most, progress=say)
    shown = table("servers", "devices", *slo, "holds", "busy", numbers=("servers", "devices", "busy"))
    for p in answer.curve:
        shown.add_row(str(p.servers), str(p.devices), *(f"{m:.3g} s" for m in p.measured),
                      "yes" if p.holds else "no", f"{p.busy_share:.0%}")  # fmt: skip
    found = "none tried" if answer.servers is None else f"{answer.servers} servers"
    shown.title = f"{found} of {most} at the most ({chosen}, {rate:g} requests/s)"
    curve = [
        {"servers": p.servers, "devices": p.devices, "holds": p.holds, "busy_share": p.busy_share,
         "measured_s": {text: m if math.isfinite(m) else None for text, m in zip(slo, p.measured, strict=True)}}
        for p in answer.curve
    ]  # fmt: skip
    emit({"servers": answer.servers, "arm": str(chosen), "rate": rate, "curve": curve}, json, shown)
    if answer.servers is None:
        raise typer.Exit(1)


def _world(
    cluster: Path,
    arm: str,
    trace: Path,
    rate: float,
    popularity: Path | None,
    limit: int,
    seed: int,
    models: list[str] | None = None,
) -> tuple[Described, Arm, list[Arrival], dict[str, float]]:
    """The described world, the arm, the requests, and each app's share of them."""
    from quiltwork.core.traces import read_gentd_popularity, read_trace, shares_of
    from quiltwork.serving.simulate.arms import Arm
    from quiltwork.serving.simulate.describe import read_description
    from quiltwork.serving.simulate.workload import arrivals_of

    if not 0 < rate < math.inf:
        raise BadInputError(f"{rate} is not a positive number", where="--rate")
    if arm not in tuple(Arm):
        raise BadInputError(f"{arm!r} is not one of {', '.join(Arm)}", where="--arm")
    world = read_description(cluster)
    if models:
        world = world.only(models)
    apps = world.apps
    if popularity is None:
        shares = dict.fromkeys(apps, 1 / len(apps))
    else:
        shares = shares_of(apps, read_gentd_popularity(popularity), seed=seed)
    return world, Arm(arm), arrivals_of(read_trace(trace, limit=limit), shares, rate, seed=seed), shares
