"""``quiltwork cluster up`` and the commands that talk with what it starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from quiltwork.cli.cluster_client import Cluster
from quiltwork.cli.cluster_study import QuotaOption
from quiltwork.cli.output import emit, table
from quiltwork.cli.serving import end_quietly, open_keys
from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.servable import Json

if TYPE_CHECKING:
    from quiltwork.cluster.server import Server

UrlOption = Annotated[
    str, typer.Option("--url", envvar="QUILTWORK_CLUSTER", help="Where `quiltwork cluster up` listens.")
]
KeyOption = Annotated[str | None, typer.Option("--key", envvar="QUILTWORK_KEY", help="An administrator's API key.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
URL = "http://127.0.0.1:8100"


def up(
    state: Annotated[Path, typer.Option(help="The folder of its state, logs and results.")] = Path("cluster"),
    train: Annotated[int, typer.Option(help="Training servers, of a new cluster.")] = 1,
    infer: Annotated[int, typer.Option(help="Inference servers that may be lent, of a new cluster.")] = 0,
    gpus_per_server: Annotated[int, typer.Option(help="GPUs (or slots for workers) of each, of a new cluster.")] = 4,
    types: Annotated[str, typer.Option(help="GPU types of training and of inference.")] = "V100,T4",
    policy: Annotated[
        str, typer.Option(help="The rules: fifo, sjf, lyra ... lyra:headroom=0.1 is --set too.")
    ] = "lyra",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="RULE=VALUE", help="Change a rule: headroom=0.1, min_run_s=5m ... Repeat it."),
    ] = None,
    quota: QuotaOption = None,
    gateway: Annotated[
        str | None, typer.Option(metavar="URL", help="The `quiltwork up` whose load says what inference needs.")
    ] = None,
    requests_per_server: Annotated[
        float, typer.Option(help="The gateway's requests at a time that keep one inference server busy.")
    ] = 4.0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run workers on this Ray cluster: auto, local, HOST:PORT.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; other than this machine only with --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one.")] = 8100,
    keys: Annotated[
        Path | None, typer.Option(envvar="QUILTWORK_KEYS", help="Who may come in (quiltwork keys).")
    ] = None,
    stop_workers: Annotated[
        bool, typer.Option("--stop-workers", help="Stop all workers at the end; otherwise they run on.")
    ] = False,
) -> None:
    """Run a cluster on this machine (or on Ray) until SIGTERM or Ctrl-C. Started again, it goes on where it was."""
    from quiltwork.cluster.live.host import Host, open_host
    from quiltwork.cluster.live.settings import settings_of
    from quiltwork.cluster.policy.quotas import quotas_of
    from quiltwork.gateway.app import create_app
    from quiltwork.gateway.cluster_routes import cluster_router
    from quiltwork.gateway.server import LOCAL_NAMES, Address, check_address, listen, serve, url_of

    end_quietly()
    address = Address(host, port)
    check_address(address, keys=keys is not None)
    door_keys = open_keys(keys, "quiltwork keys add TENANT --admin")
    if not 0 < requests_per_server < float("inf"):
        raise BadInputError(f"{requests_per_server} is not a number above 0", where="--requests-per-server")
    gpu_types = _types(types)
    settings = settings_of(policy, set_ or (), quotas_of(quota or ()), gpu_types=gpu_types)
    servers = _servers(train, infer, gpus_per_server, gpu_types)
    bound = listen(address)
    host_of = Host(state, servers, settings, gateway=gateway, ray=ray, requests_per_server=requests_per_server)
    with open_host(host_of) as (controller, desk):
        stop = threading.Event()
        loop = threading.Thread(target=controller.run, args=(stop,), name="cluster")
        app = create_app(
            {},
            keys=door_keys,
            hosts=None if door_keys is not None else LOCAL_NAMES,
            routers=[cluster_router(desk)],
            more_samples=[desk.samples],
        )
        loop.start()
        try:
            shown = url_of(bound)
            serve(app, bound, ready=lambda: typer.echo(f"cluster at {shown} (page: {shown}/cluster)"))
        finally:
            stop.set()
            loop.join()
            if stop_workers:
                controller.stop_workers()


def _types(text: str) -> tuple[str, ...]:
    types = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(types):
        raise BadInputError(f"{text!r} names no GPU types", where="--types", hint="V100,T4")
    return types


def _servers(train: int, infer: int, gpus: int, types: tuple[str, ...]) -> list[Server]:
    from quiltwork.cluster.server import Pool, Server

    for option, count, least in (("--train", train, 1), ("--infer", infer, 0), ("--gpus-per-server", gpus, 1)):
        if not least <= count <= 10_000:
            raise BadInputError(f"{count} is not a number from {least} to 10,000", where=option)
    made = [Server(f"train-{i}", types[0], gpus, Pool.TRAIN) for i in range(train)]
    return made + [Server(f"infer-{i}", types[-1], gpus, Pool.INFER) for i in range(infer)]


def submit(
    spec: Annotated[Path, typer.Argument(help="The job, as YAML or JSON; - for standard input.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended; exits with 1 where it failed.")] = False,
    url: UrlOption = URL,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Submit a job."""
    from quiltwork.cluster.spec import parse_spec, read_spec

    if str(spec) == "-":
        text = typer.get_text_stream("stdin").read()
        parse_spec(text, "standard input")
    else:
        read_spec(spec)
        text = spec.read_text(encoding="utf-8-sig")
    cluster = Cluster(url, key)
    job = cluster.submit(text)
    if wait:
        job = cluster.wait(job["id"])
    emit(job, json, job["id"] if not wait else f"{job['id']} {job['state']}")
    if wait and job["state"] != "done":
        raise QuiltworkError(job["error"] or f"it is {job['state']}", where=f"job {job['id']}")


