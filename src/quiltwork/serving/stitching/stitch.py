"""The lower layers of one model under the upper layers of another, joined by a trained linear map (BlockLLM)

Recipe: hidden pairs of both models at the cut, ridge least squares, then AdamW on half cross-entropy and half
divergence from the larger of the two. All else stays as it was, so a stitched chain shares both parents' blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.progress import Say
from quiltwork.core.servable import Json
from quiltwork.serving.stitching.chains import LowRankUpdate, PlainChain, PlainLink, read_chain
from quiltwork.serving.stitching.distil import Recipe, Scores, Trained, require_finite, score, train
from quiltwork.serving.stitching.forward import run
from quiltwork.serving.stitching.least_squares import ridge
from quiltwork.serving.stitching.parts import (
    called,
    carried_files,
    new_stitch,
    owner,
    put_parts,
    require_readable,
    stitched_config,
)
from quiltwork.serving.stitching.text import Splits, codec_of, require_one_tokenizer, split_text
from quiltwork.zoo.derived import STITCHED, Derived, register, require_free
from quiltwork.zoo.types import Model
from quiltwork.zoo.zoo import Zoo

STARTS = ("ridge", "random")
PAIR_TOKENS = 1 << 16
"""Tokens whose hidden states the least squares are fitted to, at most."""


@dataclass(frozen=True)
class Cut:
    """Where two chains are joined."""

    below: int
    """Layers of the lower model that are kept, from the bottom: 0 to ``below - 1``."""
    above: int
    """Layer of the upper model that comes next."""


@dataclass(frozen=True)
class CutReport:
    """One cut, trained and measured."""

    cut: Cut
    trained: Trained
    test: Scores
    """On the test text; agreement and divergence are with the larger parent."""
    cost: float
    """Parameters per token, as a share of the larger parent's."""
    qualifies: bool
    """Whether its test loss is not worse than both parents'."""


@dataclass(frozen=True)
class StitchReport:
    """What stitching two models gave."""

    parents: Mapping[str, Scores]
    """Both parents on the test text, the lower one first."""
    cuts: tuple[CutReport, ...]
    model: Model | None
    """What was registered: the qualifying cut that was best on the validation text; None where there is none."""
    registered: Cut | None
    test_tokens: int


def stitch(
    zoo: Zoo,
    lower: ModelRef | str,
    upper: ModelRef | str,
    *,
    at: str,
    text: str,
    recipe: Recipe,
    say: Say,
    name: str | None = None,
    lora: int = 0,
    start: str = "ridge",
    replace_model: bool = False,
    where: str = "text",
) -> StitchReport:
    """Stitch two models at one or at every cut; register the best that is not worse than both parents, or nothing.

    at : ``I`` or ``I:J`` (the first I layers of ``lower`` below layer J of ``upper``; J is at the same relative depth
        where not given) or ``all``.
    text : what to train, validate and test on; it is split once, in that order.
    lora : rank of a LoRA trained on the first attention above the stitch; 0 for none.
    start : ``ridge`` (least squares) or ``random``, to see what the former is worth.

    Raises BadInputError where ``at`` names no cut, the tokenizers differ, the text is too short or a parent's loss is
    no number, UnsupportedError for what cannot be trained through, ConflictError where the name is taken.
    """
    if start not in STARTS:
        raise BadInputError(f"{start!r} is not one of {', '.join(STARTS)}", where="start")
    if lora < 0:
        raise BadInputError(f"{lora} is negative", where="lora")
    chains = [zoo.chain(ref) for ref in (lower, upper)]
    cuts = read_cuts(at, *(sum(part.block.kind == "attn" for part in chain.links) for chain in chains))
    models = [chain.model for chain in chains]
    codecs = [codec_of(zoo, model) for model in models]
    require_one_tokenizer(models[0], models[1], codecs[0], codecs[1])
    ref = called(name, f"stitch-{models[0].ref.name}-{models[1].ref.name}-{at.replace(':', '-')}", owner(*models))
    require_free(zoo, ref, replace=replace_model)
    splits = split_text(text, codecs[0], window=recipe.window, where=where)
    require_readable(splits, models)
    device = torch.device(recipe.device)
    a, b = (read_chain(zoo, chain, device) for chain in chains)
    if a.vocab_size != b.vocab_size:
        raise BadInputError(
            f"their vocabularies differ ({a.vocab_size} and {b.vocab_size} rows)",
            where=f"{models[0].ref} and {models[1].ref}",
        )
    teacher = a if a.parameters > b.parameters else b
    tests = {
        str(model.ref): score(chain, teacher, splits.test, splits.prefix, recipe)
        for model, chain in zip(models, (a, b), strict=True)
    }
    for parent, scores in tests.items():
        require_finite(parent, scores)
    worst = max(scores.loss for scores in tests.values())
    made: list[tuple[CutReport, PlainChain]] = []
    for number, cut in enumerate(cuts, 1):
        say(f"cut {cut.below}:{cut.above} ({number} of {len(cuts)})")
        generator = torch.Generator().manual_seed(recipe.seed)
        chain = _join(a, b, cut, splits, recipe, start, lora, generator)
        trained = train(chain, teacher, splits, recipe, say, generator)
        test = score(chain, teacher, splits.test, splits.prefix, recipe)
        cost = chain.parameters / max(a.parameters, b.parameters)
        made.append((CutReport(cut, trained, test, cost, test.loss <= worst), chain))
    reports = tuple(report for report, _ in made)
    nothing = StitchReport(tests, reports, None, None, splits.predicted(splits.test))
    good = [item for item in made if item[0].qualifies]
    if not good:
        return nothing
    report, chain = min(good, key=lambda item: item[0].trained.validation.loss)
    with zoo.adding() as session:
        model = register(
            session,
            Derived(
                ref=ref,
                family=STITCHED,
                parts=put_parts(session, chain),
                config=stitched_config(models),
                files=carried_files(models[0]),
                measured=_measured(report, tests, splits, recipe, lora, models),
                notes=(_note(report, models, tests),),
            ),
            replace=replace_model,
        )
    return replace(nothing, model=model, registered=report.cut)


