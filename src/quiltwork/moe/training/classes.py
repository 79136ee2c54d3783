"""Texts and their classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from quiltwork.core.errors import BadInputError
from quiltwork.layers.order import Ids
from quiltwork.moe.models.classifier import Classifier
from quiltwork.moe.models.packed import pack
from quiltwork.moe.training.corpus import read_rows
from quiltwork.moe.training.objective import PARTS, Run
from quiltwork.moe.training.settings import WHERE, TrainingSettings
from quiltwork.moe.training.tokens import Tokens, learn_codec

_MOST = 1000
"""Classes: as many different labels as there are texts are no classes."""


class Classes:
    """An ``Objective``. Of a text that is too long only the beginning is read."""

    def __init__(self, settings: TrainingSettings, device: torch.device) -> None:
        """Raises BadInputError naming file and line, or a label that the training part does not have."""
        parts = read_rows(settings)
        self.blank, self._device = parts.train.blank, device
        self.codec = learn_codec(settings.tokenizer, [text for text, _ in parts.train.rows], special=False)
        self.classes = tuple(sorted({label for _, label in parts.train.rows}))
        if not 2 <= len(self.classes) <= _MOST:
            what = f"there are {len(self.classes)} different labels"
            raise BadInputError(what, where=f"{WHERE}: corpus", hint=f"from 2 to {_MOST} can be told apart")
        number = {label: at for at, label in enumerate(self.classes)}
        self._texts: dict[str, list[Tokens]] = {}
        self._labels: dict[str, torch.Tensor] = {}
        told = hashlib.blake2b(self.codec.tokenizer.to_str().encode(), digest_size=16)
        for part in PARTS:
            rows = getattr(parts, part).rows
            unknown = next((label for _, label in rows if label not in number), None)
            if unknown is not None:
                what = f"the {part} part has the label {unknown[:40]!r}, which the training part has not"
                raise BadInputError(what, where=f"{WHERE}: corpus", hint=f"it has {', '.join(self.classes)[:80]}")
            self._texts[part] = [one[: settings.length] for one in self.codec.encode([text for text, _ in rows])]
            self._labels[part] = torch.tensor([number[label] for _, label in rows])
            told.update(json.dumps(rows).encode())
        self.digest = told.hexdigest()

    def count(self, part: str) -> int:
        """See ``Objective``."""
        return len(self._texts[part])

    def lengths(self, part: str) -> tuple[Ids, ...]:
        """See ``Objective``."""
        return (np.array([len(one) for one in self._texts[part]], np.int64),)

    def run(self, model: Classifier, part: str, ids: Ids) -> Run:
        """See ``Objective``."""
        tokens, packed = pack([torch.from_numpy(self._texts[part][i]) for i in ids], self._device)
        outcome = model(tokens, packed)
        labels = self._labels[part][torch.from_numpy(ids)].to(self._device)
        return Run(cross_entropy(outcome.logits.float(), labels, reduction="none"), outcome, (packed,))

    def scores(self, model: Any, part: str, size: int) -> Mapping[str, float]:
        """Nats per text, and the share of texts whose class is found."""
        loss, right = 0.0, 0
        with torch.no_grad():
            for start in range(0, self.count(part), size):
                ids = np.arange(start, min(start + size, self.count(part)))
                run = self.run(model, part, ids)
                loss += float(run.losses.double().sum())
                right += int((run.outcome.logits.argmax(1).cpu() == self._labels[part][torch.from_numpy(ids)]).sum())
        return {"loss": loss / self.count(part), "accuracy": right / self.count(part)}
