"""``quiltwork keys``: who may come in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from quiltwork.cli.output import emit
from quiltwork.core.servable import LEAST_AGREEMENT, Json, Latitude

if TYPE_CHECKING:
    from quiltwork.gateway.tenants import Key

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
    quality_budget: Annotated[
        float, typer.Option(help="Nats per token that answers may lose where an adapted model stands in; 0: none does.")
    ] = 0.0,
    agreement: Annotated[
        float, typer.Option(help="Least share of tokens with the same most likely next one for which it may.")
    ] = LEAST_AGREEMENT,
    relaxed_speculation: Annotated[
        bool, typer.Option("--relaxed-speculation", help="May ask for it: a draft then has a say in the answers.")
    ] = False,
    keys: FileOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once."""
    from quiltwork.gateway.tenants import KeyFile

    created = datetime.now(UTC).isoformat(timespec="seconds")
    latitude = Latitude(
        quality_budget=quality_budget, least_agreement=agreement, relaxed_speculation=relaxed_speculation
    )
    key, text = KeyFile(keys).add(tenant, admin=admin, created=created, latitude=latitude)
    emit({**_shown(key), "key": text}, json, text)


@app.command()
def ls(keys: FileOption = DEFAULT, json: JsonOption = False) -> None:
    """List the keys."""
    from quiltwork.gateway.tenants import KeyFile

    found = KeyFile(keys).keys()
    table = Table("id", "tenant", "", "may lose", "made", box=None, pad_edge=False)
    for key in found:
        may = {"admin": key.admin, "relaxed": key.relaxed_speculation}
        loss = f"{key.quality_budget:g} nats at {key.least_agreement:.0%}" if key.quality_budget else ""
        table.add_row(key.id, key.tenant, " ".join(name for name, given in may.items() if given), loss, key.created)
    emit([{**_shown(k), "created": k.created} for k in found], json, table)


@app.command()
def rm(id: str, keys: FileOption = DEFAULT, json: JsonOption = False) -> None:
    """Withdraw a key; it counts no more from the next request on."""
    from quiltwork.gateway.tenants import KeyFile

    key = KeyFile(keys).remove(id)
    emit({"removed": key.id, "tenant": key.tenant}, json, f"removed {key.id} of {key.tenant}")


def _shown(key: Key) -> dict[str, Json]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "admin": key.admin,
        **key.granted(),
    }
