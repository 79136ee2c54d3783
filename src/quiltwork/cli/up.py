"""``quiltwork up``: serve a zoo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.parallel import check_parallel
from quiltwork.cli.serving import end_quietly, open_keys
from quiltwork.core.errors import BadInputError, CapacityError, QuiltworkError, UnsupportedError
from quiltwork.core.memory import physical_bytes
from quiltwork.core.names import ModelRef, parse_ref
from quiltwork.core.registry import SERVABLES, find, names
from quiltwork.core.servable import Json, Latitude, Offers, Servable, taker
from quiltwork.core.units import format_bytes, parse_bytes

EVERY_MODEL = "*"
"""Whom a draft given without a model is for, in the settings of a host; and all adapted models, in ``assemble``."""


def up(
    zoo: Annotated[
        Path, typer.Option("--zoo", envvar="QUILTWORK_ZOO", help="The zoo's folder; $QUILTWORK_ZOO, else ./zoo.")
    ] = Path("zoo"),
    host: Annotated[str, typer.Option(help="Where to listen; other than this machine only with --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one.")] = 8000,
    model: Annotated[list[str] | None, typer.Option(help="Serve this one; may be repeated. All, where absent.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="NAME=MODEL: another name; may be repeated.")] = None,
    draft: Annotated[
        list[str] | None,
        typer.Option(help="DRAFT or MODEL=DRAFT: a small model that speculates for all, or for one and its variants."),
    ] = None,
    assemble: Annotated[
        list[str] | None,
        typer.Option(
            help="An adapted model (zoo adapt) that may answer for the exact one within the quality budget of who "
            "asks; may be repeated, '*' for all."
        ),
    ] = None,
    quality_budget: Annotated[
        float | None,
        typer.Option(help="Without --keys: nats per token that answers may lose. With keys it is each key's own."),
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Most tokens of prompt and answer.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Most sequences computed at once.")] = None,
    memory: Annotated[str | None, typer.Option(help="For weights and KV together: 8GB, 500MiB.")] = None,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Load a model when it is first asked for; idle ones leave memory for others.")
    ] = False,
    pin: Annotated[list[str] | None, typer.Option(help="Keep this model in memory; may be repeated.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads.")] = None,
    agents: Annotated[
        int | None, typer.Option(help="Processes that hold the blocks between them; one engine, where absent.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run the agents on this Ray cluster: auto, local, HOST:PORT.")
    ] = None,
    chat_template: Annotated[Path | None, typer.Option(help="A Jinja file, used for every model.")] = None,
    keys: Annotated[
        Path | None, typer.Option(envvar="QUILTWORK_KEYS", help="Who may come in (quiltwork keys).")
    ] = None,
    relaxed_speculation: Annotated[
        bool,
        typer.Option(
            "--relaxed-speculation",
            help="Without --keys: whoever asks for it lets a draft change answers. With keys, each has its own say.",
        ),
    ] = False,
    log_batches: Annotated[
        Path | None, typer.Option(help="Append a JSON line for every executed batch to this file: whose rows it held.")
    ] = None,
    max_body: Annotated[str, typer.Option(help="Longest request body.")] = "32MiB",
    tenant_requests: Annotated[int, typer.Option(help="Requests of one tenant at a time.")] = 512,
    tenant_rate: Annotated[float | None, typer.Option(help="Requests of one tenant per second.")] = None,
    tenant_kv_share: Annotated[
        float | None, typer.Option(help="Share of the KV memory that a tenant keeps when others want it too: 0.5.")
    ] = None,
    tenant_weight: Annotated[
        list[str] | None, typer.Option(help="TENANT=2: twice the share of the others; may be repeated.")
    ] = None,
    grace: Annotated[int, typer.Option(help="Seconds that running requests get to finish on SIGTERM.")] = 30,
) -> None:
    """Serve the models of a zoo over HTTP, in OpenAI's shapes, until SIGTERM or Ctrl-C."""
    from quiltwork.gateway.app import create_app
    from quiltwork.gateway.limits import Limits
    from quiltwork.gateway.server import LOCAL_NAMES, Address, check_address, listen, serve, url_of
    from quiltwork.zoo import Zoo

    end_quietly()
    address = Address(host, port)
    check_address(address, keys=keys is not None)
    door_keys = open_keys(keys, "quiltwork keys add TENANT")
    positive: dict[str, float | None] = {
        "--max-model-len": max_model_len, "--max-num-seqs": max_num_seqs, "--agents": agents,
        "--tenant-requests": tenant_requests, "--tenant-rate": tenant_rate,
    }  # fmt: skip
    for option, value in positive.items():
        if value is not None and not value > 0:
            raise BadInputError(f"{value} is not positive", where=option)
    check_parallel("--threads", threads)
    if ray is None:
        check_parallel("--agents", agents)
    if tenant_kv_share is not None and not 0 < tenant_kv_share <= 1:
        raise BadInputError(f"{tenant_kv_share} is not in (0, 1]", where="--tenant-kv-share")
    if quality_budget is not None and not 0 <= quality_budget < float("inf"):
        raise BadInputError(f"{quality_budget} is not a number of nats from 0 up", where="--quality-budget")
    if quality_budget is not None and keys is not None:
        hint = "quiltwork keys add TENANT --quality-budget"
        raise BadInputError("is each key's own where there are keys", where="--quality-budget", hint=hint)
    if relaxed_speculation and keys is not None:
        raise BadInputError(
            "each key has its own say", where="--relaxed-speculation", hint="quiltwork keys add --relaxed-speculation"
        )
    if grace < 0:
        raise BadInputError(f"{grace} is negative", where="--grace")
    limits = Limits(_size("--max-body", max_body), tenant_requests, tenant_rate)
    settings: dict[str, Json] = {
        "zoo": str(zoo),
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "memory_bytes": _memory(memory, device) if memory is not None else None,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "agents": agents,
        "ray": ray,
        "chat_template": _text(chat_template),
        "aliases": dict(map(_alias, alias or ())),
        "drafts": dict(map(_draft, draft or ())),
        "assemble": assemble or None,
        "log_batches": str(log_batches) if log_batches is not None else None,
        "tenant_kv_share": tenant_kv_share,
        "tenant_weights": dict(map(_weight, tenant_weight or ())) or None,
    }
    with Zoo(zoo, create=False) as opened:
        wanted = [parse_ref(name) for name in model] if model else _servable_models(opened)
        pinned = [opened.model(parse_ref(name)).ref for name in pin or ()]
        for item in alias or ():
            opened.model(parse_ref(_alias(item)[1]))
        for named, small in map(_draft, draft or ()):
            for name in (small,) if named == EVERY_MODEL else (named, small):
                opened.model(parse_ref(name))
        for ref in (parse_ref(name) for name in assemble or () if name != EVERY_MODEL):
            if not opened.model(ref).substitutions:
                raise BadInputError(f"{ref} is not an adapted model", where="--assemble", hint="quiltwork zoo adapt")
            if ref not in wanted:
                wanted.append(ref)
        # Before the models: loading takes long, and a taken port should be known at once.
        bound = listen(address)
        servables: dict[str, Servable] = {}
        try:
            servables = {name: find(SERVABLES, name)(settings) for name in names(SERVABLES)}
            for ref in pinned:
                _pin(servables, ref)
            _load(servables, [ref for ref in wanted if ref not in pinned], must=bool(model), lazy=lazy)
            local = LOCAL_NAMES | {host.lower()} if door_keys is None else None
            app = create_app(
                servables,
                zoo=opened,
                keys=door_keys,
                limits=limits,
                hosts=local,
                latitude=Latitude(quality_budget=quality_budget or 0.0, relaxed_speculation=relaxed_speculation),
            )
            count = sum(len(servable.models()) for servable in servables.values())
            if wanted and not count:
                raise QuiltworkError("none of its models can be served", where=str(zoo))

            def ready() -> None:
                print(
                    f"quiltwork: serving {count} {'model' if count == 1 else 'models'} at {url_of(bound)}", flush=True
                )

            serve(app, bound, ready=ready, grace_seconds=grace)
        finally:
            bound.close()
            for servable in servables.values():
                servable.close()


