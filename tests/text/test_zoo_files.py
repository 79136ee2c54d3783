"""A model's files read from a zoo are those that were added, whatever they are stored as."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.text.files import Folder, read_json
from quiltwork.text.zoo_files import ZooFiles
from quiltwork.zoo import Zoo

RNG = np.random.default_rng(0)
TENSORS = {
    "encoder.layer.0.w": RNG.standard_normal((4, 6)).astype(np.float32),
    "encoder.layer.0.halves": RNG.standard_normal(8).astype(np.float16).astype(np.float32),  # stored narrower
    "encoder.layer.1.w": RNG.standard_normal((2, 3)).astype(np.float16),
    "ids": np.arange(5, dtype=np.int64),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    for inner in ("1_Pooling", "2_Dense"):
        (path / inner).mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (path / "modules.json").write_text("[]")
    (path / "1_Pooling" / "config.json").write_text("{}")
    (path / "2_Dense" / "config.json").write_text('{"in_features": 3}')
    save_file({"linear.weight": np.ones((3, 3), np.float32)}, path / "2_Dense" / "model.safetensors")
    save_file(TENSORS, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture
def zoo(tmp_path):
    with Zoo(tmp_path / "zoo") as opened:
        yield opened


def test_every_file_is_there_with_its_bytes_and_arrays(zoo, folder):
    zoo.add(folder)
    files, plain = ZooFiles(zoo, ModelRef("model")), Folder(folder)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert len(names) == 6
    for name in names:
        assert files.has(name)
        assert files.read(name) == plain.read(name)
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        ours, theirs = files.tensors(name), plain.tensors(name)
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert (ours[key].dtype, ours[key].shape) == (value.dtype, value.shape)
            assert np.array_equal(ours[key], value)
            assert not ours[key].flags.writeable
    assert read_json(files, "2_Dense/config.json") == {"in_features": 3}


def test_bfloat16_comes_as_float32(zoo, folder):
    halves = {"w": torch.tensor([1.5, -2.25], dtype=torch.bfloat16)}
    save_torch(halves, folder / "model.safetensors")
    zoo.add(folder)
    found = ZooFiles(zoo, ModelRef("model")).tensors("model.safetensors")["w"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, -2.25])


def test_links_are_followed(zoo, folder):
    (folder / "also.json").symlink_to("2_Dense/config.json")
    (folder / "1_Pooling" / "up.json").symlink_to("../also.json")
    zoo.add(folder)
    files = ZooFiles(zoo, ModelRef("model"))
    assert files.read("1_Pooling/up.json") == files.read("2_Dense/config.json")


def test_what_is_not_there_or_of_another_kind_is_said(zoo, folder):
    zoo.add(folder)
    files = ZooFiles(zoo, ModelRef("model"))
    assert not files.has("vocab.txt")
    for read in (files.read, files.tensors):
        with pytest.raises(NotFoundError, match=r"model model: vocab\.txt"):
            read("vocab.txt")
    with pytest.raises(BadInputError, match="not a safetensors file"):
        files.tensors("config.json")
    with pytest.raises(NotFoundError):
        ZooFiles(zoo, ModelRef("nobody"))


def test_two_fine_tunes_of_an_encoder_share_the_layers_they_did_not_change(zoo, folder):
    zoo.add(folder, name="base")
    for seed in (1, 2):
        changed = TENSORS | {"encoder.layer.1.w": np.full((2, 3), seed, np.float16)}
        save_file(changed, folder / "model.safetensors")
        zoo.add(folder, name=f"tuned-{seed}")
    parts = [{part.name: part.block.id for part in zoo.model(f"tuned-{seed}").parts} for seed in (1, 2)]
    assert {name for name in parts[0] if parts[0][name] != parts[1][name]} == {"encoder.layer.1"}
    told = zoo.explain("tuned-1", near=False)
    shared = {part.name: len(part.block.others.named) for part in told.parts}
    assert shared["encoder.layer.0"] == 2
    assert shared["encoder.layer.1"] == 0
    contents = [{t.content for p in zoo.model(f"tuned-{s}").parts for t in p.block.walk()} for s in (1, 2)]
    assert len(contents[0] - contents[1]) == 1
    assert told.unservable == ()
