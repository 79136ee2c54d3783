"""How commands show what a reply went through."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from quiltwork.cli.output import show, table
from quiltwork.core.errors import QuiltworkError
from quiltwork.core.servable import Json

MS = 1000.0


def explained(document: Any, url: str) -> Json:
    """The ``explain`` of a reply or of a stream's chunk, as the client parsed it. None for a chunk without.

    Raises QuiltworkError where it is not of the shape that Quiltwork gives it.
    """
    extra = getattr(document, "model_extra", None) or {}
    told = extra.get("explain")
    if told is None:
        return None
    choices = told.get("choices") if isinstance(told, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise QuiltworkError("gave an explanation of another shape", where=url)
    return told


def show_explained(told: Json, url: str) -> None:
    """Print it on standard error, so that standard output holds the answer and nothing else.

    Raises QuiltworkError where there is none.
    """
    if told is None:
        raise QuiltworkError("the server gave no explanation", where=url, hint="is it a Quiltwork server?")
    for choice in told["choices"]:
        try:
            tables = [_hops(choice), _facts(choice)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise QuiltworkError("gave an explanation of another shape", where=url) from error
        show(*tables, stderr=True)


def _hops(choice: Json) -> Table:
    """A row per segment: what it covers, and the batches the sequence rode in there."""
    shown = table("segment", "parts", "batches", "sequences", "models", "rows", numbers=("batches",))
    for hop in choice["hops"]:
        parts = hop["first"] if hop["first"] == hop["last"] else f"{hop['first']} .. {hop['last']}"
        batches = hop["batches"]
        spreads = [f"{batches[name]['mean']:.1f} (most {batches[name]['max']})" for name in _SPREADS]
        shown.add_row(hop["segment"], parts, str(batches["count"]), *spreads)
    return shown


_SPREADS = ("sequences", "models", "rows")


def _facts(choice: Json) -> Table:
    """Where the pages came from and where the time went."""
    shown = table("", "")
    kv = choice["kv"]
    found = ", ".join(f"{count} {kind}" for kind, count in kv["found"].items() if count) or "none"
    partly = ", ".join(f"{count} {kind}" for kind, count in kv["partly_found"].items() if count)
    pages = f"{found} found; {partly + ' partly found; ' if partly else ''}{kv['computed']} computed"
    if kv["preemptions"]:
        pages += f", {kv['recomputed']} of them again after {kv['preemptions']} preemptions"
    shown.add_row(f"pages of {kv['page_tokens']} tokens", pages)
    shown.add_row("milliseconds", ", ".join(f"{stage} {MS * took:.1f}" for stage, took in choice["seconds"].items()))
    return shown
