"""``quiltwork cluster``: training jobs and inference on shared servers."""

from __future__ import annotations

import typer

from quiltwork.cli.cluster_simulate import simulate
from quiltwork.cli.cluster_whatif import whatif

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Simulate clusters that train and serve; plan how many servers.",
)
app.command()(simulate)
app.command()(whatif)
