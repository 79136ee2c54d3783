"""A pretrained encoder as an ``Embedder``: what is in its folder, and sentences to vectors."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Embedded
from quiltwork.text.encoder.families import is_native, read_network
from quiltwork.text.encoder.heads import read_heads
from quiltwork.text.encoder.layout import Layout, read_layout
from quiltwork.text.encoder.packed import Packed
from quiltwork.text.encoder.pooling import Pooling, read_pooling
from quiltwork.text.encoder.through_transformers import ThroughTransformers, build_model
from quiltwork.text.encoder.tokenizing import Cut, Tokens, read_tokens
from quiltwork.text.encoder.weights import Floats, read_weights
from quiltwork.text.encoder.workers import Workers, cores
from quiltwork.text.files import ModelFiles
from quiltwork.text.texts import require_texts

Ids = npt.NDArray[np.int64]

TOKENS_AT_ONCE = 1024
"""Tokens of a piece of work: its widest array has to stay in a processor's cache."""


class Network(Protocol):
    """What gives tokens their vectors."""

    @property
    def width(self) -> int: ...

    @property
    def longest(self) -> int: ...

    def __call__(self, sentences: Sequence[Ids]) -> torch.Tensor: ...


class Encoder:
    """A pretrained encoder. Its vectors are those of sentence-transformers, but for rounding.

    A sentence without any token of its own, or of none but unknown ones, has no vector (``known``), where
    sentence-transformers gives the one of the special tokens around it.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        layout: Layout,
        tokens: Tokens,
        network: Network,
        pooling: Pooling,
        heads: nn.Sequential,
        dimensions: int,
        *,
        threads: int,
        prompt: str | None = None,
    ) -> None:
        self.name, self.digest, self.dimensions = name, digest, dimensions
        self.layout, self.pooling = layout, pooling
        self._tokens, self._network, self._heads = tokens, network, heads
        self._workers = Workers(threads)
        self._prompt = prompt if prompt is not None else layout.prompts.get(layout.default_prompt or "", "")

    @property
    def longest(self) -> int:
        """Tokens of a sentence that are taken, the special ones included; what comes after is left out, and said so."""
        return self._tokens.longest

    def embed(self, sentences: Sequence[str]) -> Embedded:
        """Vectors of these sentences, each text computed once. Raises BadInputError for what is no text."""
        distinct = list(dict.fromkeys(require_texts(sentences)))
        place = {text: index for index, text in enumerate(distinct)}
        at = np.array([place[text] for text in sentences], np.int64)
        cuts = self._tokens.cut(distinct, self._prompt)
        vectors = np.zeros((len(distinct), self.dimensions), np.float32)
        known = [index for index, cut in enumerate(cuts) if cut.used]
        pieces = list(_pieces(known, cuts))
        for piece, found in zip(
            pieces, self._workers.map(lambda one: self._vectors([cuts[i] for i in one]), pieces), strict=True
        ):
            vectors[piece] = found
        return Embedded(
            vectors[at],
            np.array([cut.used > 0 for cut in cuts], np.bool_)[at],
            np.array([cut.tokens for cut in cuts], np.int64)[at],
            np.array([cut.used for cut in cuts], np.int64)[at],
            np.array([cut.truncated for cut in cuts], np.bool_)[at],
        )

    def _vectors(self, cuts: Sequence[Cut]) -> Floats:
        lengths, prompts = (torch.tensor(of) for of in ([len(cut.ids) for cut in cuts], [cut.prompt for cut in cuts]))
        with torch.inference_mode():
            states = self._network([cut.ids for cut in cuts])
            found: Floats = self._heads(self.pooling(states, lengths, prompts)).numpy()
        return found


def load_encoder(
    files: ModelFiles, *, name: str | None = None, prompt: str | None = None, threads: int | None = None
) -> Encoder:
    """An encoder from the files of a sentence-transformers model, or of a plain encoder of Hugging Face's; of the
    latter a sentence's vector is the mean of its tokens' (``layout.pooling_assumed``).

    Parameters
    ----------
    name : what tables call it; the folder's name if not given.
    prompt : the name of one of the model's prompts, put before every sentence; its default one if not given.
    threads : cores that are used; all if not given.

    Raises NotFoundError where files are missing, BadInputError naming the file and field that is malformed,
    UnsupportedError naming what is not known. Nothing is downloaded.
    """
    layout = read_layout(files)
    if prompt is not None and prompt not in layout.prompts:
        known = ", ".join(layout.prompts) or "it has none"
        raise BadInputError(f"has no prompt {prompt[:40]!r}", where=files.where, hint=known)
    if threads is not None and threads < 1:
        raise BadInputError(f"{threads} is not a number of cores", where="threads")
    folder = layout.transformer.path
    config, where, held = layout.transformer.config, _named(files, folder, "config.json"), _named(files, folder)
    arrays = read_weights(files, folder)
    network: Network
    if is_native(config):
        network = Packed(read_network(config, arrays, where, held))
    else:
        network = ThroughTransformers(build_model(config, arrays, where, held))
    tokens = read_tokens(files, folder, config, layout.longest, network.longest, layout.lower_case)
    vocabulary = config.get("vocab_size")
    if isinstance(vocabulary, int) and tokens.largest >= vocabulary:
        what = f"is {vocabulary}, but the tokenizer has the id {tokens.largest}"
        raise BadInputError(what, where=f"{where}: vocab_size")
    first, *rest = layout.after
    pooling = read_pooling(first.config, network.width, first.named(files))
    heads, dimensions = read_heads(files, rest, pooling.width(network.width))
    return Encoder(
        name or posixpath.basename(files.where.rstrip("/")) or files.where,
        _digest(layout, arrays, tokens, heads, prompt),
        layout,
        tokens,
        network,
        pooling,
        heads,
        dimensions,
        threads=threads or cores(),
        prompt=None if prompt is None else layout.prompts[prompt],
    )


def _named(files: ModelFiles, *parts: str) -> str:
    path = posixpath.join(*parts)
    return f"{files.where}: {path}" if path else files.where


def _pieces(known: Sequence[int], cuts: Sequence[Cut]) -> Iterator[list[int]]:
    """Sentences of like length in pieces of TOKENS_AT_ONCE, the longest first: a long piece should not begin last."""
    piece: list[int] = []
    total = 0
    for index in sorted(known, key=lambda one: (-len(cuts[one].ids), one)):
        size = len(cuts[index].ids)
        if piece and total + size > TOKENS_AT_ONCE:
            yield piece
            piece, total = [], 0
        piece.append(index)
        total += size
    if piece:
        yield piece


def _digest(layout: Layout, arrays: dict[str, Floats], tokens: Tokens, heads: nn.Module, prompt: str | None) -> str:
    """Of all that a vector hangs on: the weights, the tokenizer, the settings."""
    total = hashlib.blake2b(digest_size=16)
    told = [layout, sorted(layout.prompts.items()), prompt, tokens.longest]
    total.update(repr(told).encode())
    total.update(tokens.described().encode())
    held = {f"heads.{name}": tensor.detach().numpy() for name, tensor in heads.named_parameters()}
    for name, array in sorted({**arrays, **held}.items()):
        total.update(f"\0{name}\0{array.shape}\0".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
