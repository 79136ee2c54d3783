"""Two models joined: trained on one part of a text, chosen by another, registered with what a third one says."""

import dataclasses
import json

import pytest
import torch
from tiny_checkpoints import adapted, build
from tiny_trained import WORDS, save_trained, story

from quiltwork.core.errors import BadInputError, ConflictError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.serving.options import SamplingOptions
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.serving.stitching import Cut, Recipe, stitch
from quiltwork.serving.stitching.chains import read_chain
from quiltwork.serving.stitching.distil import score
from quiltwork.serving.stitching.forward import run
from quiltwork.serving.stitching.stitch import read_cuts
from quiltwork.serving.stitching.text import codec_of, split_text
from quiltwork.zoo import Zoo

RECIPE = Recipe(steps=30, window=24, batch=16)
TEXT = story()


def say(phrase: str) -> None:
    pass


def joined(zoo, **options):
    fields = {"at": "1", "text": TEXT, "recipe": RECIPE, "say": say} | options
    return stitch(zoo, "small", "large", **fields)


def state(zoo):
    return zoo.models(), set(zoo.objects())


def test_a_trained_stitch_lies_between_its_parents_and_is_registered_with_all_three_losses(zoo):
    report = joined(zoo, name="both")
    (cut,) = report.cuts
    small, large = report.parents["small"].loss, report.parents["large"].loss
    assert large < cut.test.loss < small
    assert cut.trained.validation.loss <= cut.trained.start.loss
    model = zoo.model("both")
    assert model.measured["loss"] == cut.test.loss
    assert model.measured["parents"] == {"small": small, "large": large}
    assert (model.measured["layers_below"], model.measured["first_layer_above"]) == (1, 1)
    assert f"held-out loss {cut.test.loss:.3f}" in model.notes[0]
    assert zoo.fsck() == []


def test_what_was_reported_is_what_the_registered_chain_does(zoo):
    report = joined(zoo, name="both", lora=2)
    device = torch.device("cpu")
    chain, teacher = (read_chain(zoo, zoo.chain(name), device) for name in ("both", "large"))
    splits = split_text(TEXT, codec_of(zoo, zoo.model("both")), window=RECIPE.window, where="t")
    again = score(chain, teacher, splits.test, splits.prefix, RECIPE)
    assert again.loss == pytest.approx(report.cuts[0].test.loss, abs=1e-5)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_registered_chain_is_served_as_torch_computes_it(zoo, lora):
    joined(zoo, name="both", lora=lora)
    chain = read_chain(zoo, zoo.chain("both"), torch.device("cpu"))
    engine = Engine(EngineConfig(), lambda: 0.0)
    for name in ("both", "large", "small"):
        engine.install(engine.prepare(zoo.chain(name), zoo.read))
    prompt = [1, *codec_of(zoo, zoo.model("both")).encode("the red king saw the dog said", add_special_tokens=False)]
    engine.add(Sequence(1, ModelRef("both"), prompt, SamplerState(SamplingOptions(temperature=0.0), prompt), 20))
    tokens = list(prompt)
    while engine.has_work:
        for emission in engine.step():
            logits = run(chain.links, torch.tensor([tokens]))[0, -1]
            best = logits.topk(2)
            assert emission.token.token == int(best.indices[0]) or float(best.values[0] - best.values[1]) < 1e-3
            tokens.append(emission.token.token)
    assert len(tokens) == len(prompt) + 20


def test_all_but_the_stitch_is_shared_with_the_parents(zoo):
    before = set(zoo.objects())
    joined(zoo, name="both", at="2:1")
    model = zoo.model("both")
    parents = {part.block.id for name in ("small", "large") for part in zoo.model(name).parts}
    assert [p.name for p in model.parts if p.block.id not in parents] == ["stitches.2"]
    assert [p.name for p in model.parts] == [
        "embed", "layers.0.attn", "layers.0.ffn", "layers.1.attn", "layers.1.ffn", "stitches.2",
        "layers.2.attn", "layers.2.ffn", "layers.3.attn", "layers.3.ffn", "layers.4.attn", "layers.4.ffn", "head",
    ]  # fmt: skip
    tensors = {t.content for part in model.parts for t in part.block.tensors}
    assert len(tensors - before) == 2, "a weight and a bias"


def test_least_squares_and_training_both_beat_what_they_start_from(zoo):
    def loss(start, steps):
        recipe = dataclasses.replace(RECIPE, steps=steps)
        report = joined(zoo, name="s", start=start, recipe=recipe, replace_model=True)
        return report.cuts[0].test.loss

    random, random_trained, fitted, both = loss("random", 0), loss("random", 30), loss("ridge", 0), loss("ridge", 30)
    assert both < fitted < random_trained < random


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(zoo):
    first = joined(zoo, name="a", lora=2).model
    second = joined(zoo, name="b", lora=2).model
    other = joined(zoo, name="c", lora=2, recipe=dataclasses.replace(RECIPE, seed=1)).model
    assert first.version == second.version != other.version


@pytest.mark.slow
def test_every_cut_is_reported_and_the_best_is_registered(zoo):
    report = joined(zoo, name="best", at="all")
    assert [c.cut for c in report.cuts] == [Cut(1, 1), Cut(2, 3)]
    qualified = [c for c in report.cuts if c.qualifies]
    assert report.registered == min(qualified, key=lambda c: c.trained.validation.loss).cut
    assert zoo.models() == [ModelRef("best"), ModelRef("large"), ModelRef("small")]


