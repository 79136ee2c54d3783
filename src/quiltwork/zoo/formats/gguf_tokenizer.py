"""The SentencePiece tokenizer in a GGUF file's metadata, written as the files that Hugging Face's libraries read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

_CONTROL = (2, 3)
"""Token types UNKNOWN and CONTROL."""

_SPACE = "\u2581"


def tokenizer_files(values: Mapping[str, Any], *, where: str) -> dict[str, bytes]:
    """``tokenizer.json`` and ``tokenizer_config.json`` from metadata; nothing where that holds no SentencePiece one.

    Merges are the pairs of pieces that make a piece, best score first, which is the order SentencePiece's BPE joins in.
    Raises BadInputError naming the key that is malformed.
    """
    if values.get("tokenizer.ggml.model") != "llama":
        return {}
    tokens = _list(values, "tokens", str, where)
    scores = _list(values, "scores", float, where)
    types = _list(values, "token_type", int, where)
    if not len(tokens) == len(scores) == len(types) or len(set(tokens)) != len(tokens):
        raise BadInputError("its tokens, scores and types do not go together", where=f"{where}: tokenizer.ggml.tokens")

    def special(role: str) -> str | None:
        number = values.get(f"tokenizer.ggml.{role}_token_id")
        return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None

    bos, eos, unknown = special("bos"), special("eos"), special("unknown")
    prefix = bool(values.get("tokenizer.ggml.add_space_prefix", True))
    add_bos = bool(values.get("tokenizer.ggml.add_bos_token", True)) and bos is not None
    config: dict[str, Json] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unknown,
        "add_bos_token": add_bos,
        "clean_up_tokenization_spaces": False,
    }
    template = values.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(i, text) for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind in _CONTROL
        ],
        "normalizer": _normalizer(prefix),
        "pre_tokenizer": None,
        "post_processor": _bos_first(bos, tokens.index(bos)) if add_bos and bos is not None else None,
        "decoder": _decoder(prefix),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(tokens)},
            "merges": _merges(tokens, scores, types),
        },
    }
    files = {"tokenizer.json": document, "tokenizer_config.json": config}
    return {
        name: json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "replace")
        for name, content in files.items()
    }


def _list(values: Mapping[str, Any], key: str, kind: type, where: str) -> list[Any]:
    found = values.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise BadInputError(f"is not a list of {kind.__name__}", where=f"{where}: tokenizer.ggml.{key}")
    return found


def _merges(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[list[str]]:
    ids = {text: i for i, text in enumerate(tokens) if types[i] not in _CONTROL}
    pairs = []
    for text, number in ids.items():
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                pairs.append((-scores[number], left, right))
    return [[tokens[left], tokens[right]] for _, left, right in sorted(pairs)]


def _added(number: int, text: str) -> dict[str, Json]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **plain, "special": True}


def _normalizer(prefix: bool) -> dict[str, Json]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    first = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    return {"type": "Sequence", "normalizers": [*first, replace]}


def _decoder(prefix: bool) -> dict[str, Json]:
    replace = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    last = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, *last]}


def _bos_first(bos: str, number: int) -> dict[str, Json]:
    def mark(type_id: int) -> list[dict[str, Json]]:
        kind = "AB"[type_id]
        return [{"SpecialToken": {"id": bos, "type_id": type_id}}, {"Sequence": {"id": kind, "type_id": type_id}}]

    tokens = {bos: {"id": bos, "ids": [number], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": mark(0), "pair": mark(0) + mark(1), "special_tokens": tokens}
