"""``quiltwork moe``: mixtures of experts that spend as many experts on a token as it needs."""

from __future__ import annotations

import typer

from quiltwork.cli.lazy import Command, lazy_group, show_commands

COMMANDS = {
    "train": Command("quiltwork.cli.moe_train:train", "Train a small model of experts on text, classes or pairs."),
    "upcycle": Command("quiltwork.cli.moe_upcycle:upcycle", "Make a dense checkpoint a mixture of experts."),
    "calibrate": Command("quiltwork.cli.moe_calibrate:calibrate", "Find how few experts a checkpoint needs."),
    "evaluate": Command("quiltwork.cli.moe_evaluate:evaluate", "One trained model with other numbers of experts."),
    "report": Command("quiltwork.cli.moe_report:report", "A page that shows which tokens took how many experts."),
}
"""A command of the room is one line here and one file."""

app = typer.Typer(cls=lazy_group(COMMANDS), add_completion=False, no_args_is_help=True)


@app.callback(help="Mixtures of experts that spend as many experts on a token as it needs.")
def moe() -> None:
    """Only groups the commands."""


show_commands(app, COMMANDS)
