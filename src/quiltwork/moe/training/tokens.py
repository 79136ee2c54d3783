"""Texts as tokens: bytes, or pairs of bytes merged as often as they were seen together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.moe.training.settings import BYTE, WHERE

BEGIN, END = SPECIAL = ("<s>", "</s>")
Tokens = npt.NDArray[np.int32]
FILE = "tokenizer.json"
"""As the tokenizers library writes it, and transformers reads it."""


class Codec:
    """Texts to tokens and back. Every text has tokens: what was never seen is bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.size = int(tokenizer.get_vocab_size())
        begin, end = (tokenizer.token_to_id(name) for name in SPECIAL)
        self.begin = -1 if begin is None else int(begin)
        self.end = -1 if end is None else int(end)
        self._of_bytes = self.size - 2 * (end is not None) == 256

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Without special tokens."""
        if self._of_bytes:  # as the library does it, but at once
            return [np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int32) for text in texts]
        found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """Special tokens are left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        (folder / FILE).write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")


def tokenizer_size(told: str) -> int | None:
    """How many tokens ``bpe:N`` has; None for ``byte``. Raises BadInputError."""
    kind, _, count = told.partition(":")
    if told == BYTE:
        return None
    if kind != "bpe" or not count.isascii() or not count.isdigit() or not 300 <= int(count[:9]) <= 1_000_000:
        what = f"{told[:40]!r} is no tokenizer"
        raise BadInputError(what, where=f"{WHERE}: tokenizer", hint="byte, or bpe:N with N from 300 to 1000000")
    return int(count)


def read_codec(folder: Path) -> Codec:
    """What ``Codec.save`` wrote. Raises BadInputError naming the file."""
    from tokenizers import Tokenizer

    if not (folder / FILE).is_file():
        raise BadInputError("is missing", where=str(folder / FILE), hint="name the OUT of `quiltwork moe train`")
    try:
        return Codec(Tokenizer.from_str((folder / FILE).read_text(encoding="utf-8")))
    except Exception as error:  # the library raises bare ones
        raise BadInputError(f"is no tokenizer: {str(error)[:100]}", where=str(folder / FILE)) from error


def learn_codec(told: str, texts: Iterable[str], *, special: bool) -> Codec:
    """The tokenizer that the setting asks for, learnt from texts. special : whether it has tokens of begin and end.

    Raises BadInputError where the texts do not have so many tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    size, extra = tokenizer_size(told), list(SPECIAL) if special else []
    if size is None:
        tokenizer = Tokenizer(models.BPE(vocab={sign: byte for byte, sign in enumerate(_signs())}, merges=[]))
    else:
        tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=size is not None)
    tokenizer.decoder = decoders.ByteLevel()
    if size is not None:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(extra), initial_alphabet=sorted(alphabet), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in extra])
    codec = Codec(tokenizer)
    if size is not None and codec.size != size:
        what = f"the training part has no {size} different tokens, but {codec.size}"
        raise BadInputError(what, where=f"{WHERE}: tokenizer", hint=f"bpe:{codec.size}, or byte")
    return codec


def _signs() -> list[str]:
    """The sign that stands for each byte in byte-level tokenizers (GPT-2): printable ones for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
