"""GGUF files with unquantised tensors, read as the Hugging Face checkpoints they were made from.

Names and metadata are mapped back, and the rows of llama's query and key matrices, which GGUF holds in interleaved
order, are put back in halves; so a tensor is the same object whether it came from GGUF or from Hugging Face.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quiltwork.core.errors import BadInputError, QuiltworkError, UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.zoo.families import FAMILIES
from quiltwork.zoo.formats.gguf_bounds import check_bounds
from quiltwork.zoo.formats.gguf_tokenizer import tokenizer_files
from quiltwork.zoo.formats.weights import Slice, WeightsFile
from quiltwork.zoo.source import Entry, Source

_DTYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"}
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
    "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
}
_INTERLEAVED = ("llama",)
"""Architectures whose query and key rows are interleaved in GGUF; the others are rotated in halves there too."""


@dataclass(frozen=True)
class GgufModel:
    """A GGUF file as a source and the configuration it stands for."""

    source: Source
    config: Mapping[str, Json]
    tokenizer: Mapping[str, bytes]
    """Files of its tokenizer, by name; none where it is not of a kind that can be written."""


def read_gguf(path: Path) -> GgufModel:
    """The tensors of a GGUF file by their Hugging Face names, and the configuration in its metadata.

    Raises UnsupportedError naming the type of a quantised tensor, or an architecture that is not known here;
    BadInputError naming the file or key that is malformed; QuiltworkError where the ``gguf`` package is missing.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise QuiltworkError("needs the package 'gguf'", where=str(path), hint="install quiltwork[zoo]") from error
    where = str(path)
    try:
        with path.open("rb") as file:
            check_bounds(file, path.stat().st_size, where=where)
        reader = GGUFReader(path)
        values = {name: field.contents() for name, field in reader.fields.items()}
        tensors = list(reader.tensors)
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=where) from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError, struct.error) as error:
        raise BadInputError(f"is malformed or truncated: {str(error)[:100]}", where=where) from error
    metadata = _Metadata(values, where)
    architecture = metadata.text("general.architecture")
    if architecture not in ("llama", "qwen2", "qwen3"):
        raise UnsupportedError(f"architecture {architecture[:40]!r} is not implemented", where=where)
    if values.get("split.count", 1) not in (0, 1):
        raise UnsupportedError("a model split over several files is not implemented", where=f"{where}: split.count")
    slices, unknown = _slices(tensors, path.stat().st_size, where)
    config = _config(metadata, architecture, slices)
    heads = _interleaved_heads(config, slices) if architecture in _INTERLEAVED else {}
    if "rope_freqs.weight" in unknown:
        config["gguf_rope_freqs"] = True
    file_slices = WeightsFile(path, path.stat().st_size, slices)
    places = {name: (path.name, item) for name, item in slices.items()}
    entries = (Entry(path.name, file=path),)
    source = Source(path, entries, {path.name: file_slices}, places, (), "file", heads)
    return GgufModel(source, config, tokenizer_files(values, where=where))


@dataclass(frozen=True)
class _Metadata:
    values: Mapping[str, Any]
    where: str

    def error(self, key: str, what: str) -> BadInputError:
        return BadInputError(what, where=f"{self.where}: {key}")

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.error(key, "is missing or not text")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.error(key, "is missing or not a whole number")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A float32 as the decimal that was meant: 1e-05, not 9.999999747378752e-06."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, float | int | np.floating):
            raise self.error(key, "is missing or not a number")
        return float(str(np.float32(value)))


def _slices(tensors: list[Any], size: int, where: str) -> tuple[dict[str, Slice], list[str]]:
    found: dict[str, Slice] = {}
    unknown: list[str] = []
    for tensor in tensors:
        kind = tensor.tensor_type.name
        if kind not in _DTYPES:
            raise UnsupportedError(
                f"is quantised as {kind}", where=f"{where}: {tensor.name}", hint="import the F32 or F16 file"
            )
        shape = tuple(int(n) for n in reversed(tensor.shape))
        offset, nbytes = int(tensor.data_offset), int(tensor.n_bytes)
        if offset + nbytes > size:
            raise BadInputError("truncated", where=f"{where}: {tensor.name}")
        name = _hugging_face_name(tensor.name)
        if name is None:
            unknown.append(tensor.name)
            name = tensor.name
        if name in found:
            raise BadInputError("occurs twice", where=f"{where}: {tensor.name}")
        found[name] = Slice(name, _DTYPES[kind], shape, offset, nbytes)
    return found, unknown


