"""How commands show what a reply went through, and how a model is made up."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table

from quiltwork.cli.output import show, table
from quiltwork.core.errors import QuiltworkError
from quiltwork.core.servable import Json
from quiltwork.core.units import format_bytes
from quiltwork.zoo.explain import Explanation, Others

MS = 1000.0
SHORT = 12
"""Digits of a block's id that are shown."""
NAMES = 4
"""Models that are named in one cell."""


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
    agents = any("agent" in hop for hop in choice["hops"])
    also = ("agent", "keys and values", "milliseconds") if agents else ()
    shown = table("segments", "parts", "batches", "sequences", "models", "rows", *also, numbers=("batches",))
    for hop in choice["hops"]:
        parts = hop["first"] if hop["first"] == hop["last"] else f"{hop['first']} .. {hop['last']}"
        batches = hop["batches"]
        spreads = [f"{batches[name]['mean']:.1f} (most {batches[name]['max']})" for name in _SPREADS]
        cells = [" ".join(hop["segments"]), parts, str(batches["count"]), *spreads]
        shown.add_row(*cells, *(_at_agent(hop) if "agent" in hop else ()))
    return shown


def _at_agent(hop: Json) -> tuple[str, str, str]:
    took = hop["seconds"]
    return hop["agent"], _counts(hop["kv"]), f"queue {MS * took['queue']:.1f}, run {MS * took['run']:.1f}"


def _counts(counted: Json) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counted.items() if count) or "none"


_SPREADS = ("sequences", "models", "rows")


def _facts(choice: Json) -> Table:
    """Where the pages came from and where the time went."""
    shown = table("", "")
    kv = choice["kv"]
    if "choices" in kv:
        again = f"; sent again {kv['resent']} times, {kv['preemptions']} preemptions"
        shown.add_row("keys and values", _counts(kv["choices"]) + again)
    else:
        partly = _counts(kv["partly_found"])
        pages = f"{_counts(kv['found'])} found; {'' if partly == 'none' else partly + ' partly found; '}"
        pages += f"{kv['computed']} computed"
        if kv["preemptions"]:
            pages += f", {kv['recomputed']} of them again after {kv['preemptions']} preemptions"
        shown.add_row(f"pages of {kv['page_tokens']} tokens", pages)
    if "speculation" in choice:
        drafted = choice["speculation"]
        relaxed = f", {drafted['relaxed']} in place of the model's own" if "relaxed" in drafted else ""
        shown.add_row("speculation", f"{drafted['accepted']} of {drafted['drafted']} drafted tokens accepted{relaxed}")
    if "assembly" in choice:
        told = choice["assembly"]
        costs = [f"{one['model']} {_cost(one)}" for one in told["candidates"]]
        shown.add_row("assembly", f"{told['served']} answered for {told['asked']}; expected: {', '.join(costs)}")
    shown.add_row("milliseconds", ", ".join(f"{stage} {MS * took:.1f}" for stage, took in choice["seconds"].items()))
    return shown


def _cost(candidate: Json) -> str:
    """What a chain was expected to take, and what it was judged to lose."""
    took = candidate["seconds"]
    lost = f" ({candidate['delta_loss']:+.4f} nats)" if candidate["delta_loss"] else ""
    return ("out of reach" if took is None else f"{MS * took:.1f} ms") + lost


def explained_model(told: Explanation) -> list[RenderableType]:
    """A model's parts, cuts and near-duplicates for people."""
    base = f", made from {told.base}" if told.base is not None else ""
    own = f"{format_bytes(told.own_bytes)} of {format_bytes(told.nbytes)} in blocks that no other model has"
    stored = "" if told.stored_own_bytes is None else f"; removing it would free {format_bytes(told.stored_own_bytes)}"
    lines = [f"{told.ref} ({told.family}{base}) {told.version[:SHORT]}", own + stored]
    lines += [f"cannot be served: {reason}" for reason in told.unservable]
    parts = table("part", "kind", "block", "bytes", "also in", "attached", numbers=("bytes",))
    for part in told.parts:
        block = part.block
        hung = [f"{a.kind} {a.id[:SHORT]} ({format_bytes(a.nbytes)}; {_also(a.others)})" for a in part.attachments]
        cells = part.name, block.kind, block.id[:SHORT], format_bytes(block.nbytes), _also(block.others)
        parts.add_row(*cells, "\n".join(hung))
    shown: list[RenderableType] = ["\n".join(lines), parts]
    if told.segments:
        cuts = table("segment", "parts", "blocks", "bytes", "also runs", numbers=("blocks", "bytes"))
        for cut in told.segments:
            run = cut.first if cut.first == cut.last else f"{cut.first} .. {cut.last}"
            cuts.add_row(cut.id, run, str(cut.blocks), format_bytes(cut.nbytes), _also(cut.others))
        shown += ["", cuts]
    if told.substitutions:
        swaps = table("substituted", "by the block of", "costs", "with those above", "allowed (nats per token)")
        for swap in told.substitutions:
            costs = (f"{swap[name]:.4f}" for name in ("delta_loss", "total_delta_loss", "budget"))
            swaps.add_row(swap["part"], swap["source"] or "another model", *costs)
        shown += ["", swaps]
    if told.near:
        like = table(
            "nearly equal", "block", "bytes", "to that of", "block there", "cosine", numbers=("bytes", "cosine")
        )
        for near in told.near:
            there = str(near.model), near.other_block[:SHORT], f"{near.cosine:.4f}"
            like.add_row(near.part, near.block[:SHORT], format_bytes(near.nbytes), *there)
        shown += ["", like, "Candidates only: a cosine does not tell what a swap would cost. Measure it first."]
    return shown


def _also(others: Others) -> str:
    """Some of the models, and how many more there are."""
    named = [str(ref) for ref in others.named[:NAMES]]
    more = len(others.named) - len(named) + others.hidden
    if not named:
        return f"{more} more" if more else "no other"
    return ", ".join(named) + (f" and {more} more" if more else "")
