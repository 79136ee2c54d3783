"""A trained model reads a text: what each layer spent on each token, and where it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from quiltwork.core.errors import BadInputError
from quiltwork.moe.flops import Flops, forward_flops
from quiltwork.moe.models import Classifier, Model, Outcome, Packed, Translator, moe_layers, pack
from quiltwork.moe.report.figures import Piece
from quiltwork.moe.report.joining import Joiner, Read
from quiltwork.moe.training.tokens import Codec


@dataclass(frozen=True)
class Sample:
    """Tokens to read: of running text a window with what follows it, of a translation the source and the target."""

    ids: Tensor
    """(n,) int64."""
    target: Tensor | None = None
    """(m,) int64: of a translation, between a begin and an end."""
    follows: bool = False
    """Whether it goes on where the sample before it ended."""


@dataclass
class Reading:
    """What was seen so far."""

    most: int
    pieces: list[Piece] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    """(L) of (most + 1,): tokens that took 0, 1 ... experts."""
    load: list[Tensor] = field(default_factory=list)
    """(L) of (E,) assignments."""
    flops: Flops = field(default_factory=lambda: Flops(0, 0, 0, 0))
    flops_most: Flops = field(default_factory=lambda: Flops(0, 0, 0, 0))
    nats: float = 0.0
    told: int = 0
    """Tokens whose loss is in ``nats``."""
    tokens: int = 0
    told_next: float | None = None
    """Loss of the token that comes next, if it goes on."""


@torch.no_grad()
def read(model: Model, codec: Codec, samples: Sequence[Sample], *, most: int, size: int) -> Reading:
    """Let the model read the samples, ``size`` at once. Raises BadInputError for a model without experts."""
    layers = moe_layers(model)
    if not layers:
        raise BadInputError("has no layer of experts", where="model")
    reading = Reading(most)
    reading.shares = [torch.zeros(most + 1, dtype=torch.int64) for _ in layers]
    reading.load = [torch.zeros(layer.experts.count, dtype=torch.int64) for layer in layers]
    device, joiner = next(model.parameters()).device, Joiner(codec)
    for start in range(0, len(samples), size):
        _read(model, joiner, samples[start : start + size], reading, device)
    reading.pieces += joiner.begin()
    return reading


def _read(model: Model, joiner: Joiner, some: Sequence[Sample], reading: Reading, device: torch.device) -> None:
    """One batch."""
    if isinstance(model, Translator):
        targets = [sample.target for sample in some if sample.target is not None]
        source, source_packed = pack([sample.ids for sample in some], device)
        target, packed = pack([one[:-1] for one in targets], device)
        outcome: Outcome = model(source, source_packed, target, packed)
        sides = [(source_packed, [sample.ids for sample in some], None), (packed, targets, targets)]
    elif isinstance(model, Classifier):
        ids, packed = pack([sample.ids for sample in some], device)
        outcome = model(ids, packed)
        sides = [(packed, [sample.ids for sample in some], None)]
    else:
        windows = [sample.ids for sample in some]
        ids, packed = pack([one[:-1] for one in windows], device)
        outcome = model(ids, packed)
        sides = [(packed, windows, windows)]
    taken = [of.routing.experts_per_token().cpu() for of in outcome.routed]
    for at, of in enumerate(outcome.routed):
        found = torch.bincount(taken[at].clamp_max(reading.most), minlength=reading.most + 1)
        reading.shares[at] += found
        reading.load[at] += of.routing.load.cpu()
    losses = _losses(outcome, sides[-1][2], reading)
    everywhere = [side for side, _, _ in sides]
    reading.flops += forward_flops(model, everywhere, [len(of.routing.token) for of in outcome.routed])
    full = [reading.most * of.routing.tokens for of in outcome.routed]
    reading.flops_most += forward_flops(model, everywhere, full)
    reading.tokens += sum(len(side.sequence) for side in everywhere)
    for number, sample in enumerate(some):
        for side, sequences, wanted in sides:
            if not sample.follows:
                reading.pieces += joiner.begin()
                reading.told_next = None
            columns = [taken[at] if of.packed is side else None for at, of in enumerate(outcome.routed)]
            told = None if wanted is None else losses
            reading.pieces += joiner.add(_reads(sequences[number], side, number, columns, told, reading))


def _reads(
    ids: Tensor,
    side: Packed,
    number: int,
    columns: Sequence[Tensor | None],
    losses: Sequence[float] | None,
    reading: Reading,
) -> list[Read]:
    """Tokens of sequence ``number``; a token is told by the one before it."""
    first, length = int(side.lengths[:number].sum()), int(side.lengths[number])
    found = []
    for at, token in enumerate(ids[:length].tolist()):
        taken = tuple(None if of is None else float(of[first + at]) for of in columns)
        found.append(Read(token, taken, reading.told_next))
        reading.told_next = None if losses is None else losses[first + at]
    return found


def _losses(outcome: Outcome, wanted: Sequence[Tensor] | None, reading: Reading) -> list[float]:
    """Of each token of a run, that of telling the next one; none where nothing is told."""
    if wanted is None:
        return []
    goal = torch.cat([one[1:] for one in wanted]).to(outcome.logits.device, torch.int64)
    nats = cross_entropy(outcome.logits.float(), goal, reduction="none").double().cpu()
    reading.nats += float(nats.sum())
    reading.told += len(nats)
    found: list[float] = nats.tolist()
    return found
