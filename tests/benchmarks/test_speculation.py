"""The speculation benchmark on a pair that is trained in seconds: it runs through, and every answer is the same."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import speculation
from quiltwork.core.bench import Context, judge
from quiltwork.core.errors import NotFoundError
from quiltwork.serving import SamplerState, SamplingOptions
from work.answers import MARGIN, compare_drawn, draws


class Here:
    """What Side is, without a process of its own."""

    def __init__(self, factory: str, *, threads: int, environment: dict[str, str] | None = None, **settings: Any):
        module, _, name = factory.partition(":")
        self._built = getattr(import_module(module), name)(**settings)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._built, method)(*args, **kwargs)

    def close(self) -> None:
        getattr(self._built, "close", lambda: None)()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def context(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    for module in ("speculation", "work.reference"):
        monkeypatch.setattr(f"{module}.Side", Here)
    return Context(quick=True, seed=0, scratch=tmp_path, data=data_dir)


@pytest.mark.realdata
@pytest.mark.slow
def test_it_runs_through_and_no_answer_differs(context: Context) -> None:
    outcomes = speculation.run(context)
    assert set(outcomes) == {claim.name for claim in speculation.CLAIMS}
    for claim in speculation.CLAIMS:
        assert outcomes[claim.name].answers_equal is True, outcomes[claim.name].details
        judge(claim, outcomes[claim.name])
    same = outcomes[speculation.SAME]
    assert same.ours == same.baseline
    assert same.details["drawn"] > 0
    points = {(row["batch"], row["temperature"]) for row in outcomes[speculation.BOUND].rows}
    assert points == {(batch, temperature) for batch in (1, 2) for temperature in (0.0, 1.0)}
    assert 0 <= outcomes[speculation.GAIN].details["acceptance"] <= 1
    assert os.path.isdir(context.scratch / "pair" / "draft")


def test_without_the_log_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="request log"):
        speculation.log_text(tmp_path)


UNIFORM = np.zeros(4, np.float32)
"""Four tokens, a quarter each."""


def test_drawn_answers_may_part_only_where_the_number_is_at_a_boundary() -> None:
    near, far = 0.25 + MARGIN / 2, 0.4
    assert compare_drawn([0], [1], [near], 1.0, lambda tokens: UNIFORM).equal
    assert not compare_drawn([0], [1], [far], 1.0, lambda tokens: UNIFORM).equal
    assert not compare_drawn([0], [2], [near], 1.0, lambda tokens: UNIFORM).equal
    assert not compare_drawn([1], [1, 1], [near, near], 1.0, lambda tokens: UNIFORM).equal


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_numbers_are_those_the_engine_draws_by(seed: int) -> None:
    state = SamplerState(SamplingOptions(seed=seed))
    assert draws(seed, 3) == [state.draw() for _ in range(3)]
