"""Running text: windows of as many tokens, one beside the other, in which every token predicts the next."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from quiltwork.core.errors import BadInputError
from quiltwork.layers.order import Ids
from quiltwork.moe.models.decoder import Decoder
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.training.corpus import read_running_text
from quiltwork.moe.training.objective import PARTS, Run
from quiltwork.moe.training.settings import WHERE, TrainingSettings
from quiltwork.moe.training.tokens import learn_codec


class Language:
    """An ``Objective``. What does not fill a window at a part's end is left out."""

    classes: tuple[str, ...] = ()
    blank = 0

    def __init__(self, settings: TrainingSettings, device: torch.device) -> None:
        """Raises BadInputError naming a file, or a part that is too short."""
        texts = read_running_text(settings)
        self.codec = learn_codec(settings.tokenizer, [texts.train], special=False)
        self._length, self._device = settings.length, device
        self._windows: dict[str, torch.Tensor] = {}
        self._bytes: dict[str, int] = {}
        told = hashlib.blake2b(self.codec.tokenizer.to_str().encode(), digest_size=16)
        for part in PARTS:
            tokens = self.codec.encode([getattr(texts, part)])[0]
            told.update(tokens.tobytes() + b"\0")
            windows = (len(tokens) - 1) // self._length
            if windows < 1:
                what = f"the {part} part has {len(tokens)} tokens, which fill no window of {self._length}"
                raise BadInputError(what, where=f"{WHERE}: corpus", hint="more text, or a smaller length")
            # A window has the token before it too, since its first is to be predicted.
            places = np.arange(windows)[:, None] * self._length + np.arange(self._length + 1)
            self._windows[part] = torch.from_numpy(tokens[places].astype(np.int64))
            self._bytes[part] = len(self.codec.decode(tokens[1 : windows * self._length + 1].tolist()).encode())
        self.digest = told.hexdigest()

    def count(self, part: str) -> int:
        """See ``Objective``."""
        return len(self._windows[part])

    def lengths(self, part: str) -> tuple[Ids, ...]:
        """See ``Objective``."""
        return (np.full(self.count(part), self._length, np.int64),)

    def run(self, model: Decoder, part: str, ids: Ids) -> Run:
        """See ``Objective``."""
        windows = self._windows[part][torch.from_numpy(ids)].to(self._device)
        packed = Packed(torch.full((len(ids),), self._length, device=self._device))
        outcome = model(windows[:, :-1].flatten(), packed)
        nats = cross_entropy(outcome.logits.float(), windows[:, 1:].flatten(), reduction="none")
        return Run(nats.view(len(ids), -1).mean(1), outcome, (packed,))

    def scores(self, model: Any, part: str, size: int) -> Mapping[str, float]:
        """Nats per token, and bits per byte of the text: lower is better."""
        total = 0.0
        with torch.no_grad():
            for start in range(0, self.count(part), size):
                ids = np.arange(start, min(start + size, self.count(part)))
                total += float(self.run(model, part, ids).losses.double().sum()) * self._length
        bits = total / math.log(2) / self._bytes[part]
        return {"loss": total / (self.count(part) * self._length), "bits_per_byte": bits}
