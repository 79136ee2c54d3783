"""A training text as windows of tokens, cut once into what is learned from, what decides, and what is only reported."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.serving.hosting import LanguageLoader
from quiltwork.serving.text import TextCodec
from quiltwork.zoo.types import Model
from quiltwork.zoo.zoo import Zoo

SHARES = (0.8, 0.1)
"""Of the text, from its start: for training, for validation. The rest is for testing."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Three runs of a text that do not overlap, each as (windows, tokens) int64 ids.

    Every window begins with what the tokenizer puts before a prompt (a beginning-of-sequence token, mostly); that is
    context, never predicted.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    prefix: int
    """Tokens of each window that are only context."""
    digest: str
    """sha256 of the text, so that a figure says what it was measured on."""

    def predicted(self, windows: Tensor) -> int:
        """How many tokens of these windows are predicted."""
        return int(windows.shape[0] * (windows.shape[1] - max(self.prefix, 1)))


@dataclass(frozen=True, eq=False)
class Cut:
    """A text in runs that do not overlap, each as (windows, prefix + tokens) int64 ids."""

    parts: tuple[Tensor, ...]
    prefix: int
    """Tokens of each window that are only context, as in ``Splits``."""
    digest: str
    """sha256 of the text."""


def cut_text(text: str, codec: TextCodec, *, window: int, shares: Sequence[float], where: str) -> Cut:
    """Cut a text by its tokens, in order, and each part into windows of ``window`` tokens.

    shares : of all parts but the last, which gets the rest.

    Raises BadInputError naming ``where`` where a part has not one whole window.
    """
    ids = codec.encode(text, add_special_tokens=False, where=where)
    prefix = codec.encode("", where=where)
    ends = [int(len(ids) * share) for share in accumulate(shares)] + [len(ids)]
    parts: list[Tensor] = []
    for begin, end in zip([0, *ends], ends, strict=False):
        count = (end - begin) // window
        if count < 1:
            least = int(window / min(*shares, 1 - sum(shares))) + 1
            raise BadInputError(f"has {len(ids)} tokens; at least {least} are needed", where=where)
        rows = torch.tensor(ids[begin : begin + count * window], dtype=torch.int64).view(count, window)
        parts.append(torch.cat([torch.tensor(prefix, dtype=torch.int64).repeat(count, 1), rows], dim=1))
    return Cut(tuple(parts), len(prefix), hashlib.sha256(text.encode()).hexdigest())


def split_text(text: str, codec: TextCodec, *, window: int, where: str) -> Splits:
    """A text for stitching, cut in three. Raises BadInputError naming ``where`` where it is too short."""
    cut = cut_text(text, codec, window=window, shares=SHARES, where=where)
    train, validation, test = cut.parts
    return Splits(train, validation, test, cut.prefix, cut.digest)


def codec_of(zoo: Zoo, model: Model) -> TextCodec:
    """A model's tokenizer. Raises BadInputError where it has none that can be used."""
    return LanguageLoader(zoo, None, datetime.now).load(model).need_codec("tokenizer")


def require_one_tokenizer(a: Model, b: Model, of_a: TextCodec, of_b: TextCodec) -> None:
    """Raise BadInputError saying how the tokenizers of two models differ, where they do."""
    ours, theirs = (codec.tokenizer_json() for codec in (of_a, of_b))
    where = f"{a.ref} and {b.ref}"
    if ours["model"].get("vocab") != theirs["model"].get("vocab"):
        raise BadInputError(
            f"their vocabularies differ ({of_a.size} and {of_b.size} tokens): "
            "only models that read and write the same tokens can be joined or compared",
            where=where,
        )
    for section in sorted(ours.keys() | theirs.keys()):
        if section not in ("truncation", "padding") and ours.get(section) != theirs.get(section):
            raise BadInputError(f"their tokenizers differ in {section!r}", where=where)
