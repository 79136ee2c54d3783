"""How rates and the gate's threshold are chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quiltwork.core.errors import BadInputError
from work.moe_choices import best_rate, frozen, judge_gates, read_choices
from work.moe_curves import Curve
from work.moe_found import Found


def found(losses: tuple[float, ...], experts: float = 2.0, share: float = 0.6) -> Found:
    steps = tuple(100 * n for n in range(len(losses)))
    each = (experts,) * steps[-1]
    return Found(
        Curve(steps, losses), each, tuple((k, k) for k in each), share, {}, tuple(map(float, steps)), 1.0, 1e-3
    )


def test_the_gate_with_the_least_work_to_the_loss_is_the_best() -> None:
    top2 = [found((3.0, 2.0, 1.0))]
    judged = judge_gates(
        top2,
        {
            ("softmax", 0.1): [found((3.0, 2.0, 1.0), experts=1.5)],
            ("softmax", 0.2): [found((3.0, 2.0, 1.0), experts=2.0)],
            ("pair", 0.1): [found((3.0, 2.5, 1.0), experts=1.0)],
        },
    )
    assert [one.gate for one in judged] == [("pair", 0.1), ("softmax", 0.1), ("softmax", 0.2)]
    assert [one.work for one in judged] == pytest.approx([0.7, 0.85, 1.0])


def test_a_gate_that_never_reaches_the_loss_comes_last_however_cheap_it_is() -> None:
    top2 = [found((3.0, 2.0, 1.0))]
    cheap, dear = found((3.0, 2.0, 1.1, 1.01), experts=1.0), found((3.0, 2.0, 1.5, 0.9), experts=2.0)
    judged = judge_gates(top2, {("pair", 0.05): [cheap], ("pair", 0.4): [dear]})
    assert [(one.gate, one.censored) for one in judged] == [(("pair", 0.4), False), (("pair", 0.05), True)]


def test_gates_are_judged_by_the_mean_over_seeds_and_not_by_a_lucky_one() -> None:
    top2 = [found((3.0, 1.2)), found((3.0, 0.8))]
    lucky, unlucky = found((3.0, 0.5)), found((3.0, 1.7))
    assert judge_gates(top2, {("pair", 0.1): [lucky, unlucky]})[0].censored


def test_the_rate_with_the_least_loss_anywhere_on_its_curve_is_taken() -> None:
    assert best_rate({1e-3: found((3.0, 2.0)), 3e-3: found((3.0, 1.9, 2.5))}) == 3e-3
    with pytest.raises(BadInputError, match="rates"):
        best_rate({})


def test_a_choice_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    choice = frozen({"threshold": 0.1, "reading": "pair"})
    path.write_text(json.dumps(choice), encoding="utf-8")
    assert read_choices(path) == choice
    path.write_text(json.dumps({**choice, "threshold": 0.2}), encoding="utf-8")
    with pytest.raises(BadInputError, match="changed"):
        read_choices(path)
