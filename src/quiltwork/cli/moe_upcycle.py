"""``quiltwork moe upcycle``: a dense checkpoint made a mixture of experts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json


def upcycle(
    model: Annotated[Path, typer.Argument(help="Folder of a dense checkpoint: llama, mistral, qwen, gpt2, bert ...")],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    experts: Annotated[int, typer.Option(help="Copies of each feed-forward layer.")] = 8,
    gate: Annotated[str, typer.Option(help="adaptive, top1 or top2: how the layers decide from now on.")] = "adaptive",
    threshold: Annotated[float, typer.Option(help="Of the adaptive gate.")] = 0.1,
    weights: Annotated[
        str, typer.Option(help="sum_to_one keeps the outputs; raw, the paper's equation 3, does not.")
    ] = "sum_to_one",
    layers: Annotated[str | None, typer.Option(help="Indices of the layers, as in 1,3,5; all if not given.")] = None,
    noise: Annotated[
        float, typer.Option(help="Added to the experts' weights, as a share of their spread; changes the outputs.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the routers and the noise.")] = 0,
    format: Annotated[str, typer.Option(help="auto, mixtral (refuse what that cannot express) or own.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the feed-forward layers of a dense model into experts behind a fresh router, and save that. Its outputs stay
    what they were; it is written as a Mixtral that any engine loads, or in our own format where it cannot be one."""
    from quiltwork.moe import Adaptive, Gate, TopK, save_moe, sparse_blocks
    from quiltwork.moe import upcycle as make_sparse
    from quiltwork.moe.checkpoints.fresh_folder import require_free
    from quiltwork.moe.weights import WEIGHTS

    gates: dict[str, Gate] = {
        "adaptive": Adaptive(threshold, min(2, max(experts, 1)), weights=weights),
        "top1": TopK(1, weights),
        "top2": TopK(2, weights),
    }
    if gate not in gates:
        raise BadInputError(f"{gate!r} is no gate to begin with", where="--gate", hint=", ".join(gates))
    if weights not in WEIGHTS:
        raise BadInputError(f"{weights!r} is not a kind of weights", where="--weights", hint=", ".join(WEIGHTS))
    if not math.isfinite(threshold):
        raise BadInputError(f"{threshold} is not a number", where="--threshold")
    require_free(out)
    with narration("upcycling") as say:
        say(f"reading {model}")
        made = make_sparse(model, experts, gates[gate], seed, layers=_indices(layers), noise=noise)
        say(f"writing {out}")
        saved = save_moe(made, out, format=format, tokenizer=model)
    blocks = sparse_blocks(made)
    document: dict[str, Json] = {
        "out": str(out),
        "format": saved.format,
        "reason": saved.reason,
        "experts": experts,
        "layers": list(blocks),
        "parameters": sum(parameter.numel() for parameter in made.parameters()),
        "gate": gate,
    }
    shown = table("figure", "value", numbers=("value",))
    shown.add_row("experts in a layer", f"{experts:,}")
    shown.add_row("sparse layers", f"{len(blocks):,}")
    shown.add_row("parameters", f"{document['parameters']:,}")
    why = "" if saved.reason is None else f", not Mixtral's: {saved.reason}"
    emit(document, json, shown, f"written to {out} in the format {saved.format}{why}")


def _indices(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        raise BadInputError(f"{text[:60]!r} are no indices", where="--layers", hint="for example 1,3,5")
    return [int(part) for part in parts]
