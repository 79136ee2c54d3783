"""A result is read again as it was left, or says what is wrong with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_runs import begun

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError, QuiltworkError
from quiltwork.moe.checkpoints.thresholds import Thresholds
from quiltwork.moe.gates import Adaptive
from quiltwork.moe.models import moe_layers
from quiltwork.moe.training.result import read_result
from quiltwork.moe.training.training import MoETraining


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[MoETraining, Path]:
    folder = tmp_path_factory.mktemp("run")
    training = begun(folder, steps=6, target_experts=1.4)
    while not training.step().finished:
        pass
    return training, folder / "out"


@pytest.fixture
def copied(left: tuple[MoETraining, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(left[1], tmp_path / "copy"))


def test_the_model_is_the_same_to_the_bit(left: tuple[MoETraining, Path]) -> None:
    training, folder = left
    found = read_result(folder)
    assert found.settings == training.settings
    ids = np.arange(3)
    with torch.no_grad():
        ours, theirs = (training.objective.run(model, "valid", ids).losses for model in (found.model, training.model))
    assert torch.equal(ours, theirs)
    assert [layer.gate.threshold for layer in moe_layers(found.model)] == list(training.steering.thresholds)


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no such folder"):
        read_result(tmp_path / "none")
    with pytest.raises(NotFoundError, match=r"config\.json: is missing"):
        read_result(tmp_path)


def test_cut_weights_are_named(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptionError, match=r"model\.safetensors: is no whole file"):
        read_result(copied)


def test_another_models_weights_are_named(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    for change in ("drop", "reshape"):
        found = load_file(path)
        name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
        found = {n: t for n, t in found.items() if n != name} if change == "drop" else found | {
            "lm_head.weight": torch.zeros(3)}  # fmt: skip
        save_file(found, copied / "other.safetensors")
        shutil.copy(copied / "other.safetensors", path)
        with pytest.raises(BadInputError, match=r"(experts\.2\.w1\.weight: is missing|lm_head\.weight: is \[3\])"):
            read_result(copied)


@pytest.mark.parametrize("broken", ["{", "[]", "{}", json.dumps({"quiltwork_moe": {"shape": {"width": 3}}})])
def test_a_broken_config_is_one_clear_error(copied: Path, broken: str) -> None:
    (copied / "config.json").write_text(broken, encoding="utf-8")
    with pytest.raises(QuiltworkError, match=r"config\.json"):
        read_result(copied)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gates": {"0": {"gate": "Adaptive"}}}, "gates: layer 1 has no gate"),
        ({"gates": {"7": {"gate": "Adaptive"}}}, "gates: layer 0 has no gate"),
        ({"gates": 3}, "there are no gates"),
        ({"gates": {"0": {"gate": "TopK", "k": 9}, "1": {"gate": "TopK"}}}, "9 experts of 4 cannot be taken"),
        ({"gates": {"0": {"gate": "TopP", "most": "all"}}}, "gates: 0: most: 'all'"),
        ({"gates": {"0": {"gate": "ExpertChoice", "lengths": 5}}}, "gates: 0: lengths: 5"),
        ({"shape": {"width": 16}}, "shape: must have vocabulary, width"),
        ({"task": "sing"}, "'sing' is not a task"),
        ({"classes": None}, "has no task, or no classes"),
    ],
)
def test_a_field_that_cannot_be_meant_is_one_line(copied: Path, fields: dict, said: str) -> None:
    path = copied / "config.json"
    config = json.loads(path.read_bytes())
    config["quiltwork_moe"] |= fields
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(BadInputError, match=said) as caught:
        read_result(copied)
    assert "\n" not in str(caught.value)


def test_a_calibration_beside_is_preferred(copied: Path) -> None:
    Thresholds({0: 0.3, 1: -1.0}, 2).write(copied / "moe_calibration.json")
    assert [layer.gate for layer in moe_layers(read_result(copied).model)] == [Adaptive(0.3), Adaptive(-1.0)]