def read_cuts(at: str, lower_layers: int, upper_layers: int) -> list[Cut]:
    """The cuts that ``--at`` names. Raises BadInputError where it names none."""
    if at == "all":
        if lower_layers < 2:
            raise BadInputError("the lower model has only one layer: there is no cut inside it", where="at")
        return [Cut(i, _matching(i, lower_layers, upper_layers)) for i in range(1, lower_layers)]
    below, colon, above = at.partition(":")
    if not below.isdecimal() or (colon and not above.isdecimal()):
        raise BadInputError(f"{at!r} is not a cut", where="at", hint="LAYERS, LAYERS:LAYER, or all")
    i = int(below)
    if not 1 <= i <= lower_layers:
        raise BadInputError(f"the lower model has {lower_layers} layers: cannot keep {i}", where="at")
    j = int(above) if colon else _matching(i, lower_layers, upper_layers)
    if not 0 <= j < upper_layers:
        raise BadInputError(f"the upper model has layers 0 to {upper_layers - 1}: no layer {j}", where="at")
    return [Cut(i, j)]


def _matching(below: int, lower_layers: int, upper_layers: int) -> int:
    """The layer at the same relative depth; at least one layer stays above the stitch."""
    return min(round(below * upper_layers / lower_layers), upper_layers - 1)


def _join(
    a: PlainChain,
    b: PlainChain,
    cut: Cut,
    splits: Splits,
    recipe: Recipe,
    start: str,
    lora: int,
    generator: torch.Generator,
) -> PlainChain:
    """The chain of a cut, with a stitch that wants gradients."""
    below = [a.embed, *(link for layer in a.layers[: cut.below] for link in layer)]
    matching = [b.embed, *(link for layer in b.layers[: cut.above] for link in layer)]
    if start == "ridge":
        weight, bias = ridge(hidden_pairs(below, matching, splits.train, recipe))
    else:
        into, out = (int(chain.embed.arch["hidden_size"]) for chain in (a, b))
        weight = torch.randn(out, into, generator=generator).to(recipe.device) * into**-0.5
        bias = weight.new_zeros(out)
    first, *rest = b.layers[cut.above :]
    link = new_stitch(weight, bias)
    if lora:
        first = tuple(_with_lora(one, lora, generator) if one.kind == "attn" else one for one in first)
    return PlainChain(a.embed, (*a.layers[: cut.below], (link, *first), *rest), b.tail)


@torch.no_grad()
def hidden_pairs(
    lower: Sequence[PlainLink], upper: Sequence[PlainLink], windows: Tensor, recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states (n, d_a) and (n, d_b) of the same tokens after two runs of links."""
    most = max(1, PAIR_TOKENS // windows.shape[1])
    for batch in torch.split(windows[:most], recipe.batch):
        ids = batch.to(recipe.device)
        yield run(lower, ids).flatten(0, 1), run(upper, ids).flatten(0, 1)


def _with_lora(link: PlainLink, rank: int, generator: torch.Generator) -> PlainLink:
    """A copy of an attention link with a LoRA on its projections that changes nothing yet."""
    if link.source is not None and link.source.attachments:
        raise BadInputError(
            "carries an adapter: a LoRA cannot be trained on top of it", where=f"lora: {link.source.name}"
        )
    updates = {}
    for role in (name.removesuffix(".weight") for name in link.tensors if name.endswith("_proj.weight")):
        weight = link.tensors[f"{role}.weight"]
        out, into = weight.shape[::-1] if link.arch.get("layout") == "conv1d" else weight.shape
        down = (torch.randn(rank, into, generator=generator) * into**-0.5).to(weight.device)
        updates[role] = LowRankUpdate(down.requires_grad_(), weight.new_zeros(out, rank).requires_grad_())
    return PlainLink(link.kind, link.arch, link.tensors, link.source, low_rank=updates)


def _measured(
    report: CutReport,
    tests: Mapping[str, Scores],
    splits: Splits,
    recipe: Recipe,
    lora: int,
    models: Sequence[Model],
) -> dict[str, Json]:
    return {
        "how": "stitch",
        "loss": report.test.loss,
        "parents": {name: scores.loss for name, scores in tests.items()},
        "parent_versions": {str(model.ref): model.version for model in models},
        "agreement": report.test.agreement,
        "cost": report.cost,
        "validation_loss": report.trained.validation.loss,
        "test_tokens": splits.predicted(splits.test),
        "text_sha256": splits.digest,
        "layers_below": report.cut.below,
        "first_layer_above": report.cut.above,
        "lora": lora,
        "steps": report.trained.steps,
        "seed": recipe.seed,
    }


def _note(report: CutReport, models: Sequence[Model], tests: Mapping[str, Scores]) -> str:
    beside = ", ".join(f"{name} {scores.loss:.3f}" for name, scores in tests.items())
    return (
        f"stitched: layers 0 to {report.cut.below - 1} of {models[0].ref}, then {models[1].ref} from layer "
        f"{report.cut.above}; held-out loss {report.test.loss:.3f} nats per token ({beside})"
    )
