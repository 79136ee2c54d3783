"""An encoder whose weights move: transformers' network, then the pooling and heads that vectors are asked from."""

from __future__ import annotations

import inspect
import json
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quiltwork.text.encoder.heads import read_heads
from quiltwork.text.encoder.layout import Layout, read_layout
from quiltwork.text.encoder.pooling import read_pooling
from quiltwork.text.encoder.through_transformers import build_model
from quiltwork.text.encoder.tokenizing import Cut, Tokens, read_tokens
from quiltwork.text.encoder.weights import SAFE, read_weights
from quiltwork.text.files import ModelFiles

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "added_tokens.json",
)
_PACKAGE = "sentence_transformers.models"
"""The modules' names in ``modules.json`` that every version of sentence-transformers finds."""


class TrainedModel(nn.Module):
    """From texts' tokens to their vectors, differentiably. Dropout is off: nothing about a sample is random."""

    def __init__(self, files: ModelFiles) -> None:
        """Raises as ``load_encoder`` does."""
        super().__init__()
        self.layout: Layout = read_layout(files)
        folder, config = self.layout.transformer.path, self.layout.transformer.config
        where, held = f"{files.where}: {posixpath.join(folder, 'config.json')}", posixpath.join(files.where, folder)
        self.network: Any = build_model(config, read_weights(files, folder), where, held)
        first, *rest = self.layout.after
        width = int(self.network.config.hidden_size)
        self.pooling = read_pooling(first.config, width, first.named(files))
        self.heads, self.dimensions = read_heads(files, rest, self.pooling.width(width))
        most = _longest(self.network.config)
        self.tokens: Tokens = read_tokens(files, folder, config, self.layout.longest, most, self.layout.lower_case)
        self._takes = set(inspect.signature(self.network.forward).parameters)
        self._files = files
        self.eval().requires_grad_(True)

    @property
    def prompt(self) -> str:
        """What is put before every sentence."""
        return self.layout.prompts.get(self.layout.default_prompt or "", "")

    def forward(self, cuts: Sequence[Cut]) -> Tensor:
        """Vectors (n, d)."""
        device = next(self.parameters()).device
        lengths = torch.tensor([len(cut.ids) for cut in cuts], device=device)
        there = torch.arange(int(lengths.max()), device=device)[None, :] < lengths[:, None]
        ids = torch.full(there.shape, int(self.network.config.pad_token_id or 0), device=device)
        ids[there] = torch.cat([torch.from_numpy(cut.ids) for cut in cuts]).to(device)
        given = {"input_ids": ids, "attention_mask": there.long()}
        states = self.network(**{name: one for name, one in given.items() if name in self._takes})[0]
        prompts = torch.tensor([cut.prompt for cut in cuts], device=device)
        found: Tensor = self.heads(self.pooling(states[there], lengths, prompts))
        return found

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers folder, in float32."""
        state = {name: one.detach().cpu().clone().contiguous() for name, one in self.network.state_dict().items()}
        save_file(state, folder / SAFE, metadata={"format": "pt"})
        config = {**self.layout.transformer.config, "dtype": "float32"}
        config.pop("torch_dtype", None)
        _write(folder / "config.json", config)
        settings = {"max_seq_length": self.tokens.longest, "do_lower_case": self.layout.lower_case}
        _write(folder / "sentence_bert_config.json", settings)
        prompts = {"prompts": dict(self.layout.prompts), "default_prompt_name": self.layout.default_prompt}
        _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine", **prompts})
        for name in _TOKENIZER_FILES:
            if self._files.has(path := posixpath.join(self.layout.transformer.path, name)):
                (folder / name).write_bytes(self._files.read(path))
        modules = [{"idx": 0, "name": "0", "path": "", "type": f"{_PACKAGE}.Transformer"}]
        heads = iter(list(self.heads))
        for index, module in enumerate(self.layout.after, start=1):
            path = f"{index}_{module.kind}"
            modules.append({"idx": index, "name": str(index), "path": path, "type": f"{_PACKAGE}.{module.kind}"})
            (folder / path).mkdir()
            _write(folder / path / "config.json", self._config_of(module.kind, module.config))
            head = None if module.kind in ("Pooling", "Dropout") else next(heads)
            if head is not None and (held := dict(head.named_parameters())):
                prefix = "norm." if module.kind == "LayerNorm" else ""
                save_file(
                    {prefix + name: one.detach().cpu().clone() for name, one in held.items()}, folder / path / SAFE
                )
        _write(folder / "modules.json", modules)

    def _config_of(self, kind: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        if kind != "Pooling" or "word_embedding_dimension" in config or "embedding_dimension" in config:
            return config
        return {"word_embedding_dimension": int(self.network.config.hidden_size), "pooling_mode_mean_tokens": True}


def _write(path: Path, told: Any) -> None:
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _longest(config: Any) -> int:
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return 1 << 20
    # RoBERTa's and MPNet's positions begin behind the padding's.
    begins = {"roberta", "xlm-roberta", "camembert", "mpnet"}
    return most - (config.pad_token_id or 0) - 1 if config.model_type in begins else most
