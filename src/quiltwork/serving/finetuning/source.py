"""The model that a fine-tuning begins with: a Hugging Face checkpoint's folder, or one written out of a zoo."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import parse_ref
from quiltwork.serving.finetuning.config import LORA, WHERE, FineTuning
from quiltwork.serving.text import TextCodec, load_codec
from quiltwork.zoo import Zoo


@dataclass(frozen=True)
class Source:
    """A model on the disk."""

    folder: Path
    called: str
    """What an adapter made from it says of its base: the folder, or the model's name in the zoo."""

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"{WHERE}: model: {self.called}"

    def codec(self) -> TextCodec:
        """Its tokenizer. Raises BadInputError where it has none."""
        codec = load_codec(self._read)
        if codec is None:
            raise BadInputError("has no tokenizer", where=self.where)
        return codec

    def load(self, device: torch.device) -> tuple[Any, torch.dtype]:
        """The transformers model in float32, without dropout, and the precision that it is stored in.

        Raises BadInputError where it cannot be loaded whole.
        """
        from transformers import AutoModelForCausalLM

        try:
            with quietly():
                model, told = AutoModelForCausalLM.from_pretrained(
                    self.folder, dtype="auto", local_files_only=True, output_loading_info=True
                )
        except Exception as error:
            what = f"cannot be loaded: {type(error).__name__}: {str(error).strip()[:200]}"
            raise BadInputError(what, where=self.where) from error
        # What is missing or of another shape would silently be filled with random numbers.
        for problem in ("missing_keys", "mismatched_keys"):
            if odd := sorted(map(str, told.get(problem) or ())):
                raise BadInputError(f"{problem.partition('_')[0]} in its weights: {odd[0]}", where=self.where)
        stored: torch.dtype = model.dtype
        return model.float().to(device).eval(), stored

    def _read(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' own progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def find_source(config: FineTuning, workdir: str | None) -> Source:
    """The model that is to be fine-tuned; one of a zoo is written to ``workdir`` first.

    Raises BadInputError or NotFoundError naming the field.
    """
    if config.model is not None:
        folder = Path(config.model)
        if not (folder / "config.json").is_file():
            raise NotFoundError("is no folder of a Hugging Face checkpoint", where=f"{WHERE}: model: {folder}")
        return Source(folder, str(folder.resolve()))
    if workdir is None:
        raise BadInputError(
            "a model of a zoo is written to scratch files first, and there may be none", where="workdir"
        )
    folder = Path(tempfile.mkdtemp(dir=workdir)) / "model"
    assert config.zoo is not None
    assert config.name is not None
    with _blaming("zoo"):
        zoo = Zoo(config.zoo, create=False)
    with zoo, _blaming("name"):
        model = zoo.model(parse_ref(config.name))
        if config.method == LORA and any(part.attachments for part in model.parts):
            raise UnsupportedError("a LoRA on an adapter is not implemented", where=config.name)
        zoo.export(model.ref, folder, format="hf", merged=True, lossy=True)
    return Source(folder, config.name)


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    """Errors name the field that led to them."""
    try:
        yield
    except (BadInputError, NotFoundError) as error:
        where = f"{WHERE}: {field}" + (f": {error.where}" if error.where else "")
        raise type(error)(error.what, where=where, hint=error.hint) from error
