"""Whole benchmarks on a small fleet, every side in this process: they run through, and their answers are the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import parameter_sharing
import per_model
from quiltwork.core.bench import Context, Outcome, Peak, judge
from work.fleet import SMALL_BODY

MIB = 1 << 20


class Here:
    """What Side is, without a process of its own; its memory is made up."""

    floor_pss = 0
    pid = os.getpid()

    def __init__(self, factory: str, *, threads: int, environment: dict[str, str] | None = None, **settings: Any):
        module, _, name = factory.partition(":")
        self._peak = Peak((256 if module == "work.ours" else 1024) * MIB)
        self._built = getattr(import_module(module), name)(**settings)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._built, method)(*args, **kwargs)

    @contextmanager
    def peak_pss(self, every: float = 0.02) -> Iterator[Peak]:
        yield self._peak

    def close(self) -> None:
        getattr(self._built, "close", lambda: None)()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def context(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    import torch

    threads = torch.get_num_threads()
    for module in ("per_model", "parameter_sharing", "work.azure", "work.reference"):
        monkeypatch.setattr(f"{module}.Side", Here)
    yield Context(quick=True, seed=0, scratch=tmp_path, data=data_dir)
    torch.set_num_threads(threads)


def check(outcome: Outcome, systems: set[str]) -> None:
    """Answers are the same, samples make a ratio, and all systems stand beside each other."""
    assert outcome.answers_equal is True, outcome.details
    assert min(*outcome.ours, *outcome.baseline) > 0
    assert {row["system"] for row in outcome.rows if row.get("table") == "side-by-side"} == systems


@pytest.mark.realdata
@pytest.mark.slow
def test_per_model_provisioning(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_model, "SHAPE", SMALL_BODY)
    monkeypatch.setattr(per_model, "QUICK", per_model.Counts(6, 4, 3, 2, {"generate": 3, "continuous": None}))
    monkeypatch.setattr(per_model, "APPS", 2)  # that many in memory
    monkeypatch.setattr(per_model, "SLACK", 1e6)  # how fast a loaded machine is does not matter here
    found = per_model.run(context)
    assert found.keys() == {claim.name for claim in per_model.CLAIMS}
    for claim in per_model.CLAIMS:
        check(found[claim.name], {"transformers generate", "transformers continuous batching", "ours"})
        judge(claim, found[claim.name])
        assert found[claim.name].details["stronger"] in ("generate", "continuous")
    knees = [row for row in found[per_model.GOODPUT].rows if row.get("table") == "latency-by-load"]
    assert {row["load"] for row in knees} == set(per_model.LOADS)


@pytest.mark.realdata
@pytest.mark.slow
def test_parameter_sharing_and_the_ablation(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_sharing, "SHAPE", SMALL_BODY)
    monkeypatch.setattr(parameter_sharing, "QUICK", parameter_sharing.Counts(10, 4, 5))
    monkeypatch.setattr("work.azure.APPS", 2)  # that many of continuous batching's in memory
    monkeypatch.setattr(parameter_sharing, "CAP", 1.0)  # the same memory is made up for all but ours
    found = parameter_sharing.run(context)
    for claim in parameter_sharing.CLAIMS:
        check(found[claim.name], {"PEFT mixed batches, separate full fine-tunes", "ours"})
        judge(claim, found[claim.name])
    rows = [row for row in found[parameter_sharing.P95].rows if row.get("table") == "ablation"]
    assert [row["engine"] for row in rows] == ["everything on", "no prefix reuse", "no batches across models"]
    assert rows[0]["requests/s, of everything on"] == 1.0
