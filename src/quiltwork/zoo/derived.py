"""Models made here from others: blocks that are there already, and a few new ones. (BlockLLM's stitches, surrogates.)

What an ordinary architecture can express gets the recipe of an ordinary Hugging Face directory, so that it is exported
like any other model; the rest has none, and export says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import ConflictError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.zoo import recipe as recipes
from quiltwork.zoo.dtypes import from_float32
from quiltwork.zoo.families import FAMILIES
from quiltwork.zoo.plan import make_plan
from quiltwork.zoo.recipe import FileRecipe, Recipe, Residue, TensorPiece
from quiltwork.zoo.types import Model, Part, RawTensor, Substitution, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.session import Session
    from quiltwork.zoo.zoo import Zoo

STITCHED = "stitched"
"""The family of chains that hold a stitch: served, and known to no other program."""
MADE = "made"
"""The kind of recipe of a model that never was a directory and cannot become one."""
SUBSTITUTIONS = "substitutions.json"
"""The file that tells, in an exported model, which of its parts other models' blocks serve, and at what cost."""
_ENDS = (("embed", "tokens.weight"), ("head", "lm_head.weight"))


@dataclass(frozen=True)
class Derived:
    """A model about to be registered; all its tensors have been put."""

    ref: ModelRef
    family: str
    parts: Sequence[Part]
    config: Mapping[str, Json]
    files: Mapping[str, str]
    """The tokenizer's files and the like, by content id; no config.json."""
    measured: Mapping[str, Json]
    base: ModelRef | None = None
    notes: Sequence[str] = field(default=())
    substitutions: Sequence[Substitution] = field(default=())


def put_values(
    session: Session, role: str, values: npt.NDArray[np.float32], dtype: str = "F32", near: str | None = None
) -> TensorRef:
    """Put float32 values as a tensor of ``dtype``, rounded to nearest; ``near`` as in ``Session.tensor``."""
    raw = RawTensor(dtype, values.shape, from_float32(np.ascontiguousarray(values), dtype))
    stored = session.tensor(raw, near)
    return TensorRef(role, dtype, values.shape, stored.content, stored.stored_dtype)


def require_free(zoo: Zoo, ref: ModelRef, *, replace: bool) -> None:
    """Raise ConflictError where a model has that name: asked before an hour's training, not after it."""
    if replace:
        return
    try:
        zoo.model(ref)
    except NotFoundError:
        return
    raise ConflictError("the name is taken", where=str(ref), hint="choose another with --name, or --replace it")


def register(session: Session, derived: Derived, *, replace: bool = False) -> Model:
    """Commit a derived model. Raises ConflictError where the name is taken and ``replace`` is not set."""
    files = dict(derived.files)
    recipe = Recipe(MADE)
    if derived.family in FAMILIES:
        files["config.json"] = session.file(json.dumps(dict(derived.config), indent=2, sort_keys=True).encode())
        if derived.substitutions:
            told = [substitution.to_json() for substitution in derived.substitutions]
            about = {"adapted_from": str(derived.base), "measured": dict(derived.measured), "substitutions": told}
            files[SUBSTITUTIONS] = session.file((json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
        if not any(part.attachments for part in derived.parts):
            recipe = _directory(derived, files)
    return session.commit(
        derived.ref,
        family=derived.family,
        parts=derived.parts,
        config=derived.config,
        files=files,
        recipe=recipes.dump(recipe),
        base=derived.base,
        notes=derived.notes,
        measured=derived.measured,
        substitutions=derived.substitutions,
        replace=replace,
    )


def refuse_export(model: Model) -> UnsupportedError:
    """Why a model whose recipe is MADE cannot be written as files of its own."""
    if model.family == STITCHED:
        return UnsupportedError(
            "holds a stitch, which no Hugging Face architecture computes: it is served, not exported",
            where=str(model.ref),
        )
    return UnsupportedError(
        "was made here from an adapter and its base", where=str(model.ref), hint="--merged writes it as one model"
    )


def _directory(derived: Derived, files: Mapping[str, str]) -> Recipe:
    """The recipe of a Hugging Face directory that holds the parts under the names of their family.

    Raises UnsupportedError where the configuration describes other parts than these.
    """
    planned = {part.name: part for part in make_plan(FAMILIES[derived.family], derived.config).walk()}
    walked = [inner for part in derived.parts for inner in part.walk()]
    if [part.name for part in walked] != list(planned):
        raise UnsupportedError("its layers are not those of its configuration", where=str(derived.ref))
    tensors: dict[str, TensorRef] = {}
    contents = {(part.name, t.name): t.content for part in walked for t in part.block.tensors}
    tied = bool(derived.config.get("tie_word_embeddings", FAMILIES[derived.family].defaults["tie_word_embeddings"]))
    if tied and contents[_ENDS[0]] != contents[_ENDS[1]]:
        raise UnsupportedError("head and embedding are tied in its configuration, yet differ", where=str(derived.ref))
    for part in walked:
        plan = planned[part.name]
        if dict(plan.arch) != dict(part.block.arch):
            different = sorted(k for k in plan.arch if plan.arch[k] != part.block.arch.get(k))
            raise UnsupportedError(
                f"its configuration cannot describe {', '.join(different)}", where=f"{derived.ref}: {part.name}"
            )
        for tensor in part.block.tensors:
            if not (tied and (part.name, tensor.name) == _ENDS[1]):
                tensors[plan.tensors[tensor.name].name] = tensor
    header: dict[str, Json] = {"__metadata__": {"format": "pt"}}
    pieces: list[TensorPiece | Residue] = []
    at = 0
    for name, tensor in sorted(tensors.items()):
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        pieces.append(TensorPiece(tensor.content, tensor.stored_dtype, tensor.dtype, tensor.nbytes))
        at += tensor.nbytes
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    first = Residue(len(written).to_bytes(8, "little") + written)
    whole = [FileRecipe(name, content=content) for name, content in sorted(files.items())]
    return Recipe("directory", (*whole, FileRecipe("model.safetensors", (first, *pieces))))
