"""Block times that were measured here (``quiltwork serve profile``), kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import isfinite
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.servable import Json
from quiltwork.serving.policy.cost import CostTable, SegmentProfile, joined
from quiltwork.zoo.types import Block, Part

FORMAT = "quiltwork.profile/1"
_NUMBERS = ("context_s", "prompt_context_s", "weight_bytes", "kv_bytes", "hidden_bytes")


def signature(block: Block) -> str:
    """What decides a block's speed: kind, architecture and shapes, but no weights. Equal ones cost the same."""
    shapes = sorted((t.name, tuple(t.shape)) for t in block.walk())
    told = json.dumps([block.kind, sorted((k, str(v)) for k, v in block.arch.items()), shapes])
    return f"{block.kind}-{blake2b(told.encode(), digest_size=6).hexdigest()}"


@dataclass(frozen=True)
class MeasuredBlock:
    """One kind of block of one shape."""

    rows: tuple[tuple[int, float], ...]
    """(rows of a batch, seconds), attention over the context left out."""
    context_s: float
    prompt_context_s: float
    weight_bytes: int
    kv_bytes: int
    hidden_bytes: int

    @property
    def profile(self) -> SegmentProfile:
        """As the policies take it."""
        table = CostTable(tuple(float(r) for r, _ in self.rows), tuple(s for _, s in self.rows))
        return SegmentProfile(
            table,
            context_s=self.context_s,
            weight_bytes=self.weight_bytes,
            kv_bytes=self.kv_bytes,
            hidden_bytes=self.hidden_bytes,
            prompt_context_s=self.prompt_context_s,
        )


@dataclass(frozen=True)
class Measured:
    """What one run of the profile command found, and under which conditions."""

    blocks: Mapping[str, MeasuredBlock]
    """By ``signature``."""
    conditions: Mapping[str, Json]
    """Machine, threads, dtype, device, repeats, load."""

    def segment(self, parts: Sequence[Part]) -> SegmentProfile:
        """The profile of a run of blocks. Raises NotFoundError naming a block that was not measured."""
        return joined([self._of(part).profile for part in parts])

    def _of(self, part: Part) -> MeasuredBlock:
        found = self.blocks.get(signature(part.block))
        if found is None:
            raise NotFoundError(
                "no block of its kind and shape was measured", where=part.name, hint="quiltwork serve profile"
            )
        return found


def write_measured(measured: Measured, path: Path) -> None:
    """As JSON. Raises BadInputError where the file cannot be written."""
    try:
        path.write_text(json.dumps(document(measured), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"cannot be written: {error.strerror}", where=str(path)) from error


def document(measured: Measured) -> dict[str, Json]:
    """As JSON."""
    blocks = {name: asdict(block) for name, block in sorted(measured.blocks.items())}
    return {"format": FORMAT, "conditions": dict(measured.conditions), "blocks": blocks}


def read_measured(path: str | Path) -> Measured:
    """Raises NotFoundError, or BadInputError naming the file and the field."""
    where = Path(path)
    try:
        found = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError("there is no such profile", where=str(where), hint="quiltwork serve profile") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError("is not JSON", where=str(where)) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadInputError(f"is not of format {FORMAT}", where=f"{where}: format")
    blocks = found.get("blocks")
    if not isinstance(blocks, dict) or not blocks:
        raise BadInputError("must name what was measured", where=f"{where}: blocks")
    read = {name: _block(value, f"{where}: blocks.{name}") for name, value in blocks.items()}
    conditions = found.get("conditions", {})
    return Measured(read, conditions if isinstance(conditions, dict) else {})


def _block(value: Json, where: str) -> MeasuredBlock:
    if not isinstance(value, dict):
        raise BadInputError("must be a set of named fields", where=where)
    numbers = {}
    for name in _NUMBERS:
        number = value.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number) or number < 0:
            raise BadInputError("must be a number that is not negative", where=f"{where}.{name}")
        numbers[name] = number
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows:
        raise BadInputError("must list pairs of rows and seconds", where=f"{where}.rows")
    pairs: list[tuple[int, float]] = []
    for i, pair in enumerate(rows):
        good = isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and type(pair[1]) in (int, float)
        if not good or pair[1] < 0 or not isfinite(pair[1]) or pair[0] <= (pairs[-1][0] if pairs else 0):
            raise BadInputError("must be ascending rows with their seconds", where=f"{where}.rows[{i}]")
        pairs.append((pair[0], float(pair[1])))
    return MeasuredBlock(
        tuple(pairs), float(numbers["context_s"]), float(numbers["prompt_context_s"]),
        int(numbers["weight_bytes"]), int(numbers["kv_bytes"]), int(numbers["hidden_bytes"]),
    )  # fmt: skip
