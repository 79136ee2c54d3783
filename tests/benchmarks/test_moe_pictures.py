"""What a record keeps of curves, and the pictures drawn of it."""

from __future__ import annotations

from defusedxml.ElementTree import fromstring

from work.moe_arms import ADAPTIVE, DENSE, LM, TOP1, TOP2
from work.moe_curve_records import curves_told, experts_told
from work.moe_curves import Curve, StepCost
from work.moe_figures import Studied
from work.moe_found import Found
from work.moe_pictures import experts_picture, losses_picture

ARMS = (TOP2, ADAPTIVE, TOP1, DENSE)


def found(losses: tuple[float, ...], experts: float) -> Found:
    steps = tuple(10 * n for n in range(len(losses)))
    many = steps[-1]
    return Found(Curve(steps, losses), (experts,) * many, ((experts, 2.0),) * many, 0.6, {}, steps, 1.0, 1e-3)


STUDIED = Studied(
    LM,
    {arm: {0: found((3.0, 2.0, 1.0), 1.5), 1: found((3.0, 1.0, 0.0), 1.5)} for arm in ARMS},
    dict.fromkeys(ARMS, StepCost(one=1.0, two=2.0)),
)


def test_a_curve_is_the_mean_of_seeds_at_what_its_steps_cost() -> None:
    assert curves_told(STUDIED)[ADAPTIVE] == {
        "steps": [0, 10, 20],
        "cpu_s": [0.0, 15.0, 30.0],
        "losses": [3.0, 1.5, 0.5],
    }


def test_experts_are_kept_layer_by_layer_in_stretches_of_steps() -> None:
    assert experts_told(STUDIED) == [[1.5, 1.5], [2.0, 2.0]]


def test_pictures_are_svg_that_names_every_line() -> None:
    pictures = (losses_picture({"lm": curves_told(STUDIED)}), experts_picture({"lm": experts_told(STUDIED)}))
    for picture, names in zip(pictures, (("top-2", "adaptive", "top-1", "dense"), ("layer 1", "layer 2")), strict=True):
        words = [part.text for part in fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert {"War and Peace", *names} <= set(words)
