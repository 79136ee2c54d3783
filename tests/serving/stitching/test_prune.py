"""Smaller surrogates: what is left out, what training brings back, and what is stored of it."""

import dataclasses

import pytest
import torch
from tiny_checkpoints import adapted, build
from tiny_trained import story, tokenizer
from transformers import AutoModelForCausalLM

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.serving.stitching import DISTILLATION, Recipe, Smaller, prune
from quiltwork.serving.stitching.chains import read_chain
from quiltwork.serving.stitching.forward import run
from quiltwork.serving.stitching.prune import importance, make_smaller
from quiltwork.serving.stitching.text import codec_of, split_text
from quiltwork.zoo import Zoo

RECIPE = dataclasses.replace(DISTILLATION, steps=30, window=24, batch=16)
TEXT = story()
PROMPT = torch.tensor([[1, 4, 5, 6, 7, 8, 9, 10, 11, 12]])


def say(phrase: str) -> None:
    pass


def pruned(zoo, smaller, ref="large", **options):
    return prune(zoo, ref, smaller, **({"text": TEXT, "recipe": RECIPE, "say": say} | options))


def logits(zoo, name):
    return run(read_chain(zoo, zoo.chain(name), torch.device("cpu")).links, PROMPT)[0]


def test_a_trained_stitch_in_the_gap_agrees_more_than_the_bare_gap(zoo):
    bare = pruned(zoo, Smaller((0, 3), bare=True), name="bare")
    bridged = pruned(zoo, Smaller((0, 3)), name="bridged")
    assert bridged.test.divergence < bare.test.divergence
    assert bridged.trained.validation.divergence < bridged.trained.start.divergence
    assert bare.cost < bridged.cost < 1
    model = zoo.model("bridged")
    assert model.base == ModelRef("large")
    assert model.measured["loss"] == bridged.test.loss
    assert model.measured["parents"] == {"large": bridged.original.loss}
    assert model.measured["agreement"] == bridged.test.agreement
    assert model.measured["cost"] == bridged.cost
    shared = {part.block.id for part in zoo.model("large").parts}
    assert [p.name for p in model.parts if p.block.id not in shared] == ["stitches.1"]


@pytest.mark.parametrize("keep", [(1, 2), (2,), (0, 1)])
def test_gaps_below_the_first_and_above_the_last_kept_layer_are_bridged_too(zoo, keep):
    report = pruned(zoo, Smaller(keep), name="p", recipe=dataclasses.replace(RECIPE, steps=5))
    names = [part.name for part in report.model.parts]
    assert ("stitches.0" in names) == (keep[0] > 0)
    assert (f"stitches.{len(keep)}" in names) == (keep[-1] < 3)
    assert logits(zoo, "p").isfinite().all()


def test_fewer_neurons_make_an_ordinary_model_that_is_exported(zoo, tmp_path):
    report = pruned(zoo, Smaller(ffn=0.25), name="slim")
    assert report.trained.validation.divergence < report.trained.start.divergence
    assert report.model.family == "llama"
    zoo.export("slim", tmp_path / "slim")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    assert theirs.config.intermediate_size == 16
    with torch.no_grad():
        torch.testing.assert_close(theirs(PROMPT).logits[0], logits(zoo, "slim"), rtol=0, atol=1e-4)
    other = Zoo(tmp_path / "other")
    assert [p.block.id for p in other.add(tmp_path / "slim").model.parts] == [p.block.id for p in report.model.parts]
    attention = {p.block.id for p in zoo.model("large").parts if p.block.kind == "attn"}
    assert attention == {p.block.id for p in report.model.parts if p.block.kind == "attn"}


def test_layers_left_out_without_a_stitch_make_an_ordinary_model(zoo, tmp_path):
    report = pruned(zoo, Smaller((0, 2, 3), bare=True), name="short")
    assert report.trained.steps == 0
    zoo.export("short", tmp_path / "short")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "short")
    assert theirs.config.num_hidden_layers == 3
    with torch.no_grad():
        torch.testing.assert_close(theirs(PROMPT).logits[0], logits(zoo, "short"), rtol=0, atol=1e-4)
    assert zoo.du()
    assert zoo.fsck() == []


def test_one_with_a_stitch_is_not_exported(zoo, tmp_path):
    pruned(zoo, Smaller((0, 3)), name="bridged", recipe=dataclasses.replace(RECIPE, steps=0))
    with pytest.raises(UnsupportedError, match="holds a stitch"):
        zoo.export("bridged", tmp_path / "out")


@pytest.mark.slow
def test_tuning_the_layers_agrees_more_and_shares_less(zoo):
    frozen = pruned(zoo, Smaller((0, 3)), name="frozen")
    tuned = pruned(zoo, Smaller((0, 3), tune_layers=True), name="tuned")
    assert tuned.test.divergence < frozen.test.divergence
    layers = [p for p in tuned.model.parts if p.name.startswith("layers")]
    assert not {p.block.id for p in layers} & {p.block.id for p in zoo.model("large").parts}


