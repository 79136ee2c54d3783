"""Finding benchmarks: the folder upwards from here, the files in it, the claims they declare."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from quiltwork.core.bench.claim import Claim, Outcome
from quiltwork.core.bench.context import Context
from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.registry import missing_package

FOLDER = "benchmarks"


@dataclass(frozen=True)
class Benchmark:
    """A file that settles one or more claims in one run."""

    path: Path
    claims: tuple[Claim, ...]
    run: Callable[[Context], Mapping[str, Outcome]]


def find_folder(start: Path) -> Path:
    """The nearest ``benchmarks`` folder in ``start`` or above it. Raises NotFoundError where there is none."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FOLDER).is_dir():
            return folder / FOLDER
    raise NotFoundError(f"no folder {FOLDER!r} here or above", where=str(start), hint="run it inside the repository")


def discover(folder: Path) -> tuple[Benchmark, ...]:
    """Every benchmark in the folder, by file name.

    The files are imported, with the folder itself on the import path for what they share. Raises BadInputError naming
    a file that cannot be imported or declares something else than a benchmark, or a claim that is declared twice.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found = tuple(_load(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_"))
    declared: dict[str, Path] = {}
    for benchmark in found:
        for claim in benchmark.claims:
            if claim.name in declared:
                raise BadInputError(
                    f"{claim.name} is declared in {declared[claim.name].name}", where=str(benchmark.path)
                )
            declared[claim.name] = benchmark.path
    return found


def benchmark_of(claim: str, benchmarks: Sequence[Benchmark]) -> Benchmark:
    """The benchmark that settles a claim. Raises NotFoundError naming claims that are called alike."""
    for benchmark in benchmarks:
        if any(declared.name == claim for declared in benchmark.claims):
            return benchmark
    names = [declared.name for benchmark in benchmarks for declared in benchmark.claims]
    close = difflib.get_close_matches(claim, names)
    hint = f"did you mean {' or '.join(close)}" if close else "quiltwork bench ls"
    raise NotFoundError(f"there is no claim {claim[:80]!r}", where=FOLDER, hint=hint)


def _load(path: Path) -> Benchmark:
    module = _import(path)
    claims, run = getattr(module, "CLAIMS", None), getattr(module, "run", None)
    if not isinstance(claims, list | tuple) or not claims or not all(isinstance(claim, Claim) for claim in claims):
        raise BadInputError("CLAIMS is not a sequence of claims", where=str(path))
    if not callable(run):
        raise BadInputError("there is no function run(context)", where=str(path))
    return Benchmark(path, tuple(claims), run)


def _import(path: Path) -> ModuleType:
    # A name of its own: benchmarks/queue.py is not the standard library's queue.
    name = f"_benchmark_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInputError("cannot be imported", where=str(path))
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise missing_package(error, where=str(path)) from error
    except SyntaxError as error:
        raise BadInputError(f"line {error.lineno}: {error.msg}", where=str(path)) from error
    except BadInputError as error:
        raise BadInputError(str(error), where=str(path)) from error
    return module
