"""One trained model with other numbers of experts."""

import json
from pathlib import Path

import pytest
from moe_runs import begun
from tiny_moe import settings_of, started

from quiltwork.core.errors import BadInputError
from quiltwork.moe.evaluation import Evaluated, evaluate_result, mode_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    training = begun(folder, steps=30, target_experts=1.4)
    while not training.step().finished:
        pass
    return folder / "out"


def modes(folder: Path, *told: str) -> dict[str, Evaluated]:
    return {one.mode: one for one in evaluate_result(folder, [mode_of(name) for name in told])}


def test_each_mode_takes_its_experts_and_pays_for_them(folder: Path) -> None:
    found = modes(folder, "trained", "top1", "top2", "k=1.25", "T=-1", "T=1")
    assert found["top1"].mean == 1
    assert found["top2"].mean == 2
    assert found["trained"].mean == pytest.approx(1.4, rel=0.1)
    assert found["k=1.25"].mean == pytest.approx(1.25, rel=0.05)
    assert found["top2"].expert_flops == 2 * found["top1"].expert_flops
    assert found["top1"].flops - found["top1"].expert_flops == found["top2"].flops - found["top2"].expert_flops
    # A threshold below 0 is top-1, one of 1 top-2, to the bit.
    assert found["T=-1"].scores == found["top1"].scores
    assert found["T=1"].scores == found["top2"].scores
    assert found["trained"].scores["loss"] != found["top1"].scores["loss"]


def test_adaptive_is_by_the_trained_thresholds_or_the_paper_s_where_there_are_none(
    folder: Path, tmp_path: Path
) -> None:
    trained = modes(folder, "adaptive", "trained")
    assert trained["adaptive"].thresholds == trained["trained"].thresholds
    assert trained["adaptive"].scores == trained["trained"].scores
    training = begun(tmp_path, steps=1, gate="top2")
    while not training.step().finished:
        pass
    fixed = modes(tmp_path / "out", "adaptive", "T=0.1", "trained")
    assert fixed["adaptive"].thresholds == (0.1, 0.1)
    assert fixed["adaptive"].experts == fixed["T=0.1"].experts
    assert fixed["trained"].thresholds == (None, None)


def test_modes_do_not_hang_on_those_before_them(folder: Path) -> None:
    assert modes(folder, "top1", "trained")["trained"] == modes(folder, "trained")["trained"]


@pytest.mark.parametrize("told", ["", "top", "top0", "top-1", "k", "k=", "k=nan", "T=inf", "K=1", "x=2", "2"])
def test_what_is_no_mode_is_named(told: str) -> None:
    with pytest.raises(BadInputError, match=r"experts: .*is no way to take experts"):
        mode_of(told)


@pytest.mark.parametrize(("told", "said"), [("top9", "9 experts of 4"), ("k=0.5", "0.5 is not from 1 to 2"),
                                            ("k=3", "3 is not from 1 to 2")])  # fmt: skip
def test_more_than_there_are_cannot_be_taken(folder: Path, told: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        modes(folder, told)


def test_a_changed_corpus_is_not_measured_on(folder: Path, tmp_path: Path) -> None:
    import shutil

    corpus = folder.parent / "corpus.txt"
    kept = corpus.read_text(encoding="utf-8")
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    try:
        corpus.write_text(kept.replace("cat", "cow"), encoding="utf-8")
        with pytest.raises(BadInputError, match="the corpus is not the one"):
            modes(copied, "top1")
    finally:
        corpus.write_text(kept, encoding="utf-8")


@pytest.mark.parametrize(("task", "score"), [("translate", "bleu"), ("classify", "accuracy")])
def test_as_trained_it_scores_what_training_said_and_with_other_experts_something_else(tmp_path, task, score) -> None:
    settings = settings_of(tmp_path, task, steps=40, rate=1e-2, width=32)
    if task == "translate":  # what is said again and again is soon said
        (tmp_path / "b.txt").write_text("the cat sat on a mat\n" * 120)
    training = started(settings)
    while not training.step().finished:
        pass
    told = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))["test"]
    found = modes(tmp_path / "out", "trained", "T=-1", "top1", "T=1", "top2")
    assert found["trained"].scores == told
    assert told[score] > (99 if task == "translate" else 0.5)
    assert found["T=-1"].scores == found["top1"].scores
    assert found["T=1"].scores == found["top2"].scores
    assert found["top1"].scores["loss"] != found["top2"].scores["loss"]
