"""A text's tokens, as the model's tokenizer cuts it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.files import ModelFiles, read_json

Ids = npt.NDArray[np.int64]

TOKENIZER, SETTINGS, VOCABULARY = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
_ABSURD = 1_000_000
"""A longest text that tokenizers write who have none (transformers writes 10**30)."""


@dataclass(frozen=True)
class Cut:
    """One text as a model takes it."""

    ids: Ids
    """(n,) with the special tokens around it."""
    prompt: int
    """How many of ``ids`` are of the prompt, special ones before it included; 0 without a prompt."""
    tokens: int
    """The text's own tokens, before anything was left out."""
    used: int
    """How many of these are among ``ids``, and not the one for what is unknown."""
    truncated: bool


class Tokens:
    """Cuts texts to at most ``longest`` tokens, the special ones included."""

    def __init__(self, tokenizer: Any, longest: int, *, from_left: bool = False, where: str = "tokenizer") -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self.longest, self._from_left = tokenizer, longest, from_left
        probe = tokenizer.encode("a")
        own = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
        first, last = (own[0], own[-1] + 1) if own else (len(probe.ids), len(probe.ids))
        self._before, self._after = list(probe.ids[:first]), list(probe.ids[last:])
        if (around := len(self._before) + len(self._after)) >= longest:
            raise BadInputError(f"{longest} tokens leave no room for a text beside {around} special ones", where=where)
        unknown = getattr(tokenizer.model, "unk_token", None)
        found = None if unknown is None else tokenizer.token_to_id(unknown)
        self._unknown = -1 if found is None else found

    @property
    def largest(self) -> int:
        """The largest id that there is."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def described(self) -> str:
        """All that says how a text is cut."""
        return f"{self._tokenizer.to_str()} {self.longest} {self._from_left}"

    def cut(self, texts: Sequence[str], prompt: str = "") -> list[Cut]:
        """Each text with the prompt before it. Raises BadInputError for half a surrogate pair, which is no text."""
        for index, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise BadInputError(
                    "has half of a surrogate pair, which is no character", where=f"sentence {index + 1}"
                ) from error
        led = len(self._tokenizer.encode(prompt, add_special_tokens=False).ids) if prompt else 0
        whole = [prompt + text for text in texts] if prompt else list(texts)
        room = self.longest - len(self._before) - len(self._after)
        return [
            self._one(one.ids, led, room) for one in self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        ]

    def _one(self, own: list[int], led: int, room: int) -> Cut:
        kept = own if len(own) <= room else own[-room:] if self._from_left else own[:room]
        ids = np.array([*self._before, *kept, *self._after], np.int64)
        mine = kept[led:]
        used = len(mine) - mine.count(self._unknown)
        return Cut(ids, len(self._before) + led if led else 0, max(len(own) - led, 0), used, len(kept) < len(own))


def read_tokens(
    files: ModelFiles, folder: str, config: Mapping[str, Any], longest: int | None, most: int, lower: bool
) -> Tokens:
    """The tokenizer of a model's folder.

    longest : tokens of a text where the model's own settings say it; most : how many positions it has. lower : whether
    texts are put into lower case first. Raises NotFoundError, and BadInputError naming the file and the field.
    """
    settings = read_json(files, name) if files.has(name := posixpath.join(folder, SETTINGS)) else {}
    tokenizer = _tokenizer(files, folder, settings, str(config.get("model_type")))
    if lower:
        _put_into_lower_case(tokenizer)
    if longest is None:
        told = settings.get("model_max_length")
        longest = int(told) if isinstance(told, int | float) and 0 < told < _ABSURD else most
    side = settings.get("truncation_side", "right")
    where = f"{files.where}: longest text"
    return Tokens(tokenizer, min(longest, most), from_left=side == "left", where=where)


def _tokenizer(files: ModelFiles, folder: str, settings: Mapping[str, Any], family: str) -> Any:
    from tokenizers import Tokenizer

    if files.has(name := posixpath.join(folder, TOKENIZER)):
        where = f"{files.where}: {name}"
        try:
            return Tokenizer.from_str(files.read(name).decode())
        except UnicodeDecodeError as error:
            raise BadInputError("is not UTF-8", where=where) from error
        except Exception as error:  # tokenizers raises the bare class
            raise BadInputError(f"is no tokenizer: {str(error)[:120]}", where=where) from error
    if files.has(name := posixpath.join(folder, VOCABULARY)):
        return _word_pieces(files, name, settings, family)
    raise NotFoundError(f"has neither {TOKENIZER} nor {VOCABULARY}", where=posixpath.join(files.where, folder))


def _word_pieces(files: ModelFiles, name: str, settings: Mapping[str, Any], family: str) -> Any:
    """BERT's tokenizer from its list of pieces, as transformers builds it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    where = f"{files.where}: {name}"
    try:
        pieces = files.read(name).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=where) from error
    vocabulary = {piece.rstrip("\r"): index for index, piece in enumerate(pieces)}
    marks = ("<s>", "</s>") if family == "mpnet" else ("[CLS]", "[SEP]")
    first, last = (_mark(settings, key, mark) for key, mark in zip(("cls_token", "sep_token"), marks, strict=True))
    unknown = _mark(settings, "unk_token", "[UNK]")
    for mark in (first, last, unknown):
        if mark not in vocabulary:
            raise BadInputError(f"has no {mark}", where=where)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((last, vocabulary[last]), (first, vocabulary[first]))
    known = [_mark(settings, key, mark) for key, mark in (("pad_token", "[PAD]"), ("mask_token", "[MASK]"))]
    tokenizer.add_special_tokens([mark for mark in (unknown, first, last, *known) if mark in vocabulary])
    return tokenizer


def _mark(settings: Mapping[str, Any], key: str, default: str) -> str:
    """A special token, told as its text or as an object that holds it."""
    found = settings.get(key, default)
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else default


def _put_into_lower_case(tokenizer: Any) -> None:
    from tokenizers import normalizers

    there = tokenizer.normalizer
    told = json.loads(there.__getstate__()) if there is not None else {}
    parts = told.get("normalizers", [told])
    if any(one.get("type") == "Lowercase" or one.get("lowercase") for one in parts):
        return
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([] if there is None else [there])])
