"""A folder that is no encoder, or a broken one, is told in one line that names the file and the field."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_encoders import write_encoder

from quiltwork.core.errors import BadInputError, NotFoundError, QuiltworkError, UnsupportedError
from quiltwork.text.encoder import load_encoder
from quiltwork.text.files import Folder

WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("sound") / "model", heads=("dense", "normalize"))


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


def change(path, **values):
    told = json.loads(path.read_text())
    for name, value in values.items():
        if value is None:
            told.pop(name)
        else:
            told[name] = value
    path.write_text(json.dumps(told))


def raised(folder, kind=BadInputError, **how):
    with pytest.raises(kind) as found:
        load_encoder(Folder(folder), **how)
    line = str(found.value)
    assert "\n" not in line
    assert isinstance(found.value, QuiltworkError)
    return line.removeprefix(f"{folder}: ").removeprefix(f"{folder}/")


def test_a_folder_of_something_else(tmp_path):
    assert "is no encoder" in raised(tmp_path, NotFoundError)
    assert "is no encoder" in raised(tmp_path / "nowhere", NotFoundError)


def test_weights_that_are_missing(folder):
    (folder / "model.safetensors").unlink()
    assert "has no weights" in raised(folder, NotFoundError)


def test_weights_that_are_cut_off(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert raised(folder).startswith("model.safetensors: is not a safetensors file")


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda a: a.pop("encoder.layer.1.output.dense.bias"), "encoder.layer.1.output.dense.bias: is missing"),
        (lambda a: a.update({WORDS: np.zeros((3, 24), np.float32)}), "has the shape [3, 24]"),
        (lambda a: a["encoder.layer.0.output.dense.bias"].fill(np.nan), "has numbers that are not finite"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(folder, edit, line):
    arrays = {name: one.copy() for name, one in load_file(folder / "model.safetensors").items()}
    edit(arrays)
    save_file(arrays, folder / "model.safetensors")
    assert line in raised(folder)


@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_weights_of_another_shape_are_named_in_every_family(tmp_path, kind):
    folder = write_encoder(tmp_path / "model", kind)
    change(folder / "config.json", intermediate_size=44)
    assert "has the shape" in raised(folder)


def test_weights_that_are_a_pickle_of_something_else(tmp_path):
    import pickle

    folder = write_encoder(tmp_path / "model", heads=("dense",), old=True)
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(print, protocol=2))
    assert raised(folder).startswith("2_Dense/pytorch_model.bin: is not a file of weights")


@pytest.mark.parametrize(
    ("file", "values", "line"),
    [
        ("config.json", {"model_type": "mystery"}, "config.json: model_type: 'mystery' is no family"),
        ("config.json", {"num_attention_heads": 5}, "config.json: num_attention_heads: 5 does not divide 24"),
        ("config.json", {"hidden_size": "wide"}, "config.json: hidden_size: must be a positive whole number"),
        ("config.json", {"vocab_size": 10**12}, "config.json: vocab_size: 1000000000000 is absurdly large"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "1_Pooling/config.json: pooling_mode: 'median' is not"),
        ("1_Pooling/config.json", {"embedding_dimension": 7}, "1_Pooling/config.json: embedding_dimension: is 7"),
        ("2_Dense/config.json", {"in_features": 7}, "2_Dense/config.json: in_features: is 7, but there come 24"),
        ("2_Dense/config.json", {"out_features": 7}, "2_Dense: linear.weight: has the shape [16, 24]"),
        ("2_Dense/config.json", {"activation_function": "os.system"}, "activation_function: os.system is not an"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.Nope"}, "Nope is not an activation"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Linear"}, "Linear is not an"),
        ("sentence_bert_config.json", {"max_seq_length": "all"}, "max_seq_length: must be a number of tokens, not all"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "2 tokens leave no room for a text beside 2 special ones"),
    ],
)  # fmt: skip
def test_a_setting_that_is_wrong(folder, file, values, line):
    change(folder / file, **values)
    assert line in raised(folder)


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("modules.json", "{", "modules.json: is not JSON"),
        ("modules.json", "[]", "modules.json: is not a list of modules"),
        ("modules.json", '[{"path": ""}]', "module 0: type: is missing"),
        ("modules.json", '[{"type": "sentence_transformers.models.Transformer", "path": "../up"}]', "path: is no"),
        ("config.json", "[]", "config.json: is not a JSON object"),
        ("tokenizer.json", "{}", "tokenizer.json: is no tokenizer"),
        ("config_sentence_transformers.json", '{"prompts": {}, "default_prompt_name": "q"}', "prompt_name: 'q' is"),
    ],
)  # fmt: skip
def test_a_file_that_is_malformed(folder, file, text, line):
    (folder / file).write_text(text)
    assert line in raised(folder)


def test_a_module_that_is_not_known(folder):
    listed = json.loads((folder / "modules.json").read_text())
    listed[2]["type"] = "my_package.Magic"
    (folder / "modules.json").write_text(json.dumps(listed))
    assert "module 2: type: my_package.Magic is not a known module" in raised(folder, UnsupportedError)


def test_a_tokenizer_that_is_missing(folder):
    (folder / "tokenizer.json").unlink()
    assert "has neither tokenizer.json nor vocab.txt" in raised(folder, NotFoundError)


def test_a_tokenizer_of_another_model(folder):
    arrays = load_file(folder / "model.safetensors")
    words = arrays["embeddings.word_embeddings.weight"]
    save_file({**arrays, "embeddings.word_embeddings.weight": words[:50].copy()}, folder / "model.safetensors")
    change(folder / "config.json", vocab_size=50)
    assert "vocab_size: is 50, but the tokenizer has the id" in raised(folder)


def test_a_prompt_that_the_model_does_not_have(folder):
    assert "has no prompt 'query'" in raised(folder, prompt="query")


def test_no_core_at_all(folder):
    assert raised(folder, threads=0) == "threads: 0 is not a number of cores"
