"""``quiltwork``: one file per group of commands, imported only when that group is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from quiltwork.cli.lazy import Command, lazy_group, show_commands
from quiltwork.core.errors import QuiltworkError
from quiltwork.core.registry import missing_package

COMMANDS = {
    "up": Command("quiltwork.cli.up:up", "Serve the models of a zoo over HTTP, in OpenAI's shapes."),
    "chat": Command("quiltwork.cli.chat:chat", "Talk with a model of a running server."),
    "complete": Command("quiltwork.cli.complete:complete", "Complete a text with a running server."),
    "replay": Command("quiltwork.cli.replay:replay", "Send a trace's requests to a server, and measure the answers."),
    "train": Command("quiltwork.cli.train:train", "Train, or fine-tune, on this machine; stop and go on."),
    "zoo": Command("quiltwork.cli.zoo:app", "Store models as shared pieces; see what is shared; export them exactly."),
    "serve": Command("quiltwork.cli.serve:app", "Measure blocks; simulate clusters; plan how many servers."),
    "cluster": Command(
        "quiltwork.cli.cluster:app", "Run training jobs on shared servers; simulate clusters; plan how many."
    ),
    "text": Command("quiltwork.cli.text:app", "How alike sentences are; find them again; train models of them."),
    "moe": Command("quiltwork.cli.moe:app", "Mixtures of experts that take as many as a token needs."),
    "keys": Command("quiltwork.cli.keys:app", "API keys of a server."),
    "bench": Command("quiltwork.cli.bench:app", "The project's claims: list them, measure them, print their tables."),
}


def _version(asked: bool) -> None:
    if asked:
        from quiltwork import __version__

        typer.echo(f"quiltwork {__version__}")
        raise typer.Exit


def _app() -> typer.Typer:
    app = typer.Typer(cls=lazy_group(COMMANDS), add_completion=False, no_args_is_help=True)

    @app.callback(help="Store and serve many fine-tunes of one model by keeping once what they share.")
    def quiltwork(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say which one."),
    ) -> None:
        pass

    return show_commands(app, COMMANDS)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit. What goes wrong is one line on standard error: 2 for bad usage or input, else 1.

    args : the words after ``quiltwork``; those of the process where None.
    """
    try:
        typer.main.get_command(_app())(args=args, prog_name="quiltwork")
    except QuiltworkError as error:
        _exit(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "quiltwork":
            raise
        _exit(missing_package(error))
    except OSError as error:
        if error.errno is None:
            raise
        _exit(QuiltworkError(os.strerror(error.errno), where=str(error.filename) if error.filename else None))


def _exit(error: QuiltworkError) -> None:
    print(f"quiltwork: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
