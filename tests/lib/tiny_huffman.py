"""A small word2vec with a Huffman tree, of random numbers: large enough that sigmoids saturate a little."""

from __future__ import annotations

import numpy as np

from quiltwork.text.paragraph.huffman import HuffmanVectors

WORDS = (
    "gene", "cell", "protein", "the", "of", "in", "mutation", "kinase", "binds", "tumour", "p53", "not", "-", ".",
)  # fmt: skip


def tiny_huffman(seed: int = 0, d: int = 12, scale: float = 1.0) -> HuffmanVectors:
    """The tree is a spine: word k turns off it at the k-th node, so that later words have longer paths."""
    rng = np.random.default_rng(seed)
    n = len(WORDS)
    lengths = [min(k + 1, n - 1) for k in range(n)]
    return HuffmanVectors(
        WORDS,
        rng.normal(0, scale, (n, d)).astype(np.float32),
        rng.normal(0, scale, (n - 1, d)).astype(np.float32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
        np.concatenate([[0] * (length - 1) + [int(k < n - 1)] for k, length in enumerate(lengths)]).astype(np.uint8),
    )
