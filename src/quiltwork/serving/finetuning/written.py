"""A fully fine-tuned model as a Hugging Face checkpoint; ``low_rank`` writes adapters."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from quiltwork.serving.finetuning.source import quietly
from quiltwork.serving.text import CODEC_FILES


def write_checkpoint(folder: Path, model: Any, stored: torch.dtype, source: Path) -> None:
    """Save a model in the precision that it came in, with the tokenizer it came with."""
    # A copy: what is trained is neither rounded nor, lying in one run of memory, fit to be saved tensor by tensor.
    with quietly():
        copy.deepcopy(model).to(stored).save_pretrained(folder)
    for name in CODEC_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
