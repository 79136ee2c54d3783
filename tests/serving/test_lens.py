"""Blocks of models of different sizes are compared by what their heads make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_kin import make_kin
from tiny_trained import WORDS, save_trained, story

from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import ignore
from quiltwork.serving.adapt import Asked
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.lens import beside, compare_depths
from quiltwork.zoo import Zoo

ASKED = Asked(story(60, seed=9), "story.txt", window=24, tokens=240)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(make_kin(tmp_path_factory.mktemp("kin")))


def compared(zoo: Zoo, a: str, b: str):
    return compare_depths(zoo, zoo.model(a), zoo.model(b), ASKED, EngineConfig(), ignore)[0]


def test_a_model_is_like_itself_and_a_near_one_more_than_a_small_one(zoo: Zoo):
    for one in compared(zoo, "base", "base"):
        assert one.part == one.other
        assert (one.cosine, one.kl, one.agreement) == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-6), 1.0)
    near, small = ({one.part: one for one in compared(zoo, "base", other)} for other in ("tuned", "small"))
    assert near["embed"].cosine == pytest.approx(1, abs=1e-5)
    assert 0 < small["head"].cosine < near["head"].cosine < 1
    assert small["head"].kl > near["head"].kl > 0
    assert small["layers.3.ffn"].other == "layers.2.ffn"
    assert all(0 <= one.agreement <= 1 for one in small.values())


def test_each_block_is_beside_the_one_at_its_relative_depth():
    ours, theirs = ["embed", *["attn", "ffn"] * 4, "head"], ["embed", *["attn", "ffn"] * 2, "head"]
    assert beside(theirs, ours) == [(0, 0), (1, 3), (2, 4), (3, 7), (4, 8), (5, 9)]
    assert [pair for pair in beside(ours, theirs) if ours[pair[0]] == "ffn"] == [(2, 2), (4, 2), (6, 4), (8, 4)]


def test_another_vocabulary_is_one_clear_line(zoo: Zoo, tmp_path: Path):
    words = [*WORDS["who"], *WORDS["did"], *WORDS["how"], "the", "said", ".", "more"]
    zoo.add(save_trained("small", tmp_path / "foreign", steps=1, words=words))
    with pytest.raises(BadInputError, match="foreign: their vocabularies differ") as raised:
        compared(zoo, "base", "foreign")
    assert "\n" not in str(raised.value)
