"""A checkpoint that is damaged, cut short or not what its configuration says is one clear line."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file
from tiny_sparse import build

from quiltwork.core.errors import BadInputError, NotFoundError, QuiltworkError, UnsupportedError
from quiltwork.moe import TopK, adopt, load_moe, save_moe, upcycle

EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"


@pytest.fixture
def mixtral(tmp_path):
    save_moe(adopt(build("mixtral")), tmp_path / "mixtral")
    return tmp_path / "mixtral"


@pytest.fixture
def own(tmp_path):
    save_moe(upcycle(build("gpt2"), 3, TopK(2)), tmp_path / "own")
    return tmp_path / "own"


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def reweigh(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def line(folder, kind=BadInputError):
    """The one line that a user is told."""
    with pytest.raises(QuiltworkError) as caught:
        load_moe(folder)
    assert isinstance(caught.value, kind)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("which", ["mixtral", "own"])
def test_a_file_cut_short_or_damaged(which, request):
    path = request.getfixturevalue(which) / "model.safetensors"
    whole = path.read_bytes()
    for part in (whole[:-100], whole[:20], b"", b"\xff" * 200):
        path.write_bytes(part)
        assert "model.safetensors" in line(path.parent)
    path.unlink()
    assert "model.safetensors" in line(path.parent, NotFoundError)


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(mixtral):
    reweigh(mixtral, lambda tensors: tensors.update({EXPERT: tensors[EXPERT][:5]}))
    assert f"{EXPERT} has the shape [5, 32]" in line(mixtral)
    reweigh(mixtral, lambda tensors: tensors.pop(EXPERT))
    assert f"lacks {EXPERT}" in line(mixtral)


def test_the_same_in_our_own_format(own):
    name = "transformer.h.0.mlp.experts.1.up.weight"
    reweigh(own, lambda tensors: tensors.update({name: tensors[name][:5]}))
    assert "transformer.h.0.mlp" in line(own)
    reweigh(own, lambda tensors: tensors.pop(name))
    assert f"lacks {name.removesuffix('.weight')}" in line(own)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_local_experts": 6}, "says [6, 32]"),
        ({"num_local_experts": 4}, "says [4, 32]"),
        ({"hidden_size": 64}, "has the shape"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2."),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": -3}, "hidden_size"),
        ({"num_local_experts": "five"}, "num_local_experts"),
        ({"num_experts_per_tok": 9}, "9 experts of 5"),
        ({"hidden_act": "nonsense"}, "nonsense"),
        ({"architectures": ["NoSuchModel"]}, "NoSuchModel"),
        ({"architectures": 3}, "architectures"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "NoSuchGate"}}}}, "NoSuchGate"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "Experts"}}}}, "no gate"),
        ({"quiltwork_moe": {"gates": {"7": {"gate": "TopK", "k": 2}}}}, "layer 7"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK", "k": "two"}}}}, "two"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK", "kk": 2}}}}, "kk"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK", "k": 99}}}}, "99 experts"),
        ({"quiltwork_moe": 5}, "no gates"),
    ],
)
def test_a_configuration_that_is_another_models_or_absurd(changes, said, mixtral):
    configure(mixtral, **changes)
    assert said in line(mixtral)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": 5}, "base"),
        ({"base": {"architectures": ["GPT2LMHeadModel"], "n_layer": 10**9}}, "n_layer"),
        ({"quiltwork_moe": {"gates": {}, "experts": 3}}, "gates"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK"}, "1": {"gate": "TopK"}}}}, "experts"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK"}, "1": {"gate": "TopK"}}, "experts": 4}}, "experts.3"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK"}}, "experts": 3}}, "h.1.mlp.c_fc.weight"),
    ],
)
def test_the_same_of_our_own_format(changes, said, own):
    configure(own, **changes)
    assert said in line(own)


def test_a_family_without_experts_and_what_is_no_checkpoint(tmp_path):
    build("llama").save_pretrained(tmp_path / "llama")
    assert "'llama'" in line(tmp_path / "llama", UnsupportedError)
    (tmp_path / "empty").mkdir()
    assert "config.json" in line(tmp_path / "empty", NotFoundError)
    assert "no such folder" in line(tmp_path / "nowhere", NotFoundError)
    (tmp_path / "empty/config.json").write_bytes(b"\xff\xfe{")
    assert "UTF-8" in line(tmp_path / "empty")
    (tmp_path / "empty/config.json").write_text("[")
    assert "JSON" in line(tmp_path / "empty")


def test_a_dense_folder_that_is_damaged_is_not_upcycled(tmp_path):
    build("llama").save_pretrained(tmp_path / "llama")
    reweigh(tmp_path / "llama", lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))
    with pytest.raises(BadInputError, match=r"lacks model\.layers\.0\.mlp\.up_proj\.weight"):
        upcycle(tmp_path / "llama", 2)
