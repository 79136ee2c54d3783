"""``quiltwork moe calibrate``: how few experts an existing checkpoint needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError, QuiltworkError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from quiltwork.moe.checkpoints.calibrating import Calibration
    from quiltwork.moe.checkpoints.held_out import Part

_MOST_SHOWN = 16
_PERCENT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*%\s*")


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a checkpoint: Mixtral, Qwen-MoE, OLMoE, or one of ours.")],
    corpus: Annotated[Path, typer.Option(help="A text that the model was not trained on, in UTF-8.")],
    max_loss: Annotated[str, typer.Option(help="How much the loss may rise, as in 1%.")] = "1%",
    out: Annotated[
        Path | None, typer.Option(help="The file of the thresholds; MODEL.thresholds.json if not given.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Folder to write the model to, its thresholds in it.")] = None,
    most: Annotated[int | None, typer.Option(help="Experts of a token at most; the model's own if not given.")] = None,
    reading: Annotated[str, typer.Option(help="softmax, or pair: what the gap between two experts is.")] = "softmax",
    method: Annotated[str, typer.Option(help="common or greedy: how the layers are searched.")] = "common",
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with one, or byte; the model's own if not given.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a window.")] = 256,
    tokens: Annotated[int, typer.Option(help="Tokens of each half of the corpus at most.")] = 16_384,
    batch: Annotated[int, typer.Option(help="Windows that are run at once.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find a threshold for each layer with which the model takes the fewest experts while its loss rises by no more
    than it may. The first half of the corpus is chosen by, the second verified on; where the loss rises more there,
    nothing is written and this exits with 1."""
    from quiltwork.core.disk import require_place
    from quiltwork.moe import load_moe, save_moe
    from quiltwork.moe.checkpoints.calibrating import calibrate as find
    from quiltwork.moe.checkpoints.fresh_folder import require_free
    from quiltwork.moe.checkpoints.held_out import encoder_of, held_out

    rise = percent(max_loss)
    file = out or _beside(model)
    if file.is_dir():
        raise BadInputError("is a folder", where=f"--out: {file}")
    if out is not None and not file.absolute().parent.is_dir():
        raise BadInputError(f"there is no folder {file.parent}", where=f"--out: {file}")
    require_place(file)
    if save is not None:
        require_free(save)
    with narration("calibrating") as say:
        say(f"reading {model}")
        loaded = load_moe(model)
        config = loaded.config
        encode = encoder_of(tokenizer or model, config.vocab_size)
        longest = getattr(config, "max_position_embeddings", length)
        parts = held_out(corpus, encode, length=min(length, longest), tokens=tokens)
        found = find(loaded, parts, rise, most=most, reading=reading, method=method, batch=batch, say=say)
        if found.holds:
            found.thresholds.write(file)
            if save is not None:
                save_moe(loaded, save, tokenizer=model)
    written = str(file) if found.holds else None
    document = {"model": str(model), "method": method, "thresholds": written, **found.thresholds.figures}
    document["saved"] = str(save) if found.holds and save is not None else None
    emit(document, json, *_shown(found, parts, written))
    if not found.holds:
        what = f"the loss rises by {found.verified.rise:.2%} on the verification part, and nothing was written"
        raise QuiltworkError(what, where=str(corpus), hint="more --tokens, or a higher --max-loss")


def _beside(model: Path) -> Path:
    named = model.absolute()
    if not named.name:
        raise BadInputError("is no folder of a checkpoint", where=str(model))
    return named.with_name(f"{named.name}.thresholds.json")


def percent(text: str) -> float:
    """``1%`` as 0.01. Raises BadInputError for anything else, or more than 100 %."""
    match = _PERCENT.fullmatch(text)
    if match is None or float(match[1]) > 100:
        raise BadInputError(f"{text[:40]!r} is not 0% to 100%", where="--max-loss", hint="for example 1%")
    return float(match[1]) / 100


def _shown(found: Calibration, parts: tuple[Part, Part], written: str | None) -> list[RenderableType]:
    numbers = ("experts per token", "loss", "rise", "MFLOPs per token", "of all")
    curve = table(*numbers, "", numbers=numbers, title=f"Calibration part: {parts[0].source}")
    rows = list(zip(found.frontier, found.flops, strict=True))
    step = max(1, -(-len(rows) // _MOST_SHOWN))
    for place, (point, flops) in enumerate(rows):
        chosen = point == found.chosen
        if place % step and not chosen and place != len(rows) - 1:
            continue
        curve.add_row(f"{point.mean:.3f}", f"{point.loss:.4f}", f"{point.rise:+.2%}", f"{flops / 1e6:.3g}",
                      f"{flops / found.full_flops:.1%}", "chosen" if chosen else "")  # fmt: skip
    layers = table("layer", "threshold", "experts per token", numbers=("threshold", "experts per token"))
    pairs = zip(found.thresholds.layers.items(), found.chosen.experts, strict=True)
    for (index, threshold), experts in pairs:
        layers.add_row(str(index), f"{threshold:.4f}", f"{experts:.3f}")
    held = "holds" if found.holds else "does not hold"
    verified = (
        f"Verification part: {parts[1].source}: {found.verified.mean:.3f} experts per token, loss "
        f"{found.verified.loss:.4f}, {found.verified.rise:+.2%}: the bound of {found.most_rise:.2%} {held}"
    )
    return [curve, "", layers, "", verified, *([f"written to {written}"] if written else [])]
