"""GGUF files: mapped back to Hugging Face names and order, exact on the way out, refused by name where quantised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny_checkpoints import build

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo import Zoo
from quiltwork.zoo.formats.gguf import read_gguf
from quiltwork.zoo.formats.rotary_rows import half_split, interleaved

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, model: Any, *, change: Callable[[Any], None] | None = None, quantise: Any = None) -> Path:
    """A GGUF file of a transformers model, as llama.cpp's converter lays it out."""
    from gguf import GGUFWriter, quants

    config, arch = model.config, model.config.model_type
    writer = GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim if arch != "qwen2" else config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if change is not None:
        change(writer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, kind = name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        array = tensor.float().numpy()
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if arch == "llama" and stem in heads:
            rows = array.shape[0]
            array = array.reshape(heads[stem], 2, rows // heads[stem] // 2, *array.shape[1:]).swapaxes(1, 2)
            array = array.reshape(tensor.shape)
        if quantise is not None and array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(f"{prefix}{_NAMES[stem]}.{kind}", quants.quantize(array, quantise), raw_dtype=quantise)
        else:
            writer.add_tensor(f"{prefix}{_NAMES[stem]}.{kind}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen2", "qwen3"])
def test_a_gguf_has_the_blocks_of_its_hugging_face_directory(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    changes = {"use_sliding_window": False} if kind == "qwen2" else {}
    model = build(kind, **changes)
    model.save_pretrained(tmp_path / "hf")
    path = write_gguf(tmp_path / "m.gguf", model)
    zoo.add(tmp_path / "hf")
    added = zoo.add(path)
    assert [p.block.id for p in added.model.parts] == [p.block.id for p in zoo.model("hf").parts]
    zoo.export("m", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == path.read_bytes()
    zoo.export("m", tmp_path / "again", format="hf")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "hf"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_quantised_file_is_refused_by_its_type(zoo: Zoo, tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType

    path = write_gguf(tmp_path / "q.gguf", build("llama"), quantise=GGMLQuantizationType.Q8_0)
    with pytest.raises(UnsupportedError, match="Q8_0"):
        zoo.add(path)
    assert zoo.models() == []


def test_scaled_rotary_embedding_is_read(tmp_path: Path) -> None:
    from gguf import RopeScalingType

    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.5)

    model = read_gguf(write_gguf(tmp_path / "m.gguf", build("llama"), change=change))
    assert model.config["rope_parameters"] == {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}


def test_another_architecture_is_named(zoo: Zoo, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="mamba"):
        zoo.add(tmp_path / "m.gguf")


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "m.gguf", build("llama-tied")).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 4000, 97), len(content) - 33]:
        cut.write_bytes(content[:length])
        with pytest.raises(BadInputError, match=r"cut\.gguf"):
            read_gguf(cut)


@settings(deadline=None)
@given(heads=st.integers(1, 4), half=st.integers(1, 4), columns=st.integers(1, 3))
def test_row_orders_are_inverse(heads: int, half: int, columns: int) -> None:
    rows = heads * half * 2
    data = np.arange(rows * columns * 4, dtype=np.uint8)
    assert np.array_equal(half_split(interleaved(data, rows, heads), rows, heads), data)
