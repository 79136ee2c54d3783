"""The studies from their first run to their figures, with models that train in a blink."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sacrebleu")

from tiny_studies import tiny_tasks, write_data

import moe_studies
from quiltwork.core.bench import Context
from quiltwork.core.errors import QuiltworkError
from work import moe_arms, moe_runs
from work.moe_arms import ADAPTIVE, DENSE, RANDOM2, TOP2, Run, Task, of_arm
from work.moe_found import Found
from work.moe_kept import Kept
from work.moe_run import WEIGHTS, begun, train
from work.moe_sweep import performer

GATE = {"reading": "pair", "threshold": 0.1}
LM = next(task for task in tiny_tasks() if task.name == "lm")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Runs take one thread, as long as they last."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def done(task: Task, arm: str, data: Path, root: Path, *, tuning: bool = False) -> Found:
    run = of_arm(task, arm, 0, {arm: 1e-2, ADAPTIVE: 1e-2}, GATE, tuning=tuning)
    return performer(Kept(root, "sources"), data, lambda text: None)(run)


@pytest.mark.parametrize("arm", [TOP2, ADAPTIVE, DENSE, RANDOM2, "controlled_top_p"])
def test_a_reported_run_has_the_test_of_its_best_model_among_equal_and_among_all_steps(
    data: Path, tmp_path: Path, arm: str
) -> None:
    found = done(LM, arm, data, tmp_path)
    assert set(found.tests) == {"equal_steps", "all_steps"}
    assert found.curve.steps == tuple(range(0, moe_arms.steps_of(LM, arm) + 1, 2))
    assert len(found.experts_per_token) == moe_arms.steps_of(LM, arm)
    assert 4 < found.tests["equal_steps"] < 9  # bits per byte of models that have learnt next to nothing


def test_a_lot_s_layers_have_as_many_second_experts_in_each_step_as_the_run_it_is_held_against(
    data: Path, tmp_path: Path
) -> None:
    adaptive, lot = (done(LM, arm, data, tmp_path) for arm in (ADAPTIVE, RANDOM2))
    assert len(lot.by_layer) == len(adaptive.by_layer)
    for ours, theirs in zip(lot.by_layer, adaptive.by_layer, strict=True):
        assert ours == pytest.approx(theirs, abs=0.01)  # of 64 tokens


def test_a_run_that_only_a_rate_is_chosen_by_never_looks_at_the_test_data(data: Path, tmp_path: Path) -> None:
    assert done(LM, TOP2, data, tmp_path, tuning=True).tests == {}


def test_a_top2_run_leaves_the_weights_that_its_test_was_of(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = of_arm(LM, TOP2, 0, {TOP2: 1e-2}, GATE)
    told = train(run, data, tmp_path)
    again = begun(run, data, tmp_path / "again", validates=False)
    again.model.load_state_dict(load_file(tmp_path / WEIGHTS))
    scores = again.objective.scores(again.model, "test", 32)
    assert scores["bits_per_byte"] == pytest.approx(told["tests"]["equal_steps"], rel=1e-6)


@pytest.mark.slow
def test_all_claims_come_out_of_one_quick_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe_arms, "quick_tasks", tiny_tasks)
    found = moe_studies.run(Context(quick=True, seed=0, scratch=tmp_path, data=data))
    assert set(found) == {claim.name for claim in moe_studies.CLAIMS}
    rows = found[moe_studies.BEST].rows
    tables = {str(row["table"]) for row in rows}
    assert tables == {"time-to-loss", "moe-gates", "moe-quality", "random-second"}
    # Top-1, dense and the lot stand beside what is claimed; time to a loss beside quality in equal time.
    times = [row for row in rows if row["table"] == "time-to-loss"]
    assert {(row["task"], row["gate"]) for row in times} == {
        (task.name, arm) for task in tiny_tasks() for arm in moe_arms.MAIN
    }
    assert all({"time, of top-2's", "in top-2's time"} <= row.keys() for row in times)
    assert {row["gate"] for row in rows if row["table"] == "moe-gates"} >= set(moe_arms.FURTHER)


def test_kept_runs_count_as_those_of_other_sources_only_if_these_do_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moe_runs, "TASKS", tiny_tasks())
    done(LM, TOP2, data, tmp_path)
    assert moe_runs.same_as_kept(tmp_path, data)["lm top2"] < 1e-6
    assert list(json.loads((tmp_path / "same.json").read_text(encoding="utf-8")).values()) == ["sources"]
    other = replace(LM, settings={**LM.settings, "inner": 24})
    run = Run(other, DENSE, 0, 1e-2, 4)
    Kept(tmp_path, "sources").write(run.told(), {**train(run, data, tmp_path / "other"), "first_losses": [9.0]})
    with pytest.raises(QuiltworkError, match="lm dense"):
        moe_runs.same_as_kept(tmp_path, data)