def test_one_that_is_worse_than_both_parents_is_refused_and_leaves_the_zoo_as_it_was(zoo):
    before = state(zoo)
    report = joined(zoo, start="random", recipe=dataclasses.replace(RECIPE, steps=0), at="all")
    assert report.model is None
    assert report.registered is None
    assert not any(cut.qualifies for cut in report.cuts)
    assert state(zoo) == before


@pytest.mark.parametrize("parents", [("small", "broken"), ("broken", "small")])
def test_a_parent_whose_loss_is_no_number_is_refused_before_any_training(zoo, broken, parents):
    before = state(zoo)
    with pytest.raises(BadInputError, match="broken: its loss on the text is not a number"):
        stitch(zoo, *parents, at="1", text=TEXT, recipe=RECIPE, say=pytest.fail)
    assert state(zoo) == before


def test_other_tokenizers_are_refused_with_the_reason(zoo, tmp_path):
    words = [word for group in WORDS.values() for word in group] + ["the", "said", "."]
    zoo.add(save_trained("small", tmp_path / "other", steps=0, words=[*words[1:], "emperor"]))
    folder = save_trained("small", tmp_path / "spaced", steps=0)
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    described["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    file.write_text(json.dumps(described))
    zoo.add(folder)
    before = state(zoo)
    with pytest.raises(BadInputError, match=r"small and other: their vocabularies differ \(\d+ and \d+ tokens\)"):
        stitch(zoo, "small", "other", at="1", text=TEXT, recipe=RECIPE, say=say)
    with pytest.raises(BadInputError, match="small and spaced: their tokenizers differ in 'pre_tokenizer'"):
        stitch(zoo, "small", "spaced", at="1", text=TEXT, recipe=RECIPE, say=say)
    assert state(zoo) == before


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    build("llama").save_pretrained(tmp_path / "mute")
    zoo = Zoo(tmp_path / "zoo")
    zoo.add(tmp_path / "mute")
    with pytest.raises(BadInputError, match="mute has no tokenizer"):
        stitch(zoo, "mute", "mute", at="1", text=TEXT, recipe=RECIPE, say=say)


@pytest.mark.slow
def test_the_test_part_of_the_text_decides_nothing(zoo):
    other = story(seed=1)
    at = TEXT.index(" . ", int(len(TEXT) * 0.93))
    changed = TEXT[:at] + other[other.index(" . ", at) :][: len(TEXT) - at]
    first, second = joined(zoo, name="a"), joined(zoo, name="b", text=changed)
    assert first.cuts[0].test.loss != second.cuts[0].test.loss
    assert [p.block.id for p in first.model.parts] == [p.block.id for p in second.model.parts]


def test_windows_longer_than_a_model_can_read_are_refused(zoo):
    with pytest.raises(BadInputError, match="window: 201 tokens are more than the 128 that can be read"):
        joined(zoo, recipe=dataclasses.replace(RECIPE, window=200))


def test_a_family_that_is_not_known_is_refused_by_its_name(zoo, tmp_path):
    folder = save_trained("small", tmp_path / "strange", steps=0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    zoo.add(folder)
    with pytest.raises(UnsupportedError, match="family 'mamba'"):
        stitch(zoo, "strange", "large", at="1", text=TEXT, recipe=RECIPE, say=say)


@pytest.mark.slow
def test_what_is_made_of_a_tenants_model_is_the_tenants(zoo, tmp_path):
    folder = save_trained("small", tmp_path / "own", steps=60)
    zoo.add(folder, tenant="acme")
    zoo.add(folder, tenant="rival", name="theirs")
    own = ModelRef("own", "acme")
    made = stitch(zoo, own, "large", at="1", text=TEXT, recipe=RECIPE, say=say, name="both").model
    assert made.ref == ModelRef("both", "acme")
    with pytest.raises(BadInputError, match="belong to different tenants"):
        stitch(zoo, own, ModelRef("theirs", "rival"), at="1", text=TEXT, recipe=RECIPE, say=say)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("0", "cannot keep 0"),
        ("4", "the lower model has 3 layers: cannot keep 4"),
        ("1:4", "no layer 4"),
        ("-1", "is not a cut"),
        ("1:", "is not a cut"),
        ("half", "is not a cut"),
        ("", "is not a cut"),
    ],
)
def test_a_cut_that_is_none_is_named(zoo, at, message):
    with pytest.raises(BadInputError, match=message):
        joined(zoo, at=at)


def test_cuts_default_to_the_same_relative_depth_and_leave_a_layer_above():
    assert read_cuts("2", 4, 8) == [Cut(2, 4)]
    assert read_cuts("4", 4, 8) == [Cut(4, 7)]
    assert read_cuts("all", 5, 5) == [Cut(i, i) for i in range(1, 5)]


def test_a_taken_name_a_short_text_and_a_bad_number_are_refused_before_any_training(zoo):
    with pytest.raises(ConflictError):
        joined(zoo, name="large")
    with pytest.raises(BadInputError, match=r"story\.txt: has"):
        joined(zoo, text="the king", where="story.txt")
    with pytest.raises(BadInputError, match="lora"):
        joined(zoo, lora=-1)
    with pytest.raises(BadInputError, match="device"):
        Recipe(device="cuda:99" if not torch.cuda.is_available() else "nowhere")


def test_a_stitched_chain_is_served_but_not_exported_nor_adapted(zoo, tmp_path):
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    joined(zoo, name="both")
    for options in ({}, {"format": "hf"}, {"merged": True}):
        with pytest.raises(UnsupportedError, match="both: holds a stitch"):
            zoo.export("both", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    save_trained("small", tmp_path / "small", steps=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    adapted(model, LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match="an adapter on a stitched chain"):
        zoo.add(tmp_path / "adapter", base="both")
