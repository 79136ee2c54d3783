"""Held-out text in two parts that share no character: one to choose by, one to verify on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.moe.text_files import read_text

Encode = Callable[[str], list[int]]
_FEWEST = 4
"""Windows of a part: of fewer, nothing can be said of how much their losses vary."""


@dataclass(frozen=True)
class Part:
    """Windows of one part of a text."""

    name: str
    """``calibration`` or ``verification``."""
    source: str
    """Which characters of which file."""
    windows: Tensor
    """(W, length) int64."""


def held_out(corpus: str | os.PathLike[str], encode: Encode, *, length: int, tokens: int) -> tuple[Part, Part]:
    """The first and the second half of a text file in UTF-8, plain or packed, split at a line's or a word's end.

    encode : text to token ids. length : tokens of a window. tokens : how many of each half are used at most.

    Raises as ``read_text``, and BadInputError for a file that is too short for four windows a part.
    """
    path = Path(corpus)
    text = read_text(str(path), "utf-8", hint="write it as UTF-8")
    if length < 2:
        raise BadInputError("must be at least 2", where="length")
    if tokens < 1:
        raise BadInputError("must be at least 1", where="tokens")
    middle = len(text) // 2
    end = max(text.rfind("\n", 0, middle), text.rfind(" ", 0, middle)) + 1
    cut = end or middle
    first = _part("calibration", text, 0, cut, path, encode, length, tokens)
    return first, _part("verification", text, cut, len(text), path, encode, length, tokens)


def _part(
    name: str, text: str, start: int, end: int, path: Path, encode: Encode, length: int, tokens: int
) -> Part:  # fmt: skip
    ids = encode(text[start:end])[:tokens]
    count = len(ids) // length
    if count < _FEWEST:
        what = f"its {name} half has {len(ids)} tokens, and {_FEWEST * length} are needed"
        raise BadInputError(what, where=str(path), hint="a longer text, more tokens or shorter windows")
    windows = torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)
    return Part(name, f"characters {start:,} to {end:,} of {path.name}", windows)


def encoder_of(folder: str | os.PathLike[str], vocabulary: int) -> Encode:
    """The tokenizer of a checkpoint's folder; ``byte`` is a token per byte of UTF-8.

    Raises BadInputError where there is none, or where it has tokens that the model does not have.
    """
    if str(folder) == "byte":
        return _checked(lambda text: list(text.encode("utf-8")), vocabulary, "byte")
    from quiltwork.zoo.checkpoint import has_tokenizer

    path = Path(folder)
    files = {each.name: "" for each in path.iterdir()} if path.is_dir() else {}
    if not has_tokenizer(files):
        raise BadInputError("there is no tokenizer", where=str(path), hint="--tokenizer byte, or a folder with one")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise BadInputError(f"its tokenizer cannot be loaded: {line}", where=str(path)) from error
    tokenizer.model_max_length = 1 << 62  # windows are cut here; it would warn of each long text
    return _checked(lambda text: list(tokenizer.encode(text, add_special_tokens=False)), vocabulary, str(path))


def _checked(encode: Encode, vocabulary: int, where: str) -> Encode:
    def encoded(text: str) -> list[int]:
        ids = encode(text)
        if ids and max(ids) >= vocabulary:
            raise BadInputError(f"has the token {max(ids)}, and the model only {vocabulary}", where=where)
        return ids

    return encoded
