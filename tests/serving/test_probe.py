"""What a probe measures is what plain torch computes, and its two halves have nothing in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import adapted, build
from tiny_kin import make_kin
from tiny_trained import story, tokenizer

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.probe import Probe, split_probe
from quiltwork.serving.stitching.chains import read_chain
from quiltwork.serving.stitching.distil import Recipe, score
from quiltwork.serving.text import TextCodec
from quiltwork.zoo import Zoo
from quiltwork.zoo.equivalence import UNCHANGED, find_candidates, substituted
from quiltwork.zoo.types import Chain

CODEC = TextCodec(tokenizer(), {})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(make_kin(tmp_path_factory.mktemp("kin")))


@pytest.fixture(scope="module")
def swaps(zoo: Zoo):
    found = find_candidates(zoo, zoo.model("tuned"), tenant="public", per_part=1)
    return [swap for part in found for swap in part.swaps]


def split(text: str = story(60), **options):
    return split_probe(text, CODEC, **({"window": 24, "tokens": 240, "where": "text"} | options))


def test_a_probe_measures_what_plain_torch_computes(zoo: Zoo, swaps):
    text, cpu = split(), torch.device("cpu")
    chain = zoo.chain("tuned")
    plain = read_chain(zoo, chain, cpu)
    with Probe(chain, zoo.read, EngineConfig(), batch=3) as probe:
        for half in (text.deciding, text.judging):
            exact = score(plain, plain, half, text.prefix, Recipe())
            assert probe.loss(half, text.prefix) == pytest.approx(exact.loss, abs=1e-4)
            assert probe.measure(half, text.prefix, []) == UNCHANGED
            for chosen in ([swaps[0]], swaps[1:], swaps):
                other = read_chain(zoo, Chain(chain.model, substituted(chain.links, chosen)), cpu)
                theirs = score(other, plain, half, text.prefix, Recipe())
                ours = probe.measure(half, text.prefix, chosen)
                assert ours.delta_loss == pytest.approx(theirs.loss - exact.loss, abs=1e-4)
                assert ours.kl == pytest.approx(theirs.divergence, abs=1e-4)
                assert ours.agreement == pytest.approx(theirs.agreement, abs=1.01 / text.predicted(half))


def test_an_adapter_is_measured_with_what_hangs_on_it(zoo: Zoo, tmp_path: Path):
    from peft import LoraConfig
    from tiny_trained import save_trained
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(save_trained("large", tmp_path / "again", steps=5))
    with Zoo(tmp_path / "zoo") as mine:
        mine.add(tmp_path / "again", name="base")
        adapted(base, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]), tmp_path / "lora")
        mine.add(tmp_path / "lora", base="base")
        chain, text = mine.chain("lora"), split()
        found = find_candidates(mine, mine.model("lora"), tenant="public", least=-1.0)
        chosen = [swap for part in found for swap in part.swaps]
        assert len(chosen) == 8
        plain, bare = (read_chain(mine, mine.chain(name), torch.device("cpu")) for name in ("lora", "base"))
        with Probe(chain, mine.read, EngineConfig()) as probe:
            theirs = score(bare, plain, text.deciding, text.prefix, Recipe())
            assert probe.measure(text.deciding, text.prefix, chosen).kl == pytest.approx(theirs.divergence, abs=1e-4)


def test_what_it_does_not_keep_it_computes_again(zoo: Zoo, swaps, monkeypatch: pytest.MonkeyPatch):
    text = split()
    with Probe(zoo.chain("tuned"), zoo.read, EngineConfig()) as probe:
        kept = [probe.measure(text.deciding, text.prefix, swaps) for _ in range(2)]
    monkeypatch.setattr("quiltwork.serving.probe.REFERENCE_BYTES", 0)
    with Probe(zoo.chain("tuned"), zoo.read, EngineConfig()) as probe:
        assert [probe.measure(text.deciding, text.prefix, swaps) for _ in range(2)] == kept


def test_virtual_tokens_are_refused(tmp_path: Path):
    from peft import PrefixTuningConfig

    build("llama").save_pretrained(tmp_path / "base")
    adapted(build("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), tmp_path / "prefix")
    with Zoo(tmp_path / "zoo") as mine:
        mine.add(tmp_path / "base")
        mine.add(tmp_path / "prefix", base="base")
        with pytest.raises(UnsupportedError, match="virtual tokens"):
            Probe(mine.chain("prefix"), mine.read, EngineConfig())


@given(st.integers(10, 60), st.integers(2, 40), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_the_halves_have_nothing_in_common(sentences: int, window: int, windows: int):
    whole = story(sentences)
    ids = CODEC.encode(whole, add_special_tokens=False, where="")
    text = split(whole, window=window, tokens=window * windows)
    assert text.prefix == 1
    for half, there in ((text.deciding, ids[: len(ids) // 2]), (text.judging, ids[len(ids) // 2 :])):
        assert 1 <= half.shape[0] <= windows
        assert text.predicted(half) == half.shape[0] * window
        for row in half.tolist():
            assert row[0] == 1
            assert any(there[at : at + window] == row[1:] for at in range(len(there) - window + 1))
        assert half.shape[0] * window <= len(there), "windows of a half do not overlap"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "text: is empty"),
        (" \n", {}, "text: is empty"),
        ("the king", {}, "text: has 2 tokens: too short to decide on one half and judge by the other; at least 48"),
        (story(60), {"window": 1}, "window: 1 is less than 2"),
        (story(60), {"tokens": 3}, "tokens: 3 is less than 24"),
    ],
)
def test_a_text_that_cannot_be_split_is_named(text, options, message):
    with pytest.raises(BadInputError, match=message):
        split(text, **options)
