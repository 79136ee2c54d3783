"""Whole benchmarks on a small fleet, every side in this process: they run through, and their answers are the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llama_server
import parameter_sharing
import per_model
from quiltwork.core.bench import Context, Outcome, Peak, judge
from quiltwork.core.errors import NotFoundError
from work.apart import OurModelsApart
from work.fleet import SMALL_BODY, sixteen_loras
from work.gguf_export import SPECIAL
from work.ours import OurModels
from work.replay import Request
from work.stock import stock
from work.system import answers

MIB = 1 << 20


class Here:
    """What Side is, without a process of its own; its memory is made up."""

    floor_pss = 0
    pid = os.getpid()

    def __init__(self, factory: str, *, threads: int, environment: dict[str, str] | None = None, **settings: Any):
        module, _, name = factory.partition(":")
        self._peak = Peak((256 if name.startswith("Our") else 1024) * MIB)
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
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # teams of threads wait for each other where others want the cores
    for module in ("per_model", "parameter_sharing", "llama_server", "work.azure", "work.reference"):
        monkeypatch.setattr(f"{module}.Side", Here)
    yield Context(quick=True, seed=0, scratch=tmp_path, data=data_dir)
    torch.set_num_threads(threads)


def check(outcome: Outcome, systems: set[str]) -> None:
    """Answers are the same, samples make a ratio, and all systems stand beside each other."""
    assert outcome.answers_equal is True, outcome.details
    assert min(*outcome.ours, *outcome.baseline) > 0
    assert {row["system"] for row in outcome.rows if row.get("table") == "side-by-side"} == systems
    sides = outcome.details["sides"]
    assert {side["dtype"] for side in sides.values()} == {"torch.float32"}
    assert all(side["settings"] for side in sides.values())
    assert len(sides) == len(systems)


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
    monkeypatch.setattr(parameter_sharing, "need", lambda *asked: 2048 * MIB)
    found = parameter_sharing.run(context)
    for claim in parameter_sharing.CLAIMS:
        check(found[claim.name], {"PEFT mixed batches, separate full fine-tunes", "ours"})
        judge(claim, found[claim.name])
    rows = [row for row in found[parameter_sharing.P95].rows if row.get("table") == "ablation"]
    assert [row["engine"] for row in rows] == ["everything on", "no prefix reuse", "no batches across models"]
    assert rows[0]["requests/s, of everything on"] == 1.0


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(llama_server.VARIABLE not in os.environ, reason=f"{llama_server.VARIABLE} names no llama-server")
def test_llama_server(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "SHAPE", SMALL_BODY)
    monkeypatch.setattr(llama_server, "QUICK", llama_server.Counts(10, 4, 2))
    monkeypatch.setattr(llama_server, "need", lambda *asked: 2048 * MIB)
    found = llama_server.run(context)[llama_server.THROUGHPUT]
    check(found, {"llama.cpp server", "ours, over HTTP"})
    assert sum(row.get("table") == "one-at-a-time" for row in found.rows) == 3


def test_without_llama_server_one_line_says_what_to_do(tmp_path: Path) -> None:
    for environment in ({}, {llama_server.VARIABLE: str(tmp_path)}):
        with pytest.raises(NotFoundError, match=r"^QUILTWORK_LLAMA_SERVER=.*no llama-server.*\(build") as caught:
            llama_server.llama_server(environment)
        assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(0, 9))
def test_special_tokens_are_put_back_where_the_other_answer_has_them(full: list[int], other: int) -> None:
    visible = [token for token in full if token >= SPECIAL]
    assert llama_server.with_special(visible, full) == full
    changed = [*visible[:-1], other + SPECIAL] if visible else []
    again = llama_server.with_special(changed, full)
    assert [token for token in again if token >= SPECIAL] == changed


@pytest.mark.slow
def test_one_process_per_app_answers_as_one_engine_does(tmp_path: Path) -> None:
    fleet = sixteen_loras(tmp_path / "fleet", seed=0, shape=SMALL_BODY, count=2)
    stock(tmp_path / "zoo", fleet)
    names = [app.name for app in fleet.apps]
    timed = [Request(f"r{i}", names[i % 3], 0.0, list(range(3 + i, 23 + i)), 5, stream=i % 2 == 0) for i in range(9)]
    together, each = OurModels(tmp_path / "zoo", names), OurModelsApart(tmp_path / "zoo", names, 2)
    try:
        assert each.floor() > len(names) * MIB
        alone = each.replay(timed)
        assert answers(alone) == answers(together.replay(timed))
        assert alone.loads >= 1  # two of three are in memory at a time
    finally:
        together.close()
        each.close()
