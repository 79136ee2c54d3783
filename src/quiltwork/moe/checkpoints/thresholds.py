"""A threshold for each layer of a checkpoint, as a file that loaders and servers read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.servable import Json
from quiltwork.moe.gate_settings import FIELD, gates_document, gates_of
from quiltwork.moe.gates import Adaptive
from quiltwork.zoo.config import read_json


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
        """Write them as JSON, gates as ``config.json`` has them. Raises QuiltworkError where that is not possible."""
        document = {FIELD: gates_document(self.gates()), "figures": dict(self.figures)}
        with disk_errors(Path(path)):
            Path(path).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_thresholds(path: str | os.PathLike[str]) -> Thresholds:
    """What ``Thresholds.write`` wrote. Raises NotFoundError, BadInputError naming the field."""
    where = str(path)
    if not Path(path).is_file():
        raise NotFoundError("no such file", where=where)
    document = read_json(Path(path))
    if FIELD not in document:
        raise BadInputError("is no file of thresholds", where=where, hint="quiltwork moe calibrate writes one")
    gates = gates_of(document[FIELD], f"{where}: {FIELD}")
    if not gates:
        raise BadInputError("there are no gates", where=f"{where}: {FIELD}")
    layers: dict[int, float] = {}
    kinds: set[tuple[int, str, str]] = set()
    for index, gate in gates.items():
        if not isinstance(gate, Adaptive):
            raise BadInputError(f"{type(gate).__name__} has no threshold", where=f"{where}: {FIELD}: gates: {index}")
        layers[index] = float(gate.threshold)
        kinds.add((int(gate.most), gate.reading, gate.weights))
    if len(kinds) > 1:
        raise BadInputError("differ in more than their thresholds", where=f"{where}: {FIELD}: gates")
    figures = document.get("figures")
    return Thresholds(layers, *kinds.pop(), figures if isinstance(figures, Mapping) else {})