def test_neurons_are_ranked_by_what_they_put_out_and_how_far_it_is_carried():
    activations = torch.tensor([[1.0, -4.0, 0.0], [-1.0, 4.0, 0.0]])
    down = torch.tensor([[3.0, 0.5, 100.0], [4.0, 0.0, 0.0]])
    assert importance(activations, down).tolist() == [5.0, 2.0, 0.0]


def test_the_neurons_that_do_nothing_are_the_ones_left_out(zoo):
    """Half of the neurons are made dead; leaving out half then changes nothing, without any training."""
    chain = read_chain(zoo, zoo.chain("large"), torch.device("cpu"))
    for layer in chain.layers:
        for link in layer:
            if link.kind == "ffn":
                link.tensors["up_proj.weight"][::2] = 0
    splits = split_text(TEXT, codec_of(zoo, zoo.model("large")), window=24, where="t")
    slim = make_smaller(chain, Smaller(ffn=0.5), splits, RECIPE)
    torch.testing.assert_close(run(slim.links, PROMPT), run(chain.links, PROMPT), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    ["llama-tied", "gpt2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qwen2", "qwen3", "mistral"))],
)
def test_every_family_is_pruned_and_exported_as_itself(tmp_path, kind):
    zoo, codec = Zoo(tmp_path / "zoo"), tokenizer()
    build(kind).save_pretrained(tmp_path / "m")
    codec.save(str(tmp_path / "m" / "tokenizer.json"))
    zoo.add(tmp_path / "m")
    report = pruned(zoo, Smaller((1,), ffn=0.5, bare=True), "m", name="p", recipe=dataclasses.replace(RECIPE, steps=3))
    assert report.model.family == kind.partition("-")[0]
    zoo.export("p", tmp_path / "p")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "p")
    with torch.no_grad():
        torch.testing.assert_close(theirs(PROMPT).logits[0], logits(zoo, "p"), rtol=0, atol=1e-4)
    assert sorted(f.name for f in (tmp_path / "p").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_what_is_measured_of_a_half_precision_model_is_what_is_stored(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path / "m")
    tokenizer().save(str(tmp_path / "m" / "tokenizer.json"))
    zoo.add(tmp_path / "m")
    report = pruned(zoo, Smaller(ffn=0.5), "m", name="p", recipe=dataclasses.replace(RECIPE, steps=3))
    assert {t.dtype for p in zoo.model("p").parts for t in p.block.tensors} == {"BF16"}
    again = pruned(zoo, Smaller((0,), bare=True), "p", name="q")
    assert again.original.loss == pytest.approx(report.test.loss, abs=1e-6)


def test_a_surrogate_of_an_adapted_model_is_exported_merged(zoo, tmp_path):
    from peft import LoraConfig

    zoo.export("large", tmp_path / "large")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "large")
    adapted(base, LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "tuned")
    zoo.add(tmp_path / "tuned", base="large")
    pruned(zoo, Smaller((0, 1, 2), bare=True), "tuned", name="draft")
    with pytest.raises(UnsupportedError, match="--merged"):
        zoo.export("draft", tmp_path / "out")
    zoo.export("draft", tmp_path / "out", merged=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(theirs(PROMPT).logits[0], logits(zoo, "draft"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("smaller", "message"),
    [
        (lambda: Smaller(), "leaves nothing out"),
        (lambda: Smaller(()), "rising order"),
        (lambda: Smaller((1, 0)), "rising order"),
        (lambda: Smaller((0, 0)), "rising order"),
        (lambda: Smaller(ffn=1.0), "between 0 and 1"),
        (lambda: Smaller(ffn=0.0), "between 0 and 1"),
        (lambda: Smaller((0, 4)), "no layer 4"),
        (lambda: Smaller((0, 1, 2, 3)), "keeps every layer"),
    ],
)
def test_what_cannot_be_left_out_is_named(zoo, smaller, message):
    before = zoo.models()
    with pytest.raises(BadInputError, match=message):
        pruned(zoo, smaller())
    assert zoo.models() == before


def test_recipes_out_of_range_are_named():
    for field, value in (("steps", -1), ("batch", 0), ("window", 1), ("rate", 0.0)):
        with pytest.raises(BadInputError, match=field):
            Recipe(**{field: value})


def test_a_model_whose_loss_is_no_number_is_refused_before_any_training(zoo, broken):
    before = zoo.models()
    with pytest.raises(BadInputError, match="broken: its loss on the text is not a number"):
        pruned(zoo, Smaller(None, 0.5), broken, say=pytest.fail)
    assert zoo.models() == before
