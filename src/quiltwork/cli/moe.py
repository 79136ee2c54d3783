"""``quiltwork moe``: models that spend as many experts on a token as it needs."""

from __future__ import annotations

import typer

from quiltwork.cli.lazy import Command, lazy_group, show_commands

COMMANDS = {
    "evaluate": Command("quiltwork.cli.moe_evaluate:evaluate", "One trained model with other numbers of experts."),
    "report": Command("quiltwork.cli.moe_report:report", "A page that shows which tokens took how many experts."),
    "train": Command("quiltwork.cli.moe_train:train", "Train a small model of experts on text, classes or pairs."),
}
"""A command of the room is one line here and one file."""

app = typer.Typer(cls=lazy_group(COMMANDS), add_completion=False, no_args_is_help=True)


@app.callback(help="Mixture-of-experts models that spend as many experts on a token as it needs.")
def moe() -> None:
    """Only groups the commands."""


show_commands(app, COMMANDS)
