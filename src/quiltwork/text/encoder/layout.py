"""What an encoder's folder says of itself: which modules follow each other, how long a text may be, which prompts."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.text.files import ModelFiles, read_json

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where sentence-transformers keeps the longest text, by the names it has had."""
KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
"""The classes of sentence-transformers' modules that are known here, by their last names: their modules have moved."""


@dataclass(frozen=True)
class Module:
    """One module of a model."""

    kind: str
    """One of KINDS."""
    path: str
    """Its folder within the model's; empty for the model's own."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its ``config.json``; of a Transformer the model's."""

    def named(self, files: ModelFiles, name: str = "config.json") -> str:
        """What errors call a field of its configuration."""
        return f"{files.where}: {posixpath.join(self.path, name)}"


@dataclass(frozen=True)
class Layout:
    """A model's modules and settings, nothing loaded yet."""

    transformer: Module
    after: tuple[Module, ...]
    """Pooling first, then what is done with its vector."""
    pooling_assumed: bool
    """Whether the folder does not say how token vectors become one; the mean is taken then."""
    longest: int | None
    """Tokens of a text, its special ones included, where the folder says so."""
    lower_case: bool
    prompts: Mapping[str, str]
    default_prompt: str | None


def read_layout(files: ModelFiles) -> Layout:
    """Read the folder of a sentence-transformers model, of any of its layouts, or of a plain encoder.

    Raises NotFoundError where it is neither, BadInputError naming file and field of what is malformed, and
    UnsupportedError naming a module that is not known.
    """
    if files.has(MODULES):
        modules = _modules(files)
    elif files.has("config.json"):
        modules = [Module("Transformer", "", read_json(files, "config.json"))]
    else:
        raise NotFoundError(f"is no encoder: it has neither {MODULES} nor config.json", where=files.where)
    first, *rest = modules
    if first.kind != "Transformer":
        raise UnsupportedError(f"begins with {first.kind}, not with Transformer", where=f"{files.where}: {MODULES}")
    if any(one.kind == "Transformer" for one in rest):
        raise UnsupportedError("has more than one Transformer", where=f"{files.where}: {MODULES}")
    assumed = not rest or rest[0].kind != "Pooling"
    if assumed and rest:
        raise UnsupportedError(f"has {rest[0].kind} before Pooling", where=f"{files.where}: {MODULES}")
    longest, lower = _transformer_settings(files, first)
    prompts, default = _prompts(files)
    after = (Module("Pooling", "", {"pooling_mode": "mean"}),) if assumed else tuple(rest)
    return Layout(first, after, assumed, longest, lower, prompts, default)


def _modules(files: ModelFiles) -> list[Module]:
    where = f"{files.where}: {MODULES}"
    try:
        listed = json.loads(files.read(MODULES))
    except (ValueError, RecursionError) as error:
        raise BadInputError("is not JSON", where=where) from error
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise BadInputError("is not a list of modules", where=where)
    return [_module(files, one, f"{where}: module {index}") for index, one in enumerate(listed)]


def _module(files: ModelFiles, entry: Mapping[str, Any], where: str) -> Module:
    kind, path = entry.get("type"), entry.get("path", "")
    if not isinstance(kind, str):
        raise BadInputError("is missing", where=f"{where}: type")
    if not isinstance(path, str) or posixpath.isabs(path) or ".." in path.split("/"):
        raise BadInputError("is no folder within the model's", where=f"{where}: path")
    package, _, last = kind.rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or last not in KINDS:
        raise UnsupportedError(
            f"{kind[:80]} is not a known module", where=f"{where}: type", hint=f"known: {', '.join(KINDS)}"
        )
    name = posixpath.join(path, "config.json")
    # Normalize and Dropout were saved without any configuration once, and Normalize's folder may not even exist.
    bare = last in ("Normalize", "Dropout") and not files.has(name)
    return Module(last, path, {} if bare else read_json(files, name))


def _transformer_settings(files: ModelFiles, transformer: Module) -> tuple[int | None, bool]:
    for name in TRANSFORMER_CONFIGS:
        if files.has(path := posixpath.join(transformer.path, name)):
            break
    else:
        return None, False
    settings, where = read_json(files, path), f"{files.where}: {path}"
    if (task := settings.get("transformer_task", "feature-extraction")) not in ("feature-extraction", "fill-mask"):
        raise UnsupportedError(f"{str(task)[:40]} gives no vectors of tokens", where=f"{where}: transformer_task")
    longest, lower = settings.get("max_seq_length"), settings.get("do_lower_case", False)
    if longest is not None and (type(longest) is not int or longest < 1):
        raise BadInputError(f"must be a number of tokens, not {str(longest)[:40]}", where=f"{where}: max_seq_length")
    if not isinstance(lower, bool | None):
        raise BadInputError("must be true or false", where=f"{where}: do_lower_case")
    return longest, bool(lower)


def _prompts(files: ModelFiles) -> tuple[dict[str, str], str | None]:
    if not files.has(PROMPTS):
        return {}, None
    settings, where = read_json(files, PROMPTS), f"{files.where}: {PROMPTS}"
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise BadInputError("must be names with texts", where=f"{where}: prompts")
    if default is not None and default not in prompts:
        raise BadInputError(f"{str(default)[:40]!r} is not one of prompts", where=f"{where}: default_prompt_name")
    return {name: text or "" for name, text in prompts.items()}, default
