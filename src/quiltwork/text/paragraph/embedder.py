"""Sentences' vectors by one walk over a frozen word2vec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from quiltwork.text.embedder import Embedded
from quiltwork.text.paragraph.huffman import HuffmanVectors
from quiltwork.text.paragraph.inference import Inference, infer, known_words, texts
from quiltwork.text.token_corpus import word_tokens


@dataclass(frozen=True, eq=False)
class ParagraphVectors:
    """An Embedder. A sentence's vector hangs on its tokens alone: not on what is embedded with it, nor on the process.

    Words that the model does not have keep their places and teach nothing; a sentence of such words alone is not known.
    """

    model: HuffmanVectors
    inference: Inference = field(default_factory=Inference)
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"paragraph {self.inference.how} {self.inference.predicts}")

    @property
    def dimensions(self) -> int:
        return self.model.dimensions

    def embed(self, sentences: Sequence[str]) -> Embedded:
        cut = [word_tokens(sentence) for sentence in sentences]
        found = texts(self.model, cut)
        used = known_words(found)
        return Embedded(
            infer(self.model, found, self.inference),
            used > 0,
            np.diff(found.ends),
            used,
            np.zeros(len(cut), np.bool_),
        )
