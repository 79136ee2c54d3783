"""A model's tokenizer: text to token ids and back, from the files that came with the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.serving.detokenize import ByteDetokenizer, ByteTable, Detokenizer, WindowDetokenizer, byte_table

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
OTHER_TOKENIZER_FILES = (*SENTENCEPIECE_FILES, "vocab.json", "vocab.txt",
                         "tekken.json")  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", *OTHER_TOKENIZER_FILES)
"""Any of these means that a model brings its own tokenizer."""
CODEC_FILES = (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
               "chat_template.jinja")  # fmt: skip
"""Everything a codec is made from, where there is a tokenizer.json."""
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "config.json")


@dataclass(frozen=True)
class TokenText:
    """A token as replies show it."""

    text: str
    """What it reads as alone; a part of a character reads as a replacement character."""
    data: bytes


class TextCodec:
    """Text to token ids and back, as the model's tokenizer in transformers does it."""

    def __init__(self, tokenizer: Tokenizer, named: Mapping[str, str], chat_template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self.named = named
        """The text of ``bos_token``, ``eos_token`` and the like, where the model has them."""
        self.chat_template = chat_template
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        ids = tokenizer.get_vocab(with_added_tokens=True)
        self._tokens: list[str | None] = [None] * max(size, max(ids.values(), default=-1) + 1)
        for token, id in ids.items():
            self._tokens[id] = token
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        """Tokens that are not shown."""
        self._table: ByteTable | None = byte_table(json.loads(self.to_json()), self._tokens, self.special_ids)
        self._longest = max((len(token) for token in self._tokens if token), default=1)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self._tokens)

    def to_json(self) -> str:
        """The tokenizer.json this codec works by."""
        return self._tokenizer.to_str()

    def tokenizer_json(self) -> dict[str, Json]:
        """The same, parsed."""
        parsed: dict[str, Json] = json.loads(self.to_json())
        return parsed

    def id_of(self, token: str) -> int | None:
        """The id of a token's text."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def encode(self, text: str, *, add_special_tokens: bool = True, where: str = "prompt") -> list[int]:
        """Token ids; with ``add_special_tokens`` those the model's post-processor adds (a beginning-of-sequence token).

        Raises BadInputError naming ``where`` where the text is not Unicode or the tokenizer cannot express it.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInputError("is not valid Unicode: it has half of a surrogate pair", where=where) from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def at_least(self, text: str) -> int:
        """A number of tokens that ``text`` cannot be encoded in less than, without encoding it."""
        return len(text) // max(self._longest, 1)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no characters become replacement characters."""
        ids = list(ids)
        if self._table is not None and skip_special_tokens:
            return self._table.joined(ids).decode(errors="replace")
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Text of what follows a prompt, token by token."""
        if self._table is not None:
            return ByteDetokenizer(self._table, prompt)
        return WindowDetokenizer(self.decode, prompt)

    def token(self, id: int) -> str:
        """The token as the vocabulary writes it; an empty string for an id without one."""
        return (self._tokens[id] if 0 <= id < len(self._tokens) else None) or ""

    def shown(self, id: int) -> TokenText:
        """The token as a list of log-probabilities shows it; a special token by its name."""
        if id in self.special_ids:
            return TokenText(self.token(id), self.token(id).encode())
        if self._table is None or not 0 <= id < len(self._tokens):
            text: str = self._tokenizer.decode([id], skip_special_tokens=False) if id < len(self._tokens) else ""
            return TokenText(text, text.encode())
        data = self._table.pieces[id]
        return TokenText(data.decode(errors="replace"), data)


def load_codec(read: Callable[[str], bytes | None]) -> TextCodec | None:
    """The codec from a model's files, or None where there is no tokenizer among them.

    ``read`` gives a file's bytes by its name, or None. Raises BadInputError naming the file that is malformed, and
    UnsupportedError where transformers cannot convert an older tokenizer.
    """
    config = _json_file(read, "tokenizer_config.json")
    named_in_map = _json_file(read, "special_tokens_map.json")
    data = read("tokenizer.json")
    if data is not None:
        tokenizer = _parse(data)
    elif any(read(name) is not None for name in OTHER_TOKENIZER_FILES):
        tokenizer = _convert(read)
    else:
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    named = {**_named(named_in_map), **_named(config)}
    _add_tokens(tokenizer, config, named_in_map, named)
    # ``add_bos_token`` and ``add_eos_token`` count for nothing beside a tokenizer.json: its post-processor decides.
    return TextCodec(tokenizer, named, _chat_template(read, config))


def _parse(data: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:
        raise BadInputError(f"is not a tokenizer: {str(error)[:200]}", where="tokenizer.json") from error


def _convert(read: Callable[[str], bytes | None]) -> Tokenizer:
    """Through transformers, which knows the older formats."""
    from transformers import AutoTokenizer

    pieces = [name for name in SENTENCEPIECE_FILES if read(name) is not None]
    if pieces and find_spec("sentencepiece") is None:
        raise UnsupportedError(
            "needs the package sentencepiece to be read",
            where=pieces[0],
            hint="install it, save the model with a tokenizer.json, or send token ids",
        )
    with tempfile.TemporaryDirectory() as folder:
        found = [name for name in (*OTHER_TOKENIZER_FILES, *_BESIDE) if read(name) is not None]
        for name in found:
            Path(folder, name).write_bytes(read(name) or b"")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        except Exception as error:
            raise UnsupportedError(
                f"cannot be converted: {type(error).__name__}: {str(error).strip()[:200]}",
                where=", ".join(name for name in found if name in OTHER_TOKENIZER_FILES),
                hint="save the model with a tokenizer.json, or send token ids",
            ) from error


def _add_tokens(
    tokenizer: Tokenizer, config: Mapping[str, Json], mapped: Mapping[str, Json], named: Mapping[str, str]
) -> None:
    """Tokens that stand only in the configuration, in the order and with the flags transformers gives them."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    described = config.get("added_tokens_decoder")
    new: dict[str, AddedToken] = {}
    if isinstance(described, Mapping):
        for id in sorted(described, key=lambda key: int(key) if str(key).isdigit() else 0):
            if token := _added(described[id]):
                new[token.content] = token
    extra = [config.get(key) or mapped.get(key) for key in ("additional_special_tokens", "extra_special_tokens")]
    listed = [token for tokens in extra if isinstance(tokens, list) for token in tokens]
    for value in [*named.values(), *listed]:
        token = _added(value)
        if token is not None and token.content not in new:
            new[token.content] = token
    for content, token in new.items():
        if content not in known:
            token.special = token.special or content in named.values()
            tokenizer.add_tokens([token])


def _added(value: Json) -> AddedToken | None:
    if isinstance(value, str) and value:
        return AddedToken(value, special=True, normalized=False)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and value["content"]:
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        return AddedToken(value["content"], **{flag: bool(value[flag]) for flag in flags if flag in value})
    return None


def _named(config: Mapping[str, Json]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name in NAMED_TOKENS:
        token = _added(config.get(name))
        if token is not None:
            result[name] = token.content
    return result


def _chat_template(read: Callable[[str], bytes | None], config: Mapping[str, Json]) -> str | None:
    data = read("chat_template.jinja")
    if data is not None:
        return data.decode(errors="replace")
    template = config.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, Mapping)]
        chosen = [entry.get("template") for entry in entries if entry.get("name") == "default"]
        template = chosen[0] if chosen else None
    return template if isinstance(template, str) else None


def _json_file(read: Callable[[str], bytes | None], name: str) -> Mapping[str, Json]:
    data = read(name)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"is not JSON: {str(error)[:200]}", where=name) from error
    if not isinstance(value, dict):
        raise BadInputError("is not a JSON object", where=name)
    return value
