"""``quiltwork zoo``: keep models as shared pieces, see who shares what, write them out again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from quiltwork.cli.explained import explained_model
from quiltwork.cli.output import emit, transfer
from quiltwork.cli.zoo_adapt import adapt, equivalents
from quiltwork.cli.zoo_train import prune, stitch
from quiltwork.core.errors import BadInputError
from quiltwork.core.names import PUBLIC, parse_ref
from quiltwork.core.units import format_bytes
from quiltwork.zoo import Zoo
from quiltwork.zoo.derived import SUBSTITUTIONS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Store models as shared pieces; see what is shared; export them exactly.",
)

ZooOption = Annotated[
    Path,
    typer.Option("--zoo", envvar="QUILTWORK_ZOO", help="The zoo's folder; $QUILTWORK_ZOO, else ./zoo."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantOption = Annotated[str, typer.Option(help="Whose model it is; public models are everyone's.")]
DEFAULT = Path("zoo")


def _opened(path: Path) -> Zoo:
    return Zoo(path, create=False)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        number = column in ("bytes", "source", "own", "shared", "changed", "relative", "blocks", "tensors")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


@app.command()
def add(
    sources: Annotated[
        list[str],
        typer.Argument(help="Model or adapter folders, GGUF files, or hub names org/name or org/name@revision."),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it; the folder's name where not given.")] = None,
    tenant: TenantOption = PUBLIC,
    base: Annotated[str | None, typer.Option(help="The model it was made from, if it is not found by itself.")] = None,
    lossy: Annotated[
        str | None, typer.Option(help="int8 or int4: keep changed matrices as rounded differences.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of another model of that name.")] = False,
    alias: Annotated[list[str] | None, typer.Option(help="Another name for it; may be given several times.")] = None,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Take models in. What the zoo has already is not stored again."""
    if len(sources) > 1 and (name is not None or alias):
        raise BadInputError("is for one source", where="--name" if name is not None else "--alias")
    added = []
    with Zoo(zoo) as opened:
        for source in sources:
            with transfer(f"adding {source}") as report:
                added.append(
                    opened.add(
                        source,
                        name=name,
                        tenant=tenant,
                        base=parse_ref(base) if base and "::" in base else base,
                        lossy=lossy,
                        replace=replace,
                        aliases=alias or (),
                        progress=report,
                    )
                )
    table = _table("model", "family", "source", "bytes", "")
    for item in added:
        notes = [*(["already there"] if item.already else []), *item.notes, *item.model.unservable]
        sizes = format_bytes(item.source_bytes), format_bytes(item.new_bytes)
        table.add_row(str(item.model.ref), item.model.family, *sizes, "\n".join(notes))
    emit(
        [
            {
                "model": str(item.model.ref),
                "version": item.model.version,
                "family": item.model.family,
                "already": item.already,
                "source_bytes": item.source_bytes,
                "new_bytes": item.new_bytes,
                "notes": list(item.notes),
                "unservable": list(item.model.unservable),
            }
            for item in added
        ],
        json,
        table,
    )


