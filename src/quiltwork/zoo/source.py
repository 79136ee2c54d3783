"""What a model comes in: its files, links and the tensors in its weight files, before anything is stored."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.zoo.config import read_json
from quiltwork.zoo.formats import safetensors, torch_bin
from quiltwork.zoo.formats.rotary_rows import half_split
from quiltwork.zoo.formats.weights import Slice, WeightsFile, read_slice
from quiltwork.zoo.types import RawTensor

_MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""What is loaded, in transformers' and PEFT's order of preference."""

_DEEPEST = 16


@dataclass(frozen=True)
class Entry:
    """A file, link or empty folder of the directory."""

    path: str
    """Relative, with ``/``."""
    file: Path | None = None
    """Where its content is, for a file."""
    link: str | None = None
    """What it points to, for a link that stays inside the directory."""


@dataclass(frozen=True)
class Source:
    """A scanned directory."""

    root: Path
    entries: tuple[Entry, ...]
    weights: Mapping[str, WeightsFile]
    """Files whose tensors are known, by relative path."""
    tensors: Mapping[str, tuple[str, Slice]]
    """The model's or adapter's tensors: name -> (file's relative path, slice)."""
    notes: tuple[str, ...]
    kind: str = "directory"
    """``directory``, or ``file`` for a model that is one file."""
    rope_heads: Mapping[str, int] = field(default_factory=dict)
    """Tensors whose rows stand in interleaved order, and how many heads they are for."""

    def slices(self) -> dict[str, Slice]:
        """The tensors without their files."""
        return {name: item for name, (_, item) in self.tensors.items()}

    def read(self, name: str) -> RawTensor:
        """One of the model's tensors, in the row order of Hugging Face."""
        path, item = self.tensors[name]
        return self.ordered(name, read_slice(self.weights[path].map(), item))

    def ordered(self, name: str, raw: RawTensor) -> RawTensor:
        """A tensor just read, its rows put in the order of Hugging Face where they are not."""
        heads = self.rope_heads.get(name)
        return raw if heads is None else RawTensor(raw.dtype, raw.shape, half_split(raw.data, raw.shape[0], heads))

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.file.stat().st_size for entry in self.entries if entry.file is not None)

    def file(self, path: str) -> Path | None:
        """The content of a file of the directory, links followed."""
        found = self.root / path
        return found if found.is_file() else None


def scan(root: Path) -> Source:
    """List a model's or adapter's directory and read the headers of its weight files.

    Links that stay inside are kept as links; those that lead outside (a Hugging Face cache) are followed.
    Raises BadInputError naming the file that is missing, malformed or not a file at all.
    """
    notes: list[str] = []
    entries = tuple(_walk(root, root.resolve(), "", notes, (os.path.realpath(root),)))
    adapter = (root / "adapter_config.json").is_file()
    loaded, named = _loaded(root, _ADAPTER_WEIGHTS if adapter else _MODEL_WEIGHTS)
    weights: dict[str, WeightsFile] = {}
    for entry in entries:
        if entry.file is None:
            continue
        read = _reader(entry.path)
        if read is None and entry.path not in loaded:
            continue
        try:
            weights[entry.path] = (read or torch_bin.read_checkpoint)(entry.file)
        except UnsupportedError as error:
            if entry.path in loaded:
                raise
            notes.append(f"{entry.path} is kept as a whole: {error.what}")
    tensors: dict[str, tuple[str, Slice]] = {}
    for path in loaded:
        target = _follow(root, path, weights)
        for name, item in weights[target].tensors.items():
            if name in tensors and named.get(name, path) != path:
                continue
            tensors[name] = (target, item)
    for name, path in named.items():
        if name not in tensors:
            raise BadInputError(
                f"the index places the tensor {name[:100]!r} in {path}, which lacks it", where=str(root)
            )
    return Source(root, entries, weights, tensors, tuple(notes))


def _walk(folder: Path, top: Path, prefix: str, notes: list[str], above: tuple[str, ...]) -> Iterator[Entry]:
    if len(above) > _DEEPEST:
        raise BadInputError(f"folders are nested more than {_DEEPEST} deep", where=str(folder))
    try:
        found = sorted(os.scandir(folder), key=lambda item: item.name)
    except OSError as error:
        raise BadInputError(f"cannot be listed: {error.strerror}", where=str(folder)) from error
    if not found and prefix:
        yield Entry(prefix.removesuffix("/"))
    for item in found:
        path, where = prefix + item.name, str(Path(folder) / item.name)
        try:
            item.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadInputError("the file's name is not UTF-8", where=ascii(where)) from error
        if item.name == ".git":
            notes.append(f"{path} is left out")
            continue
        if item.is_symlink():
            target = os.readlink(item.path)
            real = Path(os.path.realpath(item.path))
            if not real.exists():
                raise BadInputError(f"is a link to {target!r}, which does not exist", where=where)
            # One step only: a link to a file that is itself a link out of here is a link inside.
            step = Path(os.path.realpath((Path(folder) / target).parent)) / Path(target).name
            if not os.path.isabs(target) and step.is_relative_to(top):
                yield Entry(path, link=target)
                continue
        try:
            kind = item.stat().st_mode
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=where) from error
        if stat.S_ISREG(kind):
            yield Entry(path, file=Path(item.path))
        elif stat.S_ISDIR(kind):
            real_folder = os.path.realpath(item.path)
            if real_folder in above:
                raise BadInputError("is a link to a folder above itself", where=where)
            yield from _walk(Path(item.path), top, path + "/", notes, (*above, real_folder))
        else:
            raise BadInputError("is neither a file nor a folder", where=where)


def _reader(path: str) -> Callable[[Path], WeightsFile] | None:
    name = path.rsplit("/", 1)[-1]
    if name.endswith(".safetensors"):
        return safetensors.read_header
    if name.endswith(".bin") and name.startswith(("pytorch_model", "adapter_model")):
        return torch_bin.read_checkpoint
    return None


def _loaded(root: Path, preferred: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Files that make up the model, and for a sharded one the file of every tensor."""
    for name in preferred:
        if not (root / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return [name], {}
        return _shards(root, name)
    raise NotFoundError(f"holds none of {', '.join(preferred)}", where=str(root))


def _shards(root: Path, index: str) -> tuple[list[str], dict[str, str]]:
    where = str(root / index)
    named = read_json(root / index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(path, str) for path in named.values()):
        raise BadInputError("weight_map is not an object from tensors to files", where=where)
    files = sorted(set(named.values()))
    for path in files:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
            raise BadInputError(f"weight_map names {path[:100]!r}, which is not a file beside it", where=where)
        if not (root / path).is_file():
            raise BadInputError(f"weight_map names {path[:100]!r}, which does not exist", where=where)
    return files, named


def _follow(root: Path, path: str, weights: Mapping[str, WeightsFile]) -> str:
    """The file whose tensors a loaded path has: itself, or what the link there points to."""
    if path in weights:
        return path
    real = (root / path).resolve()
    for candidate, file in weights.items():
        if file.path.resolve() == real:
            return candidate
    raise BadInputError("is a link to a file that is not among the weights", where=str(root / path))
