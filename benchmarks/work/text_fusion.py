"""The scorers that the room's figures are of: chosen on CTR, and frozen before BIOSSES was looked at.

``text_choices.json`` holds every choice; ``FROZEN`` is its digest. A figure of other choices is another figure.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.core.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from quiltwork.text.scorer import Scorer

FILE = Path(__file__).with_name("text_choices.json")
FROZEN = ""
TRAINED = "QUILTWORK_TRAINED"
"""Environment variable: the folder of trained models, a folder for each seed."""
Choices = Mapping[str, Any]
Named = dict[str, "Scorer"]


def frozen() -> tuple[Choices, str]:
    """The choices and their digest. Raises BadInputError where they are not those that were frozen."""
    choices: Choices = json.loads(FILE.read_text(encoding="utf-8"))
    found = digest(choices)
    if found != FROZEN:
        raise BadInputError(f"has the digest {found[:12]}, frozen was {FROZEN[:12]}", where=FILE.name)
    return choices, found[:12]


def digest(choices: Choices) -> str:
    """Of what the file says, however it is laid out."""
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()


def strings(choices: Choices) -> Scorer:
    """The scorer that needs no training."""
    return composed(choices["strings"], {name: _words(name) for name in _named(choices["strings"])})


def trained_folders(choices: Choices, environment: Mapping[str, str] = os.environ) -> dict[int, Path]:
    """The folder of each seed's word vectors. Raises NotFoundError, which says how they are made, where one is not."""
    root, pattern = environment.get(TRAINED, ""), choices["vectors"]["folder"]
    folders = {seed: Path(root) / pattern.format(seed=seed) for seed in choices["vectors"]["seeds"]}
    absent = next((folder for folder in folders.values() if not root or not folder.is_dir()), None)
    if absent is not None:
        hint = f"train them (docs/text-evaluation.md) and set {TRAINED} to the folder that holds {pattern}"
        raise NotFoundError("needs trained vectors", where=str(absent), hint=hint)
    return folders


def composed(recipe: Any, parts: Mapping[str, Scorer]) -> Scorer:
    """A scorer by name, or ``{"mean": [...]}`` of such."""
    from quiltwork.text.scorer import Mean

    if isinstance(recipe, str):
        return parts[recipe]
    scorers = tuple(composed(one, parts) for one in recipe["mean"])
    return Mean(f"mean({', '.join(scorer.name for scorer in scorers)})", scorers)


def basic(choices: Choices) -> Named:
    """Scorers that hang on no training seed: measures of words, and the packaged encoder."""
    from quiltwork.text.evaluate.models import PACKAGED, open_model
    from quiltwork.text.scorer import Cosine

    wanted = [name for recipe in ("unsupervised", "with_encoder", "hybrid") for name in _named(choices[recipe])]
    found: Named = {name: _words(name) for name in dict.fromkeys(wanted) if name not in ("vectors", "encoder")}
    return found | {"encoder": Cosine(open_model(PACKAGED, name="encoder"))}


def vectors(choices: Choices, folder: Path) -> Scorer:
    """The cosine of one seed's word vectors, pooled as was chosen."""
    from quiltwork.text.evaluate.models import Named as Renamed
    from quiltwork.text.files import Folder
    from quiltwork.text.scorer import Cosine
    from quiltwork.text.vectors.pooling import load_word_embedder

    embedder = load_word_embedder(Folder(folder), pooling(choices["vectors"]["pooling"]))
    return Cosine(Renamed("vectors", embedder))


def pooling(told: Any) -> Any:
    """A pooling by its name, or with some of its fields replaced."""
    from dataclasses import replace

    from quiltwork.text.vectors.pooling import pooling_named

    return pooling_named(told) if isinstance(told, str) else replace(pooling_named(told["name"]), **told["with"])


def _named(recipe: Any) -> Iterable[str]:
    if isinstance(recipe, str):
        return [recipe]
    return [name for one in (recipe["mean"] if isinstance(recipe, dict) else recipe) for name in _named(one)]


def _words(name: str) -> Scorer:
    from quiltwork.text.evaluate.candidates import words

    return words(name)