def _hugging_face_name(name: str) -> str | None:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if found is None:
        return None
    layer, stem, kind = found.groups()
    path = _NAMES.get(stem if layer is None else f"blk.{{i}}.{stem}")
    return None if path is None else f"{path.replace('{i}', layer or '')}.{kind}"


def _config(metadata: _Metadata, architecture: str, slices: Mapping[str, Slice]) -> dict[str, Json]:
    """config.json of the model that the file was made from."""
    key = f"{architecture}.{{}}".format
    values = metadata.values
    heads, width = metadata.count(key("attention.head_count")), metadata.count(key("embedding_length"))
    if heads < 1 or width < 1:
        raise metadata.error(key("attention.head_count"), "must be positive")
    head_dim = metadata.count(key("attention.key_length"), width // heads)
    if head_dim < 1:
        raise metadata.error(key("attention.key_length"), "must be positive")
    table = slices.get("model.embed_tokens.weight")
    config: dict[str, Json] = {
        "model_type": architecture,
        "architectures": [FAMILIES[architecture].architecture],
        "hidden_size": width,
        "num_hidden_layers": metadata.count(key("block_count")),
        "intermediate_size": metadata.count(key("feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.count(key("attention.head_count_kv"), heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.count(key("context_length")),
        "rms_norm_eps": metadata.number(key("attention.layer_norm_rms_epsilon")),
        "hidden_act": "silu",
        "vocab_size": table.shape[0] if table is not None and table.shape else 0,
        "tie_word_embeddings": "lm_head.weight" not in slices,
        "rope_parameters": _rope(metadata, key),
        "attention_bias": "model.layers.0.self_attn.o_proj.bias" in slices,
        "mlp_bias": "model.layers.0.mlp.down_proj.bias" in slices,
    }
    for ours, theirs in (("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")):
        if f"tokenizer.ggml.{theirs}" in values:
            config[ours] = metadata.count(f"tokenizer.ggml.{theirs}")
    if architecture == "llama" and values.get(key("expert_count"), 0):
        config["num_local_experts"] = metadata.count(key("expert_count"))
    rotated = metadata.count(key("rope.dimension_count"), head_dim)
    if rotated != head_dim:
        config["rope_parameters"]["partial_rotary_factor"] = rotated / head_dim
    if values.get(key("attention.sliding_window")):
        raise UnsupportedError("is not implemented", where=f"{metadata.where}: {key('attention.sliding_window')}")
    return config


def _rope(metadata: _Metadata, key: Any) -> dict[str, Json]:
    rope: dict[str, Json] = {"rope_theta": metadata.number(key("rope.freq_base"), 10000.0), "rope_type": "default"}
    kind = metadata.values.get(key("rope.scaling.type"), "none")
    old = metadata.number(key("rope.scale_linear"), 0.0)
    factor = metadata.number(key("rope.scaling.factor"), old)
    if kind != "none" or factor not in (0.0, 1.0):
        rope |= {"rope_type": "linear" if kind == "none" else kind, "factor": factor}
        if key("rope.scaling.original_context_length") in metadata.values:
            original = metadata.count(key("rope.scaling.original_context_length"))
            rope["original_max_position_embeddings"] = original
    return rope


def _interleaved_heads(config: Mapping[str, Json], slices: Mapping[str, Slice]) -> dict[str, int]:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = {}
    for name, item in slices.items():
        role = name.rsplit(".", 2)[-2] if name.count(".") >= 2 else ""
        if role in heads and item.shape and heads[role] > 0 and item.shape[0] % (2 * heads[role]) == 0:
            found[name] = heads[role]
    return found
