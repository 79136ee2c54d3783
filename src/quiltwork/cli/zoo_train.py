"""``quiltwork zoo stitch`` and ``zoo prune``: models made out of those in a zoo, trained and measured on a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError
from quiltwork.core.names import parse_ref
from quiltwork.zoo import Zoo

if TYPE_CHECKING:
    from quiltwork.serving.stitching import PruneReport, Scores, StitchReport

DEFAULT = Path("zoo")
ZooOption = Annotated[
    Path,
    typer.Option("--zoo", envvar="QUILTWORK_ZOO", help="The zoo's folder; $QUILTWORK_ZOO, else ./zoo."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TextOption = Annotated[
    Path, typer.Option("--text", help="What to learn from; its last tenth is only measured on, the one before decides.")
]
NameOption = Annotated[str | None, typer.Option(help="What to call the new model.")]
StepsOption = Annotated[int, typer.Option(help="Training steps, at most; fewer where the validation text says so.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda ...")]
BatchOption = Annotated[int, typer.Option(help="Windows of text per step.")]
WindowOption = Annotated[int, typer.Option(help="Tokens per window.")]
RateOption = Annotated[float, typer.Option(help="Learning rate at the start.")]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Take the place of another model of that name.")]


def stitch(
    lower: Annotated[str, typer.Argument(help="The model whose lower layers are taken.")],
    upper: Annotated[str, typer.Argument(help="The model whose upper layers and head are taken.")],
    at: Annotated[
        str, typer.Option(help="I or I:J: the first I layers of LOWER, then UPPER from layer J; all: every I.")
    ],
    text: TextOption,
    name: NameOption = None,
    steps: StepsOption = 500,
    lora: Annotated[int, typer.Option(help="Rank of a LoRA on the first attention above the stitch; 0: none.")] = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 8,
    window: WindowOption = 128,
    rate: RateOption = 3e-3,
    replace: ReplaceOption = False,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Join two models by a trained linear map. Exits with 1 where the result is worse than both."""
    from quiltwork.serving import stitching

    recipe = stitching.Recipe(steps=steps, seed=seed, device=device, batch=batch, window=window, rate=rate)
    with Zoo(zoo, create=False) as opened, narration("stitching") as say:
        report = stitching.stitch(
            opened,
            parse_ref(lower),
            parse_ref(upper),
            at=at,
            text=read_text(text),
            recipe=recipe,
            say=say,
            name=name,
            lora=lora,
            replace_model=replace,
            where=str(text),
        )
    _show_stitch(report, json)
    if report.model is None:
        typer.echo("quiltwork: worse than both models at every cut that was tried: not registered", err=True)
        raise typer.Exit(1)


def prune(
    model: str,
    text: TextOption,
    keep_layers: Annotated[str | None, typer.Option(help="Layers that stay, as in 0,1,4.")] = None,
    ffn: Annotated[float | None, typer.Option(help="Share of each feed-forward block's neurons that stays.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="No stitch where layers are left out.")] = False,
    tune_layers: Annotated[
        bool, typer.Option("--tune-layers", help="Train the kept layers too; nothing is then shared with MODEL.")
    ] = False,
    name: NameOption = None,
    steps: StepsOption = 500,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    batch: BatchOption = 8,
    window: WindowOption = 128,
    rate: RateOption = 3e-3,
    replace: ReplaceOption = False,
    zoo: ZooOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Make a smaller model that agrees with MODEL as far as it can: a draft for it."""
    from dataclasses import replace as changed

    from quiltwork.serving import stitching

    smaller = stitching.Smaller(_layers(keep_layers), ffn, bare, tune_layers)
    recipe = changed(
        stitching.DISTILLATION, steps=steps, seed=seed, device=device, batch=batch, window=window, rate=rate
    )
    with Zoo(zoo, create=False) as opened, narration(f"pruning {model}") as say:
        report = stitching.prune(
            opened,
            parse_ref(model),
            smaller,
            text=read_text(text),
            recipe=recipe,
            say=say,
            name=name,
            replace_model=replace,
            where=str(text),
        )
    _show_prune(report, json)


def _show_stitch(report: StitchReport, json: bool) -> None:
    shown = table("", "start", "validation", "test loss", "agreement", "cost", "steps", title=_on(report.test_tokens))
    for parent, scores in report.parents.items():
        shown.add_row(parent, "", "", f"{scores.loss:.3f}", f"{scores.agreement:.1%}", "", "")
    for one in report.cuts:
        trained = one.trained
        mark = "" if one.qualifies else " (worse than both)"
        shown.add_row(
            f"{one.cut.below}:{one.cut.above}{mark}",
            f"{trained.start.loss:.3f}",
            f"{trained.validation.loss:.3f}",
            f"{one.test.loss:.3f}",
            f"{one.test.agreement:.1%}",
            f"{one.cost:.0%}",
            str(trained.steps),
        )
    document: dict[str, Any] = {
        "model": None if report.model is None else str(report.model.ref),
        "version": None if report.model is None else report.model.version,
        "parents": {name: _scores(scores) for name, scores in report.parents.items()},
        "test_tokens": report.test_tokens,
        "cuts": [
            {
                "layers_below": one.cut.below,
                "first_layer_above": one.cut.above,
                "start": _scores(one.trained.start),
                "validation": _scores(one.trained.validation),
                "test": _scores(one.test),
                "cost": one.cost,
                "steps": one.trained.steps,
                "qualifies": one.qualifies,
                "registered": one.cut == report.registered,
            }
            for one in report.cuts
        ],
    }
    if report.model is not None:
        shown.caption = f"registered {report.model.ref}"
    emit(document, json, shown)


def _show_prune(report: PruneReport, json: bool) -> None:
    shown = table("", "test loss", "agreement", "cost", "steps", title=_on(report.test_tokens))
    assert report.model.base is not None
    shown.add_row(str(report.model.base), f"{report.original.loss:.3f}", "", "", "")
    shown.add_row(
        str(report.model.ref),
        f"{report.test.loss:.3f}",
        f"{report.test.agreement:.1%}",
        f"{report.cost:.0%}",
        str(report.trained.steps),
    )
    document = {
        "model": str(report.model.ref),
        "version": report.model.version,
        "base": str(report.model.base),
        "original": _scores(report.original),
        "start": _scores(report.trained.start),
        "validation": _scores(report.trained.validation),
        "test": _scores(report.test),
        "cost": report.cost,
        "steps": report.trained.steps,
        "test_tokens": report.test_tokens,
    }
    emit(document, json, shown)


def _on(tokens: int) -> str:
    return f"nats per token on {tokens} held-out tokens"


def _scores(scores: Scores) -> dict[str, float]:
    return {"loss": scores.loss, "divergence": scores.divergence, "agreement": scores.agreement}


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise BadInputError(f"{text!r} is not a list of layers", where="--keep-layers", hint="as in 0,1,4")
    return tuple(int(word) for word in words)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise BadInputError(what, where=str(path)) from error
