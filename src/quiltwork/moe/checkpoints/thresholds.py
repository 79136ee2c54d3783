"""A threshold for each layer of a checkpoint, as a file that loaders and servers read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.servable import Json
from quiltwork.moe.gate import WEIGHTS
from quiltwork.moe.gates import READINGS, Adaptive
from quiltwork.zoo.config import read_json

VERSION = "quiltwork_moe_thresholds"


@dataclass(frozen=True)
class Thresholds:
    """Up to ``most`` experts for a token, the m-th while R_1 - R_m <= its layer's threshold."""

    layers: Mapping[int, float]
    """By the index of the layer. Below 0: always one expert; at least 1: always ``most``."""
    most: int
    reading: str = "softmax"
    weights: str = "sum_to_one"
    figures: Mapping[str, Json] = field(default_factory=dict)
    """How they were found, and what they were measured to do."""

    def gates(self) -> dict[int, Adaptive]:
        """By layer, for ``load_moe`` and ``set_gates``."""
        return {i: Adaptive(t, self.most, self.reading, self.weights) for i, t in self.layers.items()}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write them as JSON. Raises QuiltworkError where that is not possible."""
        document = {
            VERSION: 1, "most": self.most, "reading": self.reading, "weights": self.weights,
            "layers": {str(index): threshold for index, threshold in self.layers.items()},
            "figures": dict(self.figures),
        }  # fmt: skip
        with disk_errors(Path(path)):
            Path(path).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_thresholds(path: str | os.PathLike[str]) -> Thresholds:
    """What ``Thresholds.write`` wrote. Raises NotFoundError, BadInputError naming the field."""
    where = str(path)
    if not Path(path).is_file():
        raise NotFoundError("no such file", where=where)
    document = read_json(Path(path))
    if document.get(VERSION) != 1:
        raise BadInputError("is no file of thresholds", where=where, hint="quiltwork moe calibrate writes one")
    layers, most = document.get("layers"), document.get("most")
    if not isinstance(layers, Mapping) or not layers:
        raise BadInputError("must be thresholds by layer", where=f"{where}: layers")
    found: dict[int, float] = {}
    for index, value in layers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (index.isascii() and index.isdigit() and number):
            raise BadInputError(f"{value!r:.40} is no threshold of a layer", where=f"{where}: layers: {index:.40}")
        found[int(index)] = float(value)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise BadInputError("must be at least 1", where=f"{where}: most")
    for name, kinds in (("reading", READINGS), ("weights", WEIGHTS)):
        if document.get(name) not in kinds:
            raise BadInputError(f"must be one of {', '.join(kinds)}", where=f"{where}: {name}")
    figures = document.get("figures", {})
    return Thresholds(
        found, most, document["reading"], document["weights"], figures if isinstance(figures, Mapping) else {}
    )
