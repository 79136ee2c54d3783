"""Scored pairs of sentences, cut into tokens, and which of them are only measured on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.columns import read_columns
from quiltwork.text.encoder.finetuning.config import FineTuning
from quiltwork.text.encoder.tokenizing import Cut, Tokens


@dataclass(frozen=True)
class ScoredPairs:
    """n pairs."""

    a: tuple[Cut, ...]
    b: tuple[Cut, ...]
    wanted: npt.NDArray[np.float32]
    """(n,) the cosine that each is to have, 0 to 1."""
    digest: str
    """Of their texts and scores."""
    truncated: int
    """How many have a sentence that is too long for the model."""

    def __len__(self) -> int:
        return len(self.wanted)

    def some(self, ids: npt.NDArray[np.int64]) -> ScoredPairs:
        """Those of these places."""
        return ScoredPairs(
            tuple(self.a[i] for i in ids), tuple(self.b[i] for i in ids), self.wanted[ids], self.digest, self.truncated
        )


def read_pairs(config: FineTuning, tokens: Tokens, prompt: str) -> tuple[ScoredPairs, ScoredPairs]:
    """The pairs to learn from, and those that are only measured on: a pair is of the latter by a hash of its sentences,
    so that it stays there whatever is added to the table, and the same pair is never on both sides.

    Raises BadInputError naming file, line and column; also where one of the two would be empty.
    """
    table = read_columns(Path(config.pairs), [config.a, config.b, config.score])
    firsts, seconds = table.texts[config.a], table.texts[config.b]
    scores = [_score(text, config, place) for text, place in zip(table.texts[config.score], table.places, strict=True)]
    cuts = [tokens.cut(one, prompt) for one in (firsts, seconds)]
    for a, b, place in zip(*cuts, table.places, strict=True):
        if not (a.used and b.used):
            name = config.b if a.used else config.a
            raise BadInputError(f"{name}: there is no token that the model knows", where=place)
    aside = np.array([_is_aside(a, b, config.held_out) for a, b in zip(firsts, seconds, strict=True)], np.bool_)
    if not len(scores) or aside.all() or not aside.any():
        what = f"{len(scores)} pairs leave none to {'learn from' if aside.all() else 'measure on'}"
        raise BadInputError(what, where=config.pairs, hint="more pairs, or another held_out")
    text = repr((firsts, seconds, scores)).encode(errors="surrogatepass")
    pairs = ScoredPairs(
        tuple(cuts[0]),
        tuple(cuts[1]),
        np.array(scores, np.float32),
        hashlib.blake2b(text, digest_size=16).hexdigest(),
        sum(a.truncated or b.truncated for a, b in zip(*cuts, strict=True)),
    )
    return pairs.some(np.flatnonzero(~aside)), pairs.some(np.flatnonzero(aside))


def _score(text: str, config: FineTuning, place: str) -> float:
    try:
        score = float(text)
    except ValueError as error:
        raise BadInputError(f"{config.score}: {text[:40]!r} is no number", where=place) from error
    if not math.isfinite(score) or not config.least <= score <= config.most:
        between = f"from {config.least:g} to {config.most:g}"
        hint = "`least` and `most` say what scores mean"
        raise BadInputError(f"{config.score}: {text[:40]} is not {between}", where=place, hint=hint)
    return (score - config.least) / (config.most - config.least)


def _is_aside(a: str, b: str, share: float) -> bool:
    told = hashlib.blake2b("\0".join(sorted((a, b))).encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(told.digest(), "big") < share * 2**64
