"""The fleet's GGUF files hold what its folders hold, in llama.cpp's names and order of rows."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from work.fleet import SMALL_BODY, Fleet, Weights, sixteen_loras
from work.gguf_export import gguf_name, rotated, write_adapter, write_model


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return sixteen_loras(tmp_path_factory.mktemp("fleet"), seed=3, shape=SMALL_BODY, count=1)


def tensors(path: Path) -> dict[str, Weights]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def test_rows_that_rotate_together_become_neighbours() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]  # two heads of four rows: 0 rotates with 2, 1 with 3
    assert rotated(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_model_keeps_every_tensor(fleet: Fleet, tmp_path: Path) -> None:
    write_model(fleet.base.path, tmp_path / "base.gguf")
    found = tensors(tmp_path / "base.gguf")
    folder = load_file(fleet.base.path / "model.safetensors")
    assert len(found) == len(folder)
    for key, weight in folder.items():
        name = gguf_name(key.removesuffix(".weight"))
        moved = name.endswith(("attn_q", "attn_k"))
        kept = rotated(weight, SMALL_BODY.heads) if moved else weight
        assert np.array_equal(found[f"{name}.weight"], kept), key
        assert not (moved and np.array_equal(found[f"{name}.weight"], weight)), key


def test_an_adapter_adds_the_same_to_the_rotated_matrix(fleet: Fleet, tmp_path: Path) -> None:
    app = fleet.app("lora-0")
    write_adapter(app.path, tmp_path / "lora.gguf", SMALL_BODY.heads)
    found = tensors(tmp_path / "lora.gguf")
    folder = load_file(app.path / "adapter_model.safetensors")
    at = "base_model.model.model.layers.2.self_attn.k_proj.lora_"
    product = folder[f"{at}B.weight"] @ folder[f"{at}A.weight"]
    kept = found["blk.2.attn_k.weight.lora_b"] @ found["blk.2.attn_k.weight.lora_a"]
    assert np.allclose(kept, rotated(product, SMALL_BODY.heads))
    assert len(found) == len(folder)
    alpha = gguf.GGUFReader(tmp_path / "lora.gguf").fields["adapter.lora.alpha"].contents()
    assert alpha == 16.0


def test_a_module_that_no_llama_has_is_an_error() -> None:
    with pytest.raises(KeyError):
        gguf_name("model.layers.0.self_attn.q_norm")