def ls(
    state: Annotated[str | None, typer.Option(help="Only those: queued, running, done, failed, cancelled.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    servers: Annotated[bool, typer.Option("--servers", help="Servers instead of jobs.")] = False,
    teams: Annotated[bool, typer.Option("--teams", help="Teams instead of jobs.")] = False,
    url: UrlOption = URL,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Jobs, or servers, or teams."""
    if servers and teams:
        raise BadInputError("are two lists", where="--servers --teams", hint="one at a time")
    cluster = Cluster(url, key)
    if teams:
        status = cluster.status()
        emit({"teams": status["teams"]}, json, _teams(status["teams"]))
        return
    if servers:
        status = cluster.status()
        shown = table("server", "type", "pool", "GPUs", "free", "jobs", "", numbers=("GPUs", "free"))
        for row in status["servers"]:
            shown.add_row(row["id"], row["gpu_type"], row["pool"], str(row["gpus"]), str(row["free"]),
                          " ".join(row["jobs"]), row["closed"] or "")  # fmt: skip
        emit(status, json, shown, *_troubles(status))
        return
    jobs = cluster.jobs(state=state, team=team)
    shown = table("job", "team", "state", "workers", "steps", "error", numbers=("workers",))
    for job in jobs:
        shown.add_row(job["id"], job["team"], job["state"], _workers(job), _steps(job), job["error"])
    emit({"jobs": jobs}, json, shown)


def _teams(teams: Json) -> Table:
    numbers = ("quota", "GPUs", "borrowed", "flexible", "queued", "GPU-hours")
    shown = table("team", *numbers, numbers=numbers)
    for team, told in teams.items():
        quota = "" if told["quota"] is None else str(told["quota"])
        held = (str(told[name]) for name in ("held", "borrowed", "flexible", "queued"))
        shown.add_row(team, quota, *held, f"{told['gpu_hours']:.2f}")
    return shown


def _workers(job: Json) -> str:
    least, most = job["workers"]["min"], job["workers"]["max"]
    return f"{len(job['members'])} of {least}" + (f"-{most}" if most > least else "")


def _steps(job: Json) -> str:
    if not job["steps"]:
        return ""
    done, total = job["steps"]
    return f"{done}" if total is None else f"{done} of {total}"


def _troubles(status: Json) -> list[str]:
    return [f"{what}: {said}" for what, said in status["troubles"].items()]


def logs(
    job: Annotated[str, typer.Argument(help="Its id.")],
    worker: Annotated[str | None, typer.Option(help="Only this worker's.")] = None,
    tail: Annotated[int, typer.Option(help="Bytes of each, from the end.")] = 1 << 16,
    url: UrlOption = URL,
    key: KeyOption = None,
) -> None:
    """What a job's workers wrote."""
    typer.echo(Cluster(url, key).logs(job, worker, tail), nl=False)


def cancel(
    job: Annotated[str, typer.Argument(help="Its id.")], url: UrlOption = URL, key: KeyOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Cancel a job that waits or runs."""
    found = Cluster(url, key).cancel(job)
    emit(found, json, f"{found['id']} {found['state']}")


def explain(
    job: Annotated[str, typer.Argument(help="Its id.")], url: UrlOption = URL, key: KeyOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Why a job waits, and what was decided on it."""
    found = Cluster(url, key).explain(job)
    lines = [f"{found['id']}: {found['state']}"]
    lines += [f"waits: {found['waits']}"] if "waits" in found else []
    lines += [f"  {line}" for line in found.get("details", ())]
    lines += [f"error: {found['error']}"] if found["error"] else []
    emit(found, json, *lines, *(f"  {line}" for line in found["history"]))


def loan(
    servers: Annotated[int, typer.Argument(help="How many.")], url: UrlOption = URL, key: KeyOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Lend idle servers of inference to training now."""
    _changed(Cluster(url, key).post("loan", {"servers": servers}), json)


def reclaim(
    servers: Annotated[int, typer.Argument(help="How many.")], url: UrlOption = URL, key: KeyOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Ask lent servers back now, those that are cheapest to empty."""
    _changed(Cluster(url, key).post("reclaim", {"servers": servers}), json)


def drain(
    server: Annotated[str, typer.Argument(help="Its id.")],
    empty: Annotated[bool, typer.Option("--empty", help="Whoever is on it goes back into the queue.")] = False,
    url: UrlOption = URL,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Place nothing on a server from now on."""
    _changed(Cluster(url, key).post(f"servers/{server}/drain", {"empty": empty}), json)


def undrain(
    server: Annotated[str, typer.Argument(help="Its id.")], url: UrlOption = URL, key: KeyOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a server take work again."""
    _changed(Cluster(url, key).post(f"servers/{server}/undrain", {}), json)


def _changed(status: Json, json: bool) -> None:
    pools: dict[str, int] = {}
    for row in status["servers"]:
        pools[row["pool"]] = pools.get(row["pool"], 0) + 1
    said = ", ".join(f"{count} {pool}" for pool, count in sorted(pools.items()))
    closed = [f"{row['id']} {row['closed']}" for row in status["servers"] if row["closed"]]
    emit(status, json, f"servers: {said}{'; ' + ', '.join(closed) if closed else ''}")


LIVE: Sequence[tuple[str, Callable[..., None]]] = (
    *(("up", up), ("submit", submit), ("ls", ls), ("logs", logs), ("cancel", cancel), ("explain", explain)),
    *(("loan", loan), ("reclaim", reclaim), ("drain", drain), ("undrain", undrain)),
)
"""The commands by name."""
