"""Pairs of a sentence and its translation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from quiltwork.layers.order import Ids
from quiltwork.moe.models.packed import pack
from quiltwork.moe.models.translator import Translator
from quiltwork.moe.training.corpus import read_rows
from quiltwork.moe.training.greedy import translate
from quiltwork.moe.training.objective import PARTS, Run
from quiltwork.moe.training.settings import TrainingSettings
from quiltwork.moe.training.tokens import Codec, learn_codec


class Translation:
    """An ``Objective``. Of a sentence that is too long only the beginning is read.

    A pair's loss is the sum over its target's tokens, divided by what a target of its part has in the mean: so the mean
    over pairs is nats per token, and any split of a step gives the same gradient.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, settings: TrainingSettings, device: torch.device) -> None:
        """Raises BadInputError naming file and line; ModuleNotFoundError where BLEU could not be told at the end."""
        import sacrebleu  # noqa: F401

        parts = read_rows(settings)
        self.blank, self._device = parts.train.blank, device
        self.codec = learn_codec(settings.tokenizer, (text for row in parts.train.rows for text in row), special=True)
        self._sources: dict[str, list[Tensor]] = {}
        self._targets: dict[str, list[Tensor]] = {}
        self._tokens: dict[str, float] = {}
        self._texts = {part: [row[1] for row in getattr(parts, part).rows] for part in PARTS}
        told = hashlib.blake2b(self.codec.tokenizer.to_str().encode(), digest_size=16)
        for part in PARTS:
            rows = getattr(parts, part).rows
            sources, targets = (self._cut([row[side] for row in rows], settings.length) for side in (0, 1))
            self._sources[part] = [one[1:] for one in sources]
            self._targets[part] = targets
            self._tokens[part] = sum(len(one) - 1 for one in targets) / len(targets)
            told.update(json.dumps(rows).encode())
        self.digest = told.hexdigest()

    def _cut(self, texts: Sequence[str], length: int) -> list[Tensor]:
        """Tokens between a begin and an end."""
        codec = self.codec
        found = (one[: length - 1] for one in codec.encode(texts))
        return [torch.tensor([codec.begin, *one.tolist(), codec.end]) for one in found]

    def count(self, part: str) -> int:
        """See ``Objective``."""
        return len(self._targets[part])

    def lengths(self, part: str) -> tuple[Ids, ...]:
        """See ``Objective``."""
        sources = np.array([len(one) for one in self._sources[part]], np.int64)
        return sources, np.array([len(one) - 1 for one in self._targets[part]], np.int64)

    def run(self, model: Translator, part: str, ids: Ids) -> Run:
        """See ``Objective``."""
        source, source_packed = pack([self._sources[part][i] for i in ids], self._device)
        target, packed = pack([self._targets[part][i][:-1] for i in ids], self._device)
        outcome = model(source, source_packed, target, packed)
        wanted = torch.cat([self._targets[part][i][1:] for i in ids]).to(self._device)
        nats = cross_entropy(outcome.logits.float(), wanted, reduction="none")
        total = nats.new_zeros(len(ids)).index_add(0, packed.sequence, nats)
        return Run(total / self._tokens[part], outcome, (source_packed, packed))

    def scores(self, model: Any, part: str, size: int) -> Mapping[str, float]:
        """Nats per token of the given translation, and BLEU (sacrebleu, 0 to 100) of the model's own, greedily
        decoded."""
        from sacrebleu import corpus_bleu

        total = 0.0
        for start in range(0, self.count(part), size):
            ids = np.arange(start, min(start + size, self.count(part)))
            with torch.no_grad():
                total += float(self.run(model, part, ids).losses.double().sum())
        said = self.translations(model, part, size)
        bleu = corpus_bleu(said, [self._texts[part]])
        return {"loss": total / self.count(part), "bleu": float(bleu.score)}

    def translations(self, model: Translator, part: str, size: int) -> list[str]:
        """Of the sources of a part."""
        sources = self._sources[part]
        # Of alike length together, so that few wait for the longest.
        order = sorted(range(len(sources)), key=lambda at: len(sources[at]))
        said = [""] * len(sources)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            for at, text in zip(some, translated(model, self.codec, [sources[i] for i in some]), strict=True):
                said[at] = text
        return said


def translated(model: Translator, codec: Codec, sources: Sequence[Tensor]) -> list[str]:
    """The translations of sources' tokens, each with its end."""
    device = next(model.parameters()).device
    ids, packed = pack(sources, device)
    longest = 2 * packed.longest + 10
    return [codec.decode(one) for one in translate(model, ids, packed, codec.begin, codec.end, longest)]
