"""Smaller surrogates of a model: layers left out, feed-forward neurons left out, then distilled from the original.

A surrogate shares every block it did not have to change, so its lower layers' keys and values are the original's too.
It is meant as a draft (BlockLLM, speculation with surrogates); its figures on held-out text are stored with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.progress import Say
from quiltwork.core.servable import Json
from quiltwork.serving.stitching.chains import PlainChain, PlainLink, read_chain
from quiltwork.serving.stitching.distil import Recipe, Scores, Trained, require_finite, score, train
from quiltwork.serving.stitching.forward import inner, run
from quiltwork.serving.stitching.least_squares import ridge
from quiltwork.serving.stitching.parts import (
    called,
    carried_files,
    new_stitch,
    put_parts,
    require_readable,
    round_to_stored,
    stitched_config,
)
from quiltwork.serving.stitching.stitch import PAIR_TOKENS, hidden_pairs
from quiltwork.serving.stitching.text import Splits, codec_of, split_text
from quiltwork.zoo.derived import STITCHED, Derived, register, require_free
from quiltwork.zoo.families import FAMILIES
from quiltwork.zoo.types import Model
from quiltwork.zoo.zoo import Zoo

DISTILLATION = Recipe(ce=0.0, kl=1.0)
"""A draft is worth what it agrees with the original, so only the divergence from it is minimised."""


@dataclass(frozen=True)
class Smaller:
    """What is left out. Raises BadInputError where nothing is, or all."""

    keep_layers: tuple[int, ...] | None = None
    """Layers that stay, in rising order; None for all."""
    ffn: float | None = None
    """Share of each kept feed-forward block's neurons that stays; None for all."""
    bare: bool = False
    """Leave a gap between layers as it is, without a stitch; the result is then an ordinary model."""
    tune_layers: bool = False
    """Train the kept layers too. Then they are shared with nobody."""

    def __post_init__(self) -> None:
        if self.keep_layers is None and self.ffn is None:
            raise BadInputError("leaves nothing out", where="prune", hint="--keep-layers, --ffn, or both")
        if self.ffn is not None and not 0 < self.ffn < 1:
            raise BadInputError(f"{self.ffn} is not between 0 and 1", where="ffn")
        kept = self.keep_layers
        if kept is not None and (not kept or list(kept) != sorted(set(kept)) or kept[0] < 0):
            raise BadInputError("must be layers in rising order, each once", where="keep-layers")


@dataclass(frozen=True)
class PruneReport:
    """A surrogate, trained, measured and registered."""

    model: Model
    trained: Trained
    original: Scores
    """The original on the test text."""
    test: Scores
    """The surrogate there; agreement and divergence are with the original."""
    cost: float
    """Parameters per token, as a share of the original's."""
    test_tokens: int


