"""``quiltwork cluster``: training jobs and inference on shared servers."""

from __future__ import annotations

import typer

from quiltwork.cli.cluster_live import LIVE
from quiltwork.cli.cluster_simulate import simulate
from quiltwork.cli.cluster_whatif import whatif

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Run training jobs on shared servers, idle inference's among them; simulate clusters; plan how many servers.",
)
for name, command in LIVE:
    app.command(name)(command)
app.command()(simulate)
app.command()(whatif)
