"""Prompts as token ids. New ones for every repeat, the same for every side, so that no side lives off a warm prefix."""

from __future__ import annotations

import random


def prompts(count: int, length: int, vocab: int, *, seed: int, repeat: int | str = 0) -> list[list[int]]:
    """``count`` prompts of ``length`` tokens; the first three ids (unk, bos, eos) do not occur."""
    rng = random.Random(f"{seed}/{repeat}")
    return [[rng.randrange(3, vocab) for _ in range(length)] for _ in range(count)]
