"""The frozen word2vecs that paragraph vectors are compared over, trained as a stranger would; and gensim's Doc2Vec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

CORPORA = ("elife.ccby", "evinf.ccby", "smallbio", "coronaml")
METHODS = ("cbow", "skip-gram")


def corpus(data: Path, quick: bool) -> list[str]:
    """The files that are trained on; quick: the smallest alone."""
    return [str(data / "text" / "corpus" / f"{name}.txt.xz") for name in (CORPORA[-1:] if quick else CORPORA)]


def cut(files: Sequence[str], tokens: Path) -> int:
    """Cut the corpus into tokens once, for all trainings; returns how many."""
    from quiltwork.text.token_corpus import token_corpus

    return len(token_corpus([Path(file) for file in files], cache=tokens).ids)


def train(method: str, files: Sequence[str], tokens: Path, out: Path, seed: int) -> str:
    """One pass, hierarchical softmax, 100 dimensions, as ``quiltwork text train --model pv`` does; for a process of
    its own. Returns ``out``."""
    from quiltwork.core.trainable import Setup
    from quiltwork.text.vectors.training import text_vectors

    trainable = text_vectors()
    config = {"model": "pv", "method": method, "corpus": list(files), "out": str(out), "tokens": str(tokens)}
    trainable.setup(Setup(config, seed))
    while not trainable.step().finished:
        pass
    return str(out)


def doc2vec(
    memory: bool, files: Sequence[str], tokens: Path, asked: Sequence[Sequence[str]], epochs: Sequence[int], seed: int
) -> Mapping[int, npt.NDArray[np.float32]]:
    """gensim's Doc2Vec, trained for five epochs on the corpus: vectors of the asked sentences (n, d) by how many
    epochs they are inferred with. memory : PV-DM, else PV-DBOW."""
    from gensim.models.doc2vec import Doc2Vec, TaggedDocument

    from quiltwork.text.token_corpus import token_corpus

    found = token_corpus([Path(file) for file in files], cache=tokens)
    begins = np.concatenate([[0], found.sentence_ends[:-1]])
    spans = zip(begins.tolist(), found.sentence_ends.tolist(), strict=True)
    words = np.array(found.words, dtype=object)
    documents = [TaggedDocument(words[found.ids[a:b]].tolist(), [number]) for number, (a, b) in enumerate(spans)]
    model = Doc2Vec(documents, dm=int(memory), vector_size=100, min_count=5, epochs=5, workers=1, seed=seed)
    made = {}
    for count in epochs:
        model.random.seed(seed)
        made[count] = np.stack([model.infer_vector(list(tokens), epochs=count) for tokens in asked])
    return made
