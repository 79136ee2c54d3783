"""Transformers and PEFT as their documentation would have them run, to be measured against.

Every class is built in a process of its own (``work.side``). Answers are greedy and as long as asked for: no end token
stops them, and none is suppressed, so that both sides of a comparison do the same number of steps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from quiltwork.core.errors import QuiltworkError
from work.settings import HfSettings
from work.sweep import Labelled

Answers = list[list[int]]
DTYPE = torch.float32
"""Of every model here, as of ours."""


def conditions(settings: Labelled) -> dict[str, object]:
    """What a side of these models runs with, for the record."""
    return {"dtype": str(DTYPE), "threads": torch.get_num_threads(), "settings": settings.label()}


class HfModels:
    """Whole models in memory, ``generate`` on one of them at a time."""

    def __init__(self, models: Mapping[str, Path] | None = None, *, merge: bool = True) -> None:
        self._merge = merge
        self._models: dict[str, PreTrainedModel] = {}
        self._settings = HfSettings()
        self.load(models or {})

    def load(self, models: Mapping[str, Path]) -> None:
        """Bring models into memory; a PEFT folder becomes its base with the adapter merged into it, or hung on it."""
        for name, path in models.items():
            self._models[name] = load(path, merge=self._merge)
            apply(self._models[name], HfSettings(), self._settings)

    def configure(self, settings: HfSettings) -> None:
        """Change how ``generate`` runs from now on."""
        for model in self._models.values():
            apply(model, self._settings, settings)
        self._settings = settings

    def conditions(self) -> dict[str, object]:
        """What it runs with, for the record."""
        return conditions(self._settings)

    def generate(self, name: str, prompts: Sequence[Sequence[int]], new_tokens: int) -> Answers:
        """One batch of equally long prompts on one model."""
        return generate(self._models[name], prompts, new_tokens, self._settings)

    def generate_each(self, requests: Iterable[tuple[str, Sequence[int]]], new_tokens: int) -> Answers:
        """One call of batch 1 per (model, prompt): what serving one model per app comes to."""
        return [self.generate(name, [prompt], new_tokens)[0] for name, prompt in requests]

    def serve(self, requests: Iterable[tuple[str, Sequence[int], int]]) -> Answers:
        """(model, prompt, new tokens) in order, one call each."""
        return [self.generate(name, [prompt], count)[0] for name, prompt, count in requests]

    @torch.inference_mode()
    def next_logits(self, name: str, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits (vocab,) for the token after ``ids``: the reference for ties."""
        logits = self._models[name](torch.tensor([list(ids)])).logits[0, -1]
        return logits.float().numpy()


class PeftMixed:
    """One base with many LoRA adapters, a different one for each row of the batch (``adapter_names``)."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        from peft import PeftModel

        (first, path), *others = adapters.items()
        self._model = PeftModel.from_pretrained(load(base), path, adapter_name=first)
        for name, path in others:
            self._model.load_adapter(path, adapter_name=name)
        self._model.eval()
        self._settings = HfSettings()

    def configure(self, settings: HfSettings) -> None:
        """Change how ``generate`` runs from now on."""
        apply(self._model.get_base_model(), self._settings, settings)
        self._settings = settings

    def conditions(self) -> dict[str, object]:
        """What it runs with, for the record."""
        return conditions(self._settings)

    def generate(self, names: Sequence[str], prompts: Sequence[Sequence[int]], new_tokens: int) -> Answers:
        """One batch of equally long prompts, row i on adapter ``names[i]``."""
        return generate(self._model, prompts, new_tokens, self._settings, adapter_names=list(names))


_LOADING = threading.RLock()
"""transformers changes itself while it loads a model: two at a time in one process leave it changed for good."""


def load(path: Path, *, merge: bool = True) -> PreTrainedModel:
    """A model in fp32, ready to generate; of a PEFT folder, its base with the adapter merged into it or hung on it."""
    with _LOADING:
        return _load(path, merge=merge)


def _load(path: Path, *, merge: bool) -> PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    if (path / "adapter_config.json").exists():
        from peft import PeftConfig, PeftModel

        base = load(Path(PeftConfig.from_pretrained(path).base_model_name_or_path))
        model = PeftModel.from_pretrained(base, path)
        return (model.merge_and_unload() if merge else model).eval()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPE, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None  # a call that names no end token would fall back on this one
    return model


def apply(model: PreTrainedModel, before: HfSettings, after: HfSettings) -> None:
    """Switch a model from one setting to another."""
    if after.threads is not None:
        torch.set_num_threads(after.threads)
    if after.attention != before.attention:
        model.set_attn_implementation(after.attention)
    if before.compiled and not after.compiled:
        del model.forward  # uncovers the class's own method
    if after.compiled and not before.compiled:
        torch._inductor.config.freezing = True  # lets oneDNN keep packed weights; off by default
        model.forward = torch.compile(model.forward)


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, settings: HfSettings, **kwargs: Any
) -> Answers:
    """``model.generate``, greedy, exactly ``new_tokens`` tokens per prompt."""
    ids = torch.tensor([list(p) for p in prompts])
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        cache_implementation="static" if settings.cache == "static" else None,
    )
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **kwargs)
    rows: Answers = out[:, ids.shape[1] :].tolist()
    if any(len(row) != new_tokens for row in rows):
        raise QuiltworkError(f"generate stopped before {new_tokens} tokens", where="transformers")
    return rows
