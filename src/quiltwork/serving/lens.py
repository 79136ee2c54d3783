"""Blocks of models of different sizes, compared by what they would make each model say. (BlockLLM's output space.)

What leaves a block is read through the final norm and head of its own model (a logit lens), so that widths need not
agree; vocabularies must. This is a report: nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.progress import Say
from quiltwork.core.servable import Json
from quiltwork.serving.adapt import Asked, probe_text
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.probe import Probe, forward, through, whole
from quiltwork.serving.route import Link
from quiltwork.serving.stitching.text import codec_of, require_one_tokenizer
from quiltwork.zoo.types import Model
from quiltwork.zoo.zoo import Zoo


@dataclass(frozen=True)
class Seen:
    """Two blocks, by the distributions over the vocabulary that each model's own head makes of what leaves them."""

    part: str
    other: str
    cosine: float
    """Mean over tokens of cos(p_A, p_B)."""
    kl: float
    """Mean KL(p_A || p_B), nats."""
    agreement: float
    """Share of tokens with the same most likely next one."""

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return asdict(self)


def compare_depths(
    zoo: Zoo, model: Model, other: Model, asked: Asked, config: EngineConfig, say: Say
) -> tuple[list[Seen], int]:
    """Every block of a model beside the one at the same relative depth of another, and on how many tokens.

    Raises BadInputError naming both where their tokenizers differ, or where the text is too short.
    """
    require_one_tokenizer(model, other, codec_of(zoo, model), codec_of(zoo, other))
    text = probe_text(zoo, model, asked)
    with Probe(zoo.chain(model.ref), zoo.read, config) as a, Probe(zoo.chain(other.ref), zoo.read, config) as b:
        for probe in (a, b):
            probe.require_room(text.deciding)
        ours, theirs = a.exact.links, b.exact.links
        pairs = beside([link.kind for link in ours], [link.kind for link in theirs])
        sums = torch.zeros(len(pairs), 3, dtype=torch.float64)
        count = 0
        for done, ids in enumerate(a.batches(text.deciding)):
            say(f"window {done * ids.shape[0]} of {text.deciding.shape[0]}")
            below, beneath = _states(a, ids), _states(b, ids)
            for row, (i, j) in enumerate(pairs):
                p, q = _read(a, ours, below, i, ids), _read(b, theirs, beneath, j, ids)
                sums[row] += _compare(p, q).cpu()
            count += ids.numel()
    means = (sums / count).tolist()
    return [Seen(ours[i].name, theirs[j].name, *mean) for (i, j), mean in zip(pairs, means, strict=True)], count


def beside(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Index pairs: each link of one chain with the link of the same kind at the same relative depth of another."""
    pairs = []
    for i, kind in enumerate(ours):
        mine = [at for at, other in enumerate(ours) if other == kind]
        same = [at for at, other in enumerate(theirs) if other == kind]
        if same:
            depth = (mine.index(i) + 1) / len(mine)
            pairs.append((i, same[max(round(depth * len(same)), 1) - 1]))
    return pairs


@torch.inference_mode()
def _states(probe: Probe, ids: Tensor) -> list[Tensor]:
    """What leaves each link: (rows, d), of the head (rows, vocabulary)."""
    return list(forward(probe.exact.links, ids, probe.pools))


@torch.inference_mode()
def _read(probe: Probe, links: Sequence[Link], states: Sequence[Tensor], index: int, ids: Tensor) -> Tensor:
    """(rows, vocabulary) log-probabilities of what leaves a link, through the model's own head."""
    x = states[index]
    if links[index].kind != "head":
        x = through(links[-1], x, whole(ids), probe.pools)
    return F.log_softmax(x.float(), -1)


@torch.inference_mode()
def _compare(p: Tensor, q: Tensor) -> Tensor:
    """(3,) float64 sums over rows: cosine, KL(p || q), equal most likely tokens."""
    cosine = F.cosine_similarity(p.exp(), q.exp(), dim=-1).double().sum()
    kl = (p.exp() * (p - q)).sum(-1).double().sum()
    return torch.stack([cosine, kl, (p.argmax(-1) == q.argmax(-1)).double().sum()])