def _servable_models(zoo: object) -> list[ModelRef]:
    from quiltwork.zoo import Zoo

    assert isinstance(zoo, Zoo)
    kept: list[ModelRef] = []
    for ref in zoo.models():
        reasons = zoo.model(ref).unservable
        if reasons:
            _warn(f"{ref} is not served: {reasons[0]}")
        else:
            kept.append(ref)
    # An alias is served like a model: the Servable knows that it is the same.
    return [*kept, *(name for name, target in zoo.aliases().items() if target in kept)]


def _pin(servables: dict[str, Servable], ref: ModelRef) -> None:
    servable = taker(servables, ref)
    if not isinstance(servable, Offers):
        raise UnsupportedError(f"models of kind {servable.kind} cannot be pinned", where="--pin")
    servable.pin(ref)


def _load(servables: dict[str, Servable], wanted: list[ModelRef], *, must: bool, lazy: bool) -> None:
    """Load all, or as many as fit; what does not, and with ``lazy`` everything, is loaded when it is asked for."""
    full: set[str] = set()
    """Kinds of models that do not all fit at once: trying each of the others would read all their weights for
    nothing."""
    for ref in wanted:
        try:
            servable = taker(servables, ref)
            if lazy or servable.kind in full:
                _offer(servable, ref)
                continue
            try:
                servable.load(ref)
            except CapacityError as crowded:
                try:
                    _offer(servable, ref)
                except UnsupportedError:
                    raise crowded from None
                full.add(servable.kind)
                _warn(f"not all models fit at once: {ref} and what follows is loaded when it is asked for")
        except QuiltworkError as error:
            if must:
                raise
            _warn(f"{ref} is not served: {error}")


