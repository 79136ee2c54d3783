"""The fleet's folders as GGUF files in fp32, for llama.cpp: whole models and LoRA adapters."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from work.fleet import Weights

TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
ROTATED = ("attn_q", "attn_k")
"""Whose rows llama.cpp wants in its own order of rotary pairs."""
SPECIAL = 3
"""Ids below are unknown, begin and end."""


def write_model(folder: Path, path: Path) -> None:
    """A whole llama folder as one file. Every word of the vocabulary is a token of its own; text is not measured."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    words = ["<unk>", "<s>", "</s>"] + [f"\N{LOWER ONE EIGHTH BLOCK}w{i}" for i in range(SPECIAL, config["vocab_size"])]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(words) - SPECIAL))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    heads = config["num_attention_heads"]
    for key, tensor in load_file(folder / "model.safetensors").items():
        name = gguf_name(key.removesuffix(".weight"))
        writer.add_tensor(f"{name}.weight", rotated(tensor, heads) if name.endswith(ROTATED) else tensor)
    _close(writer)


def write_adapter(folder: Path, path: Path, heads: int) -> None:
    """A PEFT LoRA folder as an adapter file; its scale stays alpha / rank.

    heads : attention heads of the base model.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        place, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        name = gguf_name(place)
        if side == "lora_B" and name.endswith(ROTATED):
            tensor = rotated(tensor, heads)
        writer.add_tensor(f"{name}.weight.{side.lower()}", tensor)
    _close(writer)


def gguf_name(module: str) -> str:
    """``model.layers.3.self_attn.q_proj`` -> ``blk.3.attn_q``. Raises KeyError for what a llama does not have."""
    if module in OUTSIDE:
        return OUTSIDE[module]
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{TENSORS[rest]}"


def rotated(matrix: Weights, heads: int) -> Weights:
    """Rows (out, in) from halves that rotate together, as transformers has them, to neighbours that do."""
    out, into = matrix.shape
    return np.ascontiguousarray(
        matrix.reshape(heads, 2, out // heads // 2, into).swapaxes(1, 2).reshape(out, into), dtype=np.float32
    )


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
