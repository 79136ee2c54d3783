"""In a process of its own: paragraph vectors of sentences in an order that a seed decides; prints their digest."""

from __future__ import annotations

import hashlib
import json
import random
import sys

import numpy as np

from quiltwork.text.files import Folder
from quiltwork.text.paragraph.folder import load
from quiltwork.text.paragraph.inference import Inference


def main() -> None:
    """Arguments: the model's folder, the way to infer (JSON), a file of sentences (JSON), the seed."""
    folder, way, sentences, seed = sys.argv[1:]
    with open(sentences, encoding="utf-8") as file:
        asked = json.load(file)
    order = list(range(len(asked)))
    random.Random(int(seed)).shuffle(order)
    embedder = load(Folder(folder), Inference(**json.loads(way), seed=int(seed)))
    found = np.empty((len(asked), embedder.dimensions), np.float32)
    found[order] = embedder.embed([asked[i] for i in order]).vectors
    print(hashlib.sha256(found.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