@app.command()
def ls(
    tenant: Annotated[str | None, typer.Option(help="Only what this tenant sees.")] = None,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """List the models."""
    with _opened(zoo) as opened:
        models = [opened.model(ref) for ref in opened.models(tenant)]
        aliases = opened.aliases()
    table = _table("model", "family", "base", "bytes", "version", "")
    rows: list[dict[str, Any]] = []
    for model in models:
        names = [str(alias) for alias, ref in aliases.items() if ref == model.ref]
        blocks = [block for part in model.parts for block in (part.block, *part.attachments)]
        nbytes = sum({t.content: t.nbytes for block in blocks for t in block.walk()}.values())
        rows.append(
            {
                "model": str(model.ref),
                "family": model.family,
                "base": str(model.base) if model.base else None,
                "bytes": nbytes,
                "version": model.version,
                "aliases": names,
                "unservable": list(model.unservable),
                "lossy": bool(model.lossy),
            }
        )
        remarks = [*(f"alias {n}" for n in names), *(["lossy"] if model.lossy else []), *model.unservable]
        base = str(model.base) if model.base else ""
        table.add_row(str(model.ref), model.family, base, format_bytes(nbytes), model.version[:12], "; ".join(remarks))
    emit(rows, json, table)


@app.command()
def show(model: str, zoo: ZooOption = DEFAULT, json: JsonOption = False) -> None:
    """Show a model's parts, blocks and files."""
    with _opened(zoo) as opened:
        found = opened.model(parse_ref(model))
    lines = [*found.notes, *(f"cannot be served: {reason}" for reason in found.unservable)]
    title = "\n".join([f"{found.ref} ({found.family}) {found.version[:12]}", *lines])
    table = _table("part", "kind", "block", "tensors", "bytes", "attachments", title=title)
    for part in found.parts:
        hung = ", ".join(f"{b.kind} {b.id[:12]}" for b in part.attachments)
        block = part.block
        table.add_row(part.name, block.kind, block.id[:12], str(len(block.tensors)), format_bytes(block.nbytes), hung)
    document = asdict(found) | {"ref": str(found.ref), "base": str(found.base) if found.base else None}
    emit(document, json, table)


@app.command()
def explain(
    model: str,
    among: Annotated[
        list[str] | None,
        typer.Option(help="Cut it as if served together with this one; may be repeated. With all, where absent."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Tell what this tenant may know; all, where absent.")] = None,
    near: Annotated[bool, typer.Option("--near/--no-near", help="Look for nearly equal blocks; reads weights.")] = True,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Explain a model: who has the same parts, where it is cut, what only it needs, what nearly equals another's."""
    chosen = [parse_ref(name) for name in among] if among else None
    with _opened(zoo) as opened, transfer(f"explaining {model}") as report:
        told = opened.explain(parse_ref(model), tenant=tenant, among=chosen, near=near, progress=report)
    emit(told.to_json(), json, *explained_model(told))


@app.command()
def diff(a: str, b: str, zoo: ZooOption = DEFAULT, json: JsonOption = False) -> None:
    """Show where two models differ: per layer and kind, by bytes and relative change."""
    with _opened(zoo) as opened:
        found = opened.diff(parse_ref(a), parse_ref(b))
    title = f"{format_bytes(found.changed_bytes)} of {format_bytes(found.nbytes)} differ"
    table = _table("part", "kind", "tensors", "changed", "relative", "attachments", title=title)
    for change in found.changes:
        relative = "" if change.relative is None else f"{change.relative:.2%}"
        tensors = f"{change.changed} of {change.tensors}" if change.changed else "same"
        size = format_bytes(change.changed_bytes) if change.changed else ""
        table.add_row(change.part, change.kind, tensors, size, relative, " ".join(change.attachments))
    document = {
        "a": str(found.a),
        "b": str(found.b),
        "bytes": found.nbytes,
        "changed_bytes": found.changed_bytes,
        "changes": [asdict(change) | {"same": change.same} for change in found.changes],
    }
    emit(document, json, table)


@app.command()
def du(zoo: ZooOption = DEFAULT, json: JsonOption = False) -> None:
    """Show what sharing saved, and who shares how much with whom."""
    with _opened(zoo) as opened:
        usage = opened.du()
    ratio = "" if usage.ratio is None else f" ({usage.ratio:.1%})"
    title = f"{format_bytes(usage.stored_bytes)} stored for {format_bytes(usage.source_bytes)} of models{ratio}"
    if usage.unused_bytes:
        title += f"; {format_bytes(usage.unused_bytes)} unused (quiltwork zoo gc)"
    table = _table("model", "source", "own", "shared", "shares most with", title=title)
    for model in usage.models:
        most = [f"{ref} ({format_bytes(size)})" for ref, size in list(model.shares_with.items())[:3]]
        sizes = (format_bytes(n) for n in (model.source_bytes, model.own_bytes, model.shared_bytes))
        table.add_row(str(model.ref), *sizes, ", ".join(most))
    document = {
        "stored_bytes": usage.stored_bytes,
        "source_bytes": usage.source_bytes,
        "unused_bytes": usage.unused_bytes,
        "ratio": usage.ratio,
        "models": [
            {
                "model": str(model.ref),
                "source_bytes": model.source_bytes,
                "own_bytes": model.own_bytes,
                "shared_bytes": model.shared_bytes,
                "shares_with": {str(ref): size for ref, size in model.shares_with.items()},
            }
            for model in usage.models
        ],
    }
    emit(document, json, table)


@app.command()
def export(
    model: str,
    dest: Annotated[Path, typer.Argument(help="Where to write; must not exist, or be an empty folder.")],
    lossy: Annotated[bool, typer.Option("--lossy", help="Allow a model that is kept rounded.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Write an adapter and its base as one model.")] = False,
    format: Annotated[str, typer.Option(help="source: the files that came in; hf: a Hugging Face folder.")] = "source",
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write a model's files again, byte for byte."""
    with _opened(zoo) as opened, transfer(f"exporting {model}") as report:
        done = opened.export(parse_ref(model), dest, lossy=lossy, merged=merged, format=format, progress=report)
    exact = ", byte for byte as they came in" if done.exact else ""
    if done.substitutions:
        exact = f"; adapted: other models' blocks serve {done.substitutions} of its parts, see {SUBSTITUTIONS}"
    text = f"{done.path}: {done.files} files, {format_bytes(done.nbytes)}{exact}"
    emit(asdict(done) | {"path": str(done.path)}, json, text)


@app.command()
def rm(models: list[str], zoo: ZooOption = DEFAULT, json: JsonOption = False) -> None:
    """Forget models or aliases. `gc` then frees what only they used."""
    refs = list(dict.fromkeys(map(parse_ref, models)))
    with _opened(zoo) as opened:
        opened.remove(*refs)
    names = [str(ref) for ref in refs]
    emit({"removed": names}, json, f"removed {', '.join(names)}; `quiltwork zoo gc` frees what only they used")


@app.command()
def gc(zoo: ZooOption = DEFAULT, json: JsonOption = False) -> None:
    """Free what no model uses."""
    with _opened(zoo) as opened:
        freed = opened.gc()
    emit(asdict(freed), json, f"{freed.objects} objects, {freed.blocks} blocks, {format_bytes(freed.bytes)} freed")


@app.command()
def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Remove extra files and forget damaged objects.")] = False,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Check every byte. Exits with 1 where something is wrong."""
    with _opened(zoo) as opened, transfer("checking") as report:
        findings = opened.fsck(repair=repair, progress=report)
    table: Any = "all is well"
    if findings:
        table = _table("where", "what")
        for finding in findings:
            table.add_row(finding.where, finding.what + (" (repaired)" if finding.repaired else ""))
    emit([asdict(finding) for finding in findings], json, table)
    if any(not finding.repaired for finding in findings):
        raise typer.Exit(1)


app.command()(adapt)
app.command()(equivalents)
app.command()(stitch)
app.command()(prune)
