"""What a fine-tuning leaves behind: a model or adapter that a zoo takes in, that is served, and that knows the text."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import CONFIGS, build
from tiny_trained import tokenizer

from quiltwork.core.errors import ConflictError, QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.zoo import Zoo

LEARNING = {"steps": 40, "batch": 16, "warmup": 4}
LORA = {"method": "lora", "rank": 4, "alpha": 8, "rate": 3e-2}
PROMPT = "the red king saw the dog said the"


def finished(trained):
    while not (report := trained.step()).finished:
        pass
    return report


def complete(zoo: Zoo, name: str, tokens: int = 4) -> list[int]:
    """What the engine says, greedily."""
    host = language_servable({"zoo": str(zoo.path), "seed": 1, "dtype": "float32"})
    try:
        host.load(ModelRef(name))
        options = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        stream = host.submit(ModelRef(name), Input("completion", {"prompt": PROMPT}), options, caller=Caller())
        return [token for part in stream for token in part.fields.get("token_ids", [])]
    finally:
        host.close()


def greedy(trained, tokens: int = 4) -> list[int]:
    """What the model that was trained says itself."""
    ids = trained._source.codec().encode(PROMPT)
    begin = len(ids)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(trained._model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[begin:]


@pytest.mark.parametrize(("method", "fall"), [({}, 0.3), (LORA, 0.05)], ids=["full", "lora"])
def test_the_held_out_loss_falls_and_the_zoo_serves_what_was_trained(training, base, tmp_path, method, fall):
    trained = training(**LEARNING, **method)
    before = trained.held_out_loss()
    report = finished(trained)
    after = trained.held_out_loss()
    assert after < before - fall
    assert report.metrics["held_out_before"] == pytest.approx(before)
    assert report.metrics["held_out_after"] == pytest.approx(after)

    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["held_out"]["before"] == pytest.approx(before)
    assert told["held_out"]["after"] == pytest.approx(after)
    assert (told["steps"], told["samples"]) == (40, 640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "nothing half-written stays"

    with Zoo(tmp_path / "zoo") as zoo:
        zoo.add(base, name="base")
        added = zoo.add(tmp_path / "out", name="tuned")
        assert not added.model.unservable
        if method:
            assert added.model.base == ModelRef("base")
            assert any(part.attachments for part in added.model.parts)
        assert complete(zoo, "tuned") == greedy(trained)


def test_a_model_of_a_zoo_is_fine_tuned_and_its_adapter_finds_it_by_name(training, base, tmp_path):
    with Zoo(tmp_path / "zoo") as zoo:
        zoo.add(base, name="base")
        trained = training(model=None, zoo=str(tmp_path / "zoo"), name="base", steps=3, **LORA)
        finished(trained)
        zoo.add(tmp_path / "out", name="tuned")
        assert zoo.model("tuned").base == ModelRef("base")
        again = training(model=None, zoo=str(tmp_path / "zoo"), name="tuned", out=str(tmp_path / "more"), steps=3)
        loss = trained.held_out_loss()
        assert again.held_out_loss() == pytest.approx(loss, rel=1e-4), "an adapter is trained on with its base"
        with pytest.raises(QuiltworkError, match="config: name: tuned: a LoRA on an adapter"):
            training(model=None, zoo=str(tmp_path / "zoo"), name="tuned", out=str(tmp_path / "third"), **LORA)
        with pytest.raises(QuiltworkError, match="config: name: nobody: no such model"):
            training(model=None, zoo=str(tmp_path / "zoo"), name="nobody")


def test_an_adapter_is_one_that_peft_reads_to_the_same_logits(training, base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trained = training(steps=5, **LORA)
    finished(trained)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out").eval()
    ids = trained._cut.parts[1][:4]
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(input_ids=ids).logits, trained._model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_trained_and_served_as_it_was_trained(training, tmp_path, family, method):
    build(family).save_pretrained(tmp_path / "model")
    tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    trained = training(model=str(tmp_path / "model"), steps=3, method=method)
    finished(trained)
    with Zoo(tmp_path / "zoo") as zoo:
        zoo.add(tmp_path / "model", name="base")
        added = zoo.add(tmp_path / "out", name="tuned")
        assert not added.model.unservable
        assert complete(zoo, "tuned") == greedy(trained)


def test_a_checkpoint_keeps_the_precision_it_came_in_and_training_its_own(training, base, tmp_path):
    from transformers import AutoModelForCausalLM

    half = AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    trained = training(model=str(tmp_path / "half"), steps=2)
    finished(trained)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    state = trained.state_dict().arrays
    for name, tensor in saved.items():
        assert torch.equal(torch.from_numpy(state[f"weights/{name}"]).to(torch.bfloat16), tensor)


def test_only_worker_0_writes_the_result(training, tmp_path):
    first, second = training(steps=1), training(steps=1)
    first.resize(0, 2)
    second.resize(1, 2)
    mean = first.gradients(first.next_samples())
    assert "held_out_after" not in second.apply(mean).metrics
    assert not (tmp_path / "out").exists()
    assert "held_out_after" in first.apply(mean).metrics
    assert (tmp_path / "out" / "training.json").exists()


def test_another_worker_that_takes_over_writes_what_the_first_did_not(training, tmp_path):
    survivor = training(steps=1)
    survivor.resize(1, 2)
    assert survivor.apply(survivor.gradients(survivor.next_samples())).finished
    survivor.resize(0, 1)
    assert survivor.step().metrics["held_out_after"] > 0
    assert (tmp_path / "out" / "training.json").exists()


def test_a_result_that_could_not_be_written_is_written_by_the_next_step(training, tmp_path, monkeypatch):
    trained = training(steps=1)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("quiltwork.serving.finetuning.training.write_checkpoint", full_disk)
        with pytest.raises(QuiltworkError, match="out: the disk is full"):
            trained.step()
    assert list(tmp_path.iterdir()) == []
    assert trained.step().finished
    assert (tmp_path / "out" / "training.json").exists()


def test_a_result_is_never_written_over_something_else(training, tmp_path):
    (tmp_path / "out").mkdir()
    finished(training(steps=1))  # an empty folder is free
    assert finished(training(steps=1)).metrics["held_out_after"] > 0  # the very same training finds it done
    with pytest.raises(ConflictError, match=r"config: out: .*out: is in use, and not by this training"):
        training(steps=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConflictError, match="config: out"):
        training(out=str(tmp_path / "file"))
    with pytest.raises(QuiltworkError, match=r"config: out: .*no folder can be made in"):
        training(out=str(tmp_path / "file" / "below"))
