"""Training a few new tensors of a chain against a teacher, with a validation text that decides when to stop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say
from quiltwork.serving.stitching.chains import PlainChain
from quiltwork.serving.stitching.forward import run
from quiltwork.serving.stitching.text import Splits

PATIENCE = 4
"""Checks without a better validation value after which training stops."""
CHECKS = 10
"""How often the validation text is looked at."""


@dataclass(frozen=True)
class Recipe:
    """How a chain is trained. Raises BadInputError naming the field that is out of range."""

    steps: int = 500
    seed: int = 0
    device: str = "cpu"
    batch: int = 8
    """Windows per step."""
    window: int = 128
    """Tokens per window."""
    rate: float = 3e-3
    """AdamW's learning rate at the start; it falls to 0 along a half cosine."""
    ce: float = 0.5
    """Weight of the text's own cross-entropy."""
    kl: float = 0.5
    """Weight of the divergence from the teacher."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("seed", 0), ("batch", 1), ("window", 2)):
            if getattr(self, name) < least:
                raise BadInputError(f"{getattr(self, name)} is less than {least}", where=name)
        if not 0 < self.rate < math.inf:
            raise BadInputError(f"{self.rate} is not a positive number", where="rate")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise BadInputError(f"{self.device!r} is not a device", where="device") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BadInputError("no CUDA device here", where="device", hint="use --device cpu")


@dataclass(frozen=True)
class Scores:
    """A chain on a text."""

    loss: float
    """Cross-entropy in nats per token."""
    divergence: float
    """Mean KL(teacher || chain) in nats; 0 for the teacher itself."""
    agreement: float
    """Share of positions where both have the same most likely token."""


@dataclass(frozen=True)
class Trained:
    """How a training went."""

    steps: int
    """Steps after which the tensors were taken: those best on the validation text."""
    start: Scores
    """On the validation text, before the first step."""
    validation: Scores
    """On the validation text, as taken."""
    curve: tuple[tuple[int, float], ...] = field(default=())
    """(steps, what is minimised on the validation text)."""


def train(
    chain: PlainChain, teacher: PlainChain, splits: Splits, recipe: Recipe, say: Say, generator: torch.Generator
) -> Trained:
    """Change the tensors of ``chain`` that want gradients, and leave them as they were best on the validation text.

    The loss is ``ce`` times the cross-entropy plus ``kl`` times KL(teacher || chain); the validation text is judged by
    the same. ``generator`` (CPU) orders the windows.
    """
    tensors = chain.trained()
    start = score(chain, teacher, splits.validation, splits.prefix, recipe)
    if not tensors:
        return Trained(0, start, start, ((0, _minimised(start, recipe)),))
    best, kept, chosen = start, [t.detach().clone() for t in tensors], 0
    curve = [(0, _minimised(start, recipe))]
    optimiser = torch.optim.AdamW(tensors, lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(recipe.steps, 1))
    batches = _batches(splits.train, recipe.batch, generator)
    every, worse = max(1, -(-recipe.steps // CHECKS)), 0
    for step in range(1, recipe.steps + 1):
        optimiser.zero_grad()
        loss = _loss(chain, teacher, next(batches).to(recipe.device), splits.prefix, recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        optimiser.step()
        schedule.step()
        if step % every and step != recipe.steps:
            continue
        scores = score(chain, teacher, splits.validation, splits.prefix, recipe)
        value = _minimised(scores, recipe)
        curve.append((step, value))
        say(f"step {step} of {recipe.steps}, validation loss {scores.loss:.3f}")
        if value < min(v for _, v in curve[:-1]):
            best, kept, chosen, worse = scores, [t.detach().clone() for t in tensors], step, 0
        else:
            worse += 1
            if worse >= PATIENCE:
                break
    with torch.no_grad():
        for tensor, value_kept in zip(tensors, kept, strict=True):
            tensor.copy_(value_kept)
    return Trained(chosen, start, best, tuple(curve))


@torch.no_grad()
def score(chain: PlainChain, teacher: PlainChain, windows: Tensor, prefix: int, recipe: Recipe) -> Scores:
    """A chain's loss on windows (n, tokens), and how far it is from the teacher there."""
    loss = divergence = 0.0
    same = count = 0
    for batch in torch.split(windows, recipe.batch):
        ids = batch.to(recipe.device)
        goal = ids[:, max(prefix, 1) :].flatten()
        ours, theirs = _predictions(chain, teacher, ids, prefix)
        loss += float(F.cross_entropy(ours, goal, reduction="sum"))
        count += goal.numel()
        divergence += float(_divergence(ours, theirs).sum())
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    return Scores(loss / count, divergence / count, same / count)


def require_finite(name: str, scores: Scores) -> None:
    """Raise BadInputError where a chain's loss is no number: nothing can be learnt from it, nor told of it."""
    if not math.isfinite(scores.loss):
        raise BadInputError("its loss on the text is not a number", where=name, hint="are all its weights finite?")


def _minimised(scores: Scores, recipe: Recipe) -> float:
    return recipe.ce * scores.loss + recipe.kl * scores.divergence


def _loss(chain: PlainChain, teacher: PlainChain, ids: Tensor, prefix: int, recipe: Recipe) -> Tensor:
    ours, theirs = _predictions(chain, teacher, ids, prefix)
    goal = ids[:, max(prefix, 1) :].flatten()
    return recipe.ce * F.cross_entropy(ours, goal) + recipe.kl * _divergence(ours, theirs).mean()


def _predictions(chain: PlainChain, teacher: PlainChain, ids: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Both chains' logits (n, vocabulary) for every predicted token; what they have in common is run once."""
    ours, theirs = chain.links, teacher.links
    common = 0
    while common < len(ours) and common < len(theirs) and ours[common] is theirs[common]:
        common += 1
    first = max(prefix, 1)
    with torch.no_grad():
        x = run(theirs[:common], ids[:, :-1])
        known = run(theirs[common:], x)[:, first - 1 :].flatten(0, 1)
    return (known if common == len(ours) else run(ours[common:], x)[:, first - 1 :].flatten(0, 1)), known


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(theirs || ours) per row, in nats."""
    known = F.log_softmax(theirs, -1)
    return (known.exp() * (known - F.log_softmax(ours, -1))).sum(-1)


def _batches(windows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Windows in a new order each time round, without end."""
    while True:
        order: Sequence[int] = torch.randperm(windows.shape[0], generator=generator).tolist()
        for begin in range(0, len(order), size):
            yield windows[order[begin : begin + size]]
