"""The word vectors that the room's figures are of: trained here, or taken from where an earlier run put them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

TRAINED = "QUILTWORK_TRAINED"
"""Environment variable: the folder in which trained models are kept from one run to the next."""
CORPUS = ("elife.ccby", "evinf.ccby", "smallbio", "coronaml")
SIZES = {"1_16": 1 / 16, "1_4": 1 / 4, "full": 1.0}
"""Shares of the corpus's words, by what folders call them."""
SETTINGS: dict[str, Json] = {
    "model": "fasttext", "dimensions": 150, "epochs": 3, "negative": 5, "window": 5, "shortest": 3, "longest": 6,
    "buckets": 300_000, "min_count": 5, "sample": 1e-4, "rate": 0.05,
}  # fmt: skip
EVERY = 100
"""Steps between two checkpoints."""
Model = tuple[str, int]


def folder_of(root: Path, model: Model) -> Path:
    """Where the model of a size and a seed is."""
    return root / f"fasttext-{model[0]}-{model[1]}"


def kept(scratch: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder in which models are kept; one that is gone after the run where none is named."""
    return Path(environment.get(TRAINED) or scratch / "trained")


def trained(
    data: Path,
    root: Path,
    models: Iterable[Model],
    changed: Mapping[str, Json] | None = None,
    corpus: Sequence[str] = CORPUS,
) -> dict[Model, Path]:
    """The folders of these models; what is not there yet is trained, a process for each core.

    Raises BadInputError where a model is there that was trained in another way.
    """
    settings = {**SETTINGS, **(changed or {})}
    texts = [str(data / "text" / "corpus" / f"{name}.txt.xz") for name in corpus]
    if missing := [path for path in texts if not Path(path).is_file()]:
        raise NotFoundError("needs the corpora", where=missing[0], hint="set QUILTWORK_DATA to the folder of real data")
    folders = {model: folder_of(root, model) for model in models}
    lacking = [model for model, folder in folders.items() if not (folder / "config.json").is_file()]
    if lacking:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            first, *rest = [_job(root, texts, settings, model) for model in lacking]
            # The first cuts the corpus into tokens for all.
            pool.submit(_cut, first).result()
            for done in [pool.submit(_train, job) for job in (first, *rest)]:
                done.result()
    for model, folder in folders.items():
        _require(folder, {**settings, "words": SIZES[model[0]], "seed": model[1]})
    return folders


def _job(root: Path, corpus: list[str], settings: Mapping[str, Json], model: Model) -> tuple[dict[str, Json], int]:
    places = {"out": str(folder_of(root, model)), "corpus": list(corpus), "tokens": str(root / "tokens")}
    return {**settings, **places, "words": SIZES[model[0]]}, model[1]


def _cut(job: tuple[dict[str, Json], int]) -> None:
    from quiltwork.text.token_corpus import token_corpus

    token_corpus([Path(path) for path in job[0]["corpus"]], cache=Path(str(job[0]["tokens"])))


def _train(job: tuple[dict[str, Json], int]) -> None:
    """Goes on from a checkpoint where an earlier run was stopped."""
    from quiltwork.core.checkpoint import CheckpointFile
    from quiltwork.core.run_training import run_training
    from quiltwork.core.trainable import Setup
    from quiltwork.text.vectors.training import text_vectors

    config, seed = job
    place = Path(f"{config['out']}.checkpoint.safetensors")
    made = text_vectors()
    made.setup(Setup(config, seed))
    run_training(made, CheckpointFile(place), every=EVERY, stop=lambda: False, tell=lambda report: None)
    place.unlink()


def _require(folder: Path, settings: Mapping[str, Json]) -> None:
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))["training"]
    other = sorted(name for name, value in settings.items() if told.get(name) != value)
    if other:
        what = f"was trained with {other[0]} {told.get(other[0])} instead of {settings[other[0]]}"
        raise BadInputError(what, where=str(folder), hint="remove it, and it is trained anew")
