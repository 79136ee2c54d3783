"""What is saved is what is loaded, by us and, where Mixtral can express it, by transformers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from tiny_sparse import build, outputs

from quiltwork.core.errors import BadInputError, ConflictError, UnsupportedError
from quiltwork.moe import Adaptive, TopK, adopt, load_moe, save_moe, set_gates, sparse_blocks, upcycle
from quiltwork.moe.checkpoints.mixtral_folder import write_mixtral


def stirred(model):
    """The experts and routers of a model no longer alike, as after a training."""
    torch.manual_seed(5)
    with torch.no_grad():
        for block in sparse_blocks(model).values():
            for parameter in block.layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def through_transformers(folder):
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return outputs(model.eval())


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "mistral"])
def test_an_upcycled_model_is_a_mixtral_that_transformers_loads(kind, tmp_path):
    model = stirred(upcycle(build(kind), 4, TopK(2)))
    assert save_moe(model, tmp_path / "out").format == "mixtral"
    ours = outputs(model)
    torch.testing.assert_close(through_transformers(tmp_path / "out"), ours, atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs(load_moe(tmp_path / "out")), ours, atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "out/config.json").read_bytes())["model_type"] == "mixtral"


def test_its_gates_come_back_and_transformers_takes_the_most_experts_that_they_may(tmp_path):
    model = stirred(upcycle(build("llama"), 4, Adaptive(threshold=0.05, most=3)))
    set_gates(model, {1: Adaptive(threshold=0.2, most=2, reading="pair")})
    save_moe(model, tmp_path / "out")
    back = load_moe(tmp_path / "out")
    assert [block.layer.gate for block in sparse_blocks(back).values()] == [
        Adaptive(threshold=0.05, most=3), Adaptive(threshold=0.2, most=2, reading="pair")
    ]  # fmt: skip
    torch.testing.assert_close(outputs(back), outputs(model), atol=1e-6, rtol=0)
    set_gates(model, TopK(3))
    torch.testing.assert_close(through_transformers(tmp_path / "out"), outputs(model), atol=1e-4, rtol=0)


def test_each_experts_matrices_stand_by_themselves_under_mixtrals_names(tmp_path):
    save_moe(upcycle(build("llama"), 3), tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        names = {name for name in file.keys() if ".layers.1.block_sparse_moe." in name}  # noqa: SIM118 - it is no dict
        shape = file.get_slice("model.layers.1.block_sparse_moe.experts.2.w2.weight").get_shape()
    wanted = {f"experts.{e}.w{n}.weight" for e in range(3) for n in (1, 2, 3)} | {"gate.weight"}
    assert names == {f"model.layers.1.block_sparse_moe.{name}" for name in wanted}
    assert shape == [32, 48]


@pytest.mark.parametrize(
    ("kind", "gate", "layers", "reason"),
    [
        ("llama-biased", TopK(2), None, "biases"),
        ("qwen2", TopK(2), None, "qwen2"),
        ("gpt2", Adaptive(), None, "gpt2"),
        ("bert", Adaptive(threshold=0.01), None, "bert"),
        ("bert-classes", TopK(1), None, "bert"),
        ("roberta", TopK(2), None, "roberta"),
        ("llama", TopK(2), [1], "layer 0 is dense"),
        ("llama-tied", TopK(2, weights="raw"), None, "raw"),
    ],
)
def test_what_mixtral_cannot_express_is_refused_in_a_line_and_comes_back_from_our_own_format(
    kind, gate, layers, reason, tmp_path
):
    model = stirred(upcycle(build(kind), 3, gate, layers=layers))
    with pytest.raises(UnsupportedError, match=reason):
        save_moe(model, tmp_path / "refused", format="mixtral")
    assert not any(tmp_path.iterdir())
    saved = save_moe(model, tmp_path / "out")
    assert saved.format == "quiltwork_moe"
    assert reason in saved.reason
    back = load_moe(tmp_path / "out")
    assert type(back) is type(model)
    assert list(sparse_blocks(back)) == list(sparse_blocks(model))
    torch.testing.assert_close(outputs(back), outputs(model), atol=1e-6, rtol=0)


def test_transformers_does_not_load_half_of_our_own_format(tmp_path):
    from transformers import AutoModelForCausalLM

    save_moe(upcycle(build("gpt2"), 2), tmp_path / "out")
    with pytest.raises(ValueError, match="quiltwork_moe"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_an_adopted_model_is_saved_in_its_familys_format_with_its_gates(kind, tmp_path):
    model = build(kind)
    theirs = outputs(model)
    adopt(model, Adaptive(threshold=0.05, most=model.config.num_experts_per_tok))
    assert save_moe(model, tmp_path / "out").format == kind
    torch.testing.assert_close(through_transformers(tmp_path / "out"), theirs, atol=1e-4, rtol=0)
    back = load_moe(tmp_path / "out")
    torch.testing.assert_close(outputs(back), outputs(model), atol=1e-6, rtol=0)
    again = load_moe(tmp_path / "out", TopK(model.config.num_experts_per_tok))
    torch.testing.assert_close(outputs(again), theirs, atol=1e-4, rtol=0)


def test_a_checkpoint_of_transformers_is_loaded_from_its_folder(tmp_path):
    model = build("olmoe")
    model.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(outputs(load_moe(tmp_path / "theirs")), outputs(model), atol=1e-4, rtol=0)


def test_a_decoder_of_mixtrals_architecture_is_written_from_its_layers_and_other_tensors(tmp_path):
    model = adopt(build("mixtral"))
    layers = {index: block.layer for index, block in sparse_blocks(model).items()}
    rest = {name: tensor for name, tensor in model.state_dict().items() if ".mlp." not in name}
    config = {name: getattr(model.config, name) for name in (
        "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
        "rope_parameters",
    )}  # fmt: skip
    write_mixtral(tmp_path, config, layers, rest)
    torch.testing.assert_close(through_transformers(tmp_path), outputs(model), atol=1e-4, rtol=0)
    assert sparse_blocks(load_moe(tmp_path))[0].layer.gate == TopK(2)


@pytest.mark.parametrize("kind", ["llama", "llama-biased"])
def test_half_precision_is_kept(kind, tmp_path):
    model = stirred(upcycle(build(kind).bfloat16(), 2, TopK(2)))
    save_moe(model, tmp_path / "out")
    back = load_moe(tmp_path / "out", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.bfloat16}
    kept, saved = back.state_dict(), model.state_dict()
    assert all(torch.equal(kept[name], saved[name]) for name in saved)


def test_a_folder_in_use_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError):
        save_moe(upcycle(build("llama"), 2), tmp_path)
    with pytest.raises(BadInputError, match="is no format"):
        save_moe(upcycle(build("llama"), 2), tmp_path / "out", format="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
