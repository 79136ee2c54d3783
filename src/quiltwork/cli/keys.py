"""``quiltwork keys``: who may come in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from quiltwork.cli.output import emit

app = typer.Typer(no_args_is_help=True, add_completion=False, help="API keys of a server; only their hashes are kept.")

FileOption = Annotated[
    Path, typer.Option("--keys", envvar="QUILTWORK_KEYS", help="The file; $QUILTWORK_KEYS, else ./keys.json.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT = Path("keys.json")


@app.command()
def add(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")],
    admin: Annotated[bool, typer.Option("--admin", help="May load and unload models, and read all figures.")] = False,
    relaxed_speculation: Annotated[
        bool, typer.Option("--relaxed-speculation", help="May ask for it: a draft then has a say in the answers.")
    ] = False,
    keys: FileOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once."""
    from quiltwork.gateway.tenants import KeyFile

    created = datetime.now(UTC).isoformat(timespec="seconds")
    key, text = KeyFile(keys).add(tenant, admin=admin, created=created, relaxed_speculation=relaxed_speculation)
    emit({"id": key.id, "tenant": key.tenant, "admin": key.admin, "key": text}, json, text)


@app.command()
def ls(keys: FileOption = DEFAULT, json: JsonOption = False) -> None:
    """List the keys."""
    from quiltwork.gateway.tenants import KeyFile

    found = KeyFile(keys).keys()
    table = Table("id", "tenant", "", "made", box=None, pad_edge=False)
    for key in found:
        may = {"admin": key.admin, "relaxed": key.relaxed_speculation}
        table.add_row(key.id, key.tenant, " ".join(name for name, given in may.items() if given), key.created)
    rows = [
        {"id": k.id, "tenant": k.tenant, "admin": k.admin, "created": k.created}
        | ({"relaxed_speculation": True} if k.relaxed_speculation else {})
        for k in found
    ]
    emit(rows, json, table)


@app.command()
def rm(id: str, keys: FileOption = DEFAULT, json: JsonOption = False) -> None:
    """Withdraw a key; it counts no more from the next request on."""
    from quiltwork.gateway.tenants import KeyFile

    key = KeyFile(keys).remove(id)
    emit({"removed": key.id, "tenant": key.tenant}, json, f"removed {key.id} of {key.tenant}")