def prune(
    zoo: Zoo,
    ref: ModelRef | str,
    smaller: Smaller,
    *,
    text: str,
    recipe: Recipe,
    say: Say,
    name: str | None = None,
    replace_model: bool = False,
    where: str = "text",
) -> PruneReport:
    """Make a smaller chain of a model, distil it on a text, and store it as a model with its measured figures.

    Raises BadInputError for layers that are not there, a text that is too short or a loss that is no number,
    UnsupportedError for what cannot be trained through, ConflictError where the name is taken.
    """
    chain = zoo.chain(ref)
    model = chain.model
    target = called(name, _default_name(model, smaller), model.ref.tenant)
    require_free(zoo, target, replace=replace_model)
    splits = split_text(text, codec_of(zoo, model), window=recipe.window, where=where)
    require_readable(splits, [model])
    original = read_chain(zoo, chain, torch.device(recipe.device))
    exact = score(original, original, splits.test, splits.prefix, recipe)
    require_finite(str(model.ref), exact)
    student = make_smaller(original, smaller, splits, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    trained = train(student, original, splits, recipe, say, generator)
    round_to_stored(student)
    test = score(student, original, splits.test, splits.prefix, recipe)
    require_finite(str(target), test)
    report = PruneReport(
        model,
        trained,
        exact,
        test,
        student.parameters / original.parameters,
        splits.predicted(splits.test),
    )
    stitched = model.family == STITCHED or any(link.kind == "stitch" for link in student.links)
    with zoo.adding() as session:
        stored = register(
            session,
            Derived(
                ref=target,
                family=STITCHED if stitched else model.family,
                parts=put_parts(session, student),
                config=stitched_config([model]) if stitched else _config(model, student),
                files=carried_files(model),
                base=model.ref,
                measured=_measured(report, smaller, splits, recipe),
                notes=(_note(report, smaller),),
            ),
            replace=replace_model,
        )
    return replace(report, model=stored)


def make_smaller(original: PlainChain, smaller: Smaller, splits: Splits, recipe: Recipe) -> PlainChain:
    """The surrogate before any training: its stitches fitted by least squares, its neurons chosen.

    Raises BadInputError for a layer that is not there, or where every layer is kept whole.
    """
    count = len(original.layers)
    kept = tuple(range(count)) if smaller.keep_layers is None else smaller.keep_layers
    if kept[-1] >= count:
        raise BadInputError(f"the model has layers 0 to {count - 1}: no layer {kept[-1]}", where="keep-layers")
    if len(kept) == count and smaller.ffn is None:
        raise BadInputError("keeps every layer", where="keep-layers")
    layers: list[tuple[PlainLink, ...]] = []
    expected = 0
    for index in kept:
        bridge = [] if index == expected else _bridge(original, layers, index, smaller, splits, recipe)
        layer = original.layers[index]
        if smaller.ffn is not None:
            below = [link for one in original.layers[:index] for link in one]
            layer = _fewer_neurons(layer, [original.embed, *below], smaller.ffn, splits, recipe)
        if smaller.tune_layers:
            layer = tuple(_tuned(link) for link in layer)
        layers.append((*bridge, *layer))
        expected = index + 1
    top = [] if expected == count else _bridge(original, layers, count, smaller, splits, recipe)
    return PlainChain(original.embed, tuple(layers), (*top, *original.tail))


def importance(activations: Tensor, down: Tensor) -> Tensor:
    """(neurons,): mean size of what a neuron puts out, times the length of the row that carries it on.

    activations : (tokens, neurons); down : (d, neurons).
    """
    lengths: Tensor = torch.linalg.vector_norm(down, dim=0)
    return activations.abs().mean(0) * lengths


def _bridge(
    original: PlainChain,
    layers: Sequence[tuple[PlainLink, ...]],
    index: int,
    smaller: Smaller,
    splits: Splits,
    recipe: Recipe,
) -> list[PlainLink]:
    """A stitch from what the surrogate has so far to what the original hands to layer ``index``."""
    if smaller.bare:
        return []
    here = [original.embed, *(link for layer in layers for link in layer)]
    there = [original.embed, *(link for layer in original.layers[:index] for link in layer)]
    return [new_stitch(*ridge(hidden_pairs(here, there, splits.train, recipe)))]


@torch.no_grad()
def _fewer_neurons(
    layer: Sequence[PlainLink], below: Sequence[PlainLink], share: float, splits: Splits, recipe: Recipe
) -> tuple[PlainLink, ...]:
    """A layer whose feed-forward blocks keep their most important neurons; those want gradients."""
    made: list[PlainLink] = []
    for link in layer:
        if link.kind != "ffn":
            made.append(link)
            continue
        flipped = link.arch.get("layout") == "conv1d"
        down = link.tensors["down_proj.weight"].t() if flipped else link.tensors["down_proj.weight"]
        total = down.new_zeros(down.shape[1])
        most = max(1, PAIR_TOKENS // splits.train.shape[1])
        for batch in torch.split(splits.train[:most], recipe.batch):
            reached = run([*below, *made], batch.to(recipe.device))
            total += importance(inner(link, reached).flatten(0, 1), down) * batch.shape[0]
        keep = max(1, round(share * down.shape[1]))
        chosen = total.topk(keep).indices.sort().values
        made.append(_slice(link, chosen, flipped))
    return tuple(made)


def _slice(link: PlainLink, chosen: Tensor, flipped: bool) -> PlainLink:
    tensors = {}
    for role, tensor in link.tensors.items():
        matrix = role.endswith("_proj.weight")
        if role.startswith(("up_proj", "gate_proj")):
            kept = tensor[:, chosen] if matrix and flipped else tensor[chosen]
        elif role == "down_proj.weight":
            kept = tensor[chosen] if flipped else tensor[:, chosen]
        else:
            kept = tensor
        tensors[role] = kept.clone().requires_grad_()
    arch = {**link.arch, "intermediate_size": len(chosen)}
    return PlainLink(link.kind, arch, tensors, link.source, changed=True)


def _tuned(link: PlainLink) -> PlainLink:
    if link.changed:
        return link
    tensors = {role: tensor.clone().requires_grad_() for role, tensor in link.tensors.items()}
    return PlainLink(link.kind, link.arch, tensors, link.source, changed=True)


def _default_name(model: Model, smaller: Smaller) -> str:
    kept = [] if smaller.keep_layers is None else ["keep", *map(str, smaller.keep_layers)]
    neurons = [] if smaller.ffn is None else [f"ffn-{smaller.ffn:g}"]
    return "-".join([model.ref.name, *kept, *neurons])


def _config(model: Model, student: PlainChain) -> dict[str, Json]:
    """The original's configuration with the surrogate's sizes."""
    family = FAMILIES[model.family]
    attention = [link for layer in student.layers for link in layer if link.kind == "attn"]
    neurons = next(link.arch["intermediate_size"] for layer in student.layers for link in layer if link.kind == "ffn")
    sizes: dict[str, Json] = {
        family.renamed.get("num_hidden_layers", "num_hidden_layers"): len(attention),
        family.renamed.get("intermediate_size", "intermediate_size"): neurons,
    }
    windows = [link.arch["sliding_window"] for link in attention]
    if "layer_types" in model.config or ("max_window_layers" in family.defaults and any(windows)):
        sizes["layer_types"] = ["full_attention" if w is None else "sliding_attention" for w in windows]
    return {**model.config, **sizes}


def _measured(report: PruneReport, smaller: Smaller, splits: Splits, recipe: Recipe) -> Mapping[str, Json]:
    original = str(report.model.ref)
    return {
        "how": "prune",
        "loss": report.test.loss,
        "parents": {original: report.original.loss},
        "parent_versions": {original: report.model.version},
        "agreement": report.test.agreement,
        "divergence": report.test.divergence,
        "cost": report.cost,
        "validation_loss": report.trained.validation.loss,
        "test_tokens": report.test_tokens,
        "text_sha256": splits.digest,
        "keep_layers": None if smaller.keep_layers is None else list(smaller.keep_layers),
        "ffn": smaller.ffn,
        "steps": report.trained.steps,
        "seed": recipe.seed,
    }


def _note(report: PruneReport, smaller: Smaller) -> str:
    kept = "" if smaller.keep_layers is None else f"layers {', '.join(map(str, smaller.keep_layers))}"
    neurons = "" if smaller.ffn is None else f"{smaller.ffn:.0%} of the feed-forward neurons"
    return (
        f"surrogate of {report.model.ref}: {' and '.join(filter(None, (kept, neurons)))}, {report.cost:.0%} of its "
        f"parameters per token; held-out loss {report.test.loss:.3f} nats per token ({report.original.loss:.3f}), "
        f"agreement {report.test.agreement:.1%}"
    )
