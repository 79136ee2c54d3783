"""Groups of commands that show every command and import only the one that is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from quiltwork.core.registry import resolve


@dataclass(frozen=True)
class Command:
    """Where a command or a group of commands is, and what ``--help`` says of it before it is imported."""

    spec: str
    help: str


def lazy_group(commands: Mapping[str, Command]) -> type[TyperGroup]:
    """The class of a group that has these commands."""

    class LazyGroup(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
            name, shown, rest = super().resolve_command(ctx, args)
            return name, shown if name is None or name not in commands else load_command(name, commands[name]), rest

    return LazyGroup


def show_commands(app: typer.Typer, commands: Mapping[str, Command]) -> typer.Typer:
    """Have a group made with ``lazy_group`` list its commands."""
    for name, command in commands.items():
        # Only shown: the group puts the real command in its place before anything of it runs.
        app.command(name, help=command.help)(lambda: None)
    return app


def load_command(name: str, command: Command) -> Any:
    """The command itself, imported."""
    found = resolve(command.spec)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    return typer.main.get_command(found)