def _offer(servable: Servable, ref: ModelRef) -> None:
    if not isinstance(servable, Offers):
        raise UnsupportedError(f"models of kind {servable.kind} are not loaded on demand", where="--lazy")
    servable.offer(ref)


def _alias(item: str) -> tuple[str, str]:
    name, separator, target = item.partition("=")
    if not separator or not name or not target:
        raise BadInputError(f"{item!r} is not NAME=MODEL", where="--alias")
    return name, target


def _weight(item: str) -> tuple[str, float]:
    tenant, _, text = item.partition("=")
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not tenant or not 0 < weight < float("inf"):
        raise BadInputError(f"{item!r} is not TENANT=WEIGHT, a positive number", where="--tenant-weight")
    return tenant, weight


def _draft(item: str) -> tuple[str, str]:
    """The model and its draft."""
    model, separator, small = item.rpartition("=")
    if not small or (separator and not model):
        raise BadInputError(f"{item!r} is neither DRAFT nor MODEL=DRAFT", where="--draft")
    return model or EVERY_MODEL, small


def _size(option: str, text: str) -> int:
    size = parse_bytes(text, where=option)
    if size == 0:
        raise BadInputError("0 is not positive", where=option)
    return size


def _memory(text: str, device: str | None) -> int:
    size = _size("--memory", text)
    there = physical_bytes()
    if (device or "cpu").startswith("cpu") and size > there:
        raise BadInputError(f"{text} is more than this machine's {format_bytes(there)}", where="--memory")
    return size


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "is not UTF-8"
        raise BadInputError(reason, where=str(path)) from error


def _warn(text: str) -> None:
    print(f"quiltwork: {text}", file=sys.stderr)
