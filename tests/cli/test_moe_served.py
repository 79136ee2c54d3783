"""What ``quiltwork moe`` leaves is taken into a zoo and served, and says what the model itself says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch
from tiny_moe import SMALL, write_corpus
from tiny_sparse import build

from quiltwork.cli import main
from quiltwork.moe import load_moe, read_thresholds, sparse_blocks
from quiltwork.moe.models import Packed
from quiltwork.moe.models.loading import load_trained
from quiltwork.moe.training.tokens import read_codec
from quiltwork.zoo import Zoo

QUILTWORK = (sys.executable, "-c", "from quiltwork.cli import main; main()")
PROMPT = "the cat sat on a mat"


@contextmanager
def up(zoo):
    """A client of a server in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILTWORK_")}
    process = subprocess.Popen(
        [*QUILTWORK, "up", "--zoo", str(zoo), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        assert said.startswith("quiltwork: serving "), said + process.stderr.read()
        with openai.OpenAI(base_url=f"{said.split()[-1]}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield client
    finally:
        process.kill()
        process.communicate()


def said_by(client, model, knob=None):
    """The text of a greedy completion, and the experts that each token took."""
    reply = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=12, temperature=0, extra_body={"ignore_eos": True, "experts": knob}
    )
    return reply.choices[0].text, reply.usage.experts_per_token


@torch.no_grad()
def greedy(next_logits, codec):
    """(ids -> logits of the last token and experts of each layer's tokens) -> as ``said_by``."""
    ids = codec.encode([PROMPT])[0].tolist()
    start = len(ids)
    for _ in range(12):
        logits, experts = next_logits(torch.tensor(ids))
        ids.append(int(logits.argmax()))
    return codec.decode(ids[start:]), experts


def own_words(folder):
    """What a training's model says by itself, all of it computed anew for each token."""
    model, codec = load_trained(folder).model, read_codec(folder)

    def run(ids):
        out = model(ids, Packed(torch.tensor([len(ids)])))
        taken = [len(one.routing.token) / one.routing.tokens for one in out.routed]
        return out.logits[-1], sum(taken) / len(taken)

    return greedy(run, codec)


def words_of(folder, tokens):
    """The same of any folder that ``load_moe`` reads, on the transformers model; its tokenizer is ``tokens``'."""
    model = load_moe(folder)
    return greedy(lambda ids: (model(ids[None], use_cache=False).logits[0, -1], None), read_codec(tokens))


def quiltwork(*words):
    with pytest.raises(SystemExit) as left:
        main([*map(str, words)])
    assert not left.value.code


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models as the commands leave them, by the names that the zoo gives them; ``zoo`` has them all."""
    folder = tmp_path_factory.mktemp("served")
    corpus = write_corpus(folder, "lm")
    small = [
        word for name, value in {**SMALL, "length": 24, "warm_up": 2}.items() for word in ("--set", f"{name}={value}")
    ]
    train = ("moe", "train", "--task", "lm", "--corpus", *corpus, "--steps", 30, *small, "--set", "rate=0.02")
    quiltwork(*train, "--gate", "adaptive", "--set", "target_experts=[1.2,1.6]", "--out", folder / "steered")
    quiltwork(*train, "--gate", "top2", "--set", "weights=raw", "--out", folder / "raw")
    quiltwork(*train, "--gate", "top_p", "--out", folder / "top_p")
    build("llama", vocab_size=256).save_pretrained(folder / "dense")
    shutil.copy(folder / "raw" / "tokenizer.json", folder / "dense")
    quiltwork("moe", "upcycle", folder / "dense", "--experts", 3, "--noise", 0.3, "--out", folder / "upcycled")
    few = ("--corpus", *corpus, "--length", 32, "--tokens", 512, "--max-loss", "30%")
    quiltwork("moe", "calibrate", folder / "steered", *few, "--out", folder / "t.json", "--save", folder / "saved")
    shutil.copytree(folder / "steered", folder / "beside")
    shutil.copy(folder / "t.json", folder / "beside" / "moe_calibration.json")
    names = ("steered", "raw", "top_p", "upcycled", "saved", "beside")
    for name in names:
        quiltwork("zoo", "add", folder / name, "--zoo", folder / "zoo")
    return {name: folder / name for name in (*names, "zoo")} | {"t": folder / "t.json"}


@pytest.fixture(scope="module")
def client(folders):
    with up(folders["zoo"]) as client:
        yield client


def gates_of(folder: Path):
    return json.loads((folder / "config.json").read_text())["quiltwork_moe"]["gates"]


def test_a_trained_model_says_what_it_said_with_its_controllers_thresholds(folders, client):
    first, second = (gate["threshold"] for gate in gates_of(folders["steered"]).values())
    assert first != second
    text, experts = said_by(client, "steered")
    wanted, own_experts = own_words(folders["steered"])
    assert text == wanted == words_of(folders["steered"], folders["steered"])[0]
    assert experts == pytest.approx(own_experts, abs=1e-4)
    assert 1 < experts < 2
    assert said_by(client, "steered", 1)[1] == 1
    assert said_by(client, "steered", 2)[1] == 2


def test_raw_weights_stay_raw(folders, client):
    text, experts = said_by(client, "raw")
    assert text == own_words(folders["raw"])[0] == words_of(folders["raw"], folders["raw"])[0]
    assert experts == 2


def test_an_upcycled_model_is_served_by_the_gate_that_it_was_saved_with(folders, client):
    text, experts = said_by(client, "upcycled")
    assert text == words_of(folders["upcycled"], folders["raw"])[0]
    assert 1 <= experts <= 2


def test_a_calibration_is_the_gate_whether_it_is_saved_or_lies_beside(folders, client):
    found = read_thresholds(folders["t"]).gates()
    for name in ("saved", "beside"):
        assert {index: block.layer.gate for index, block in sparse_blocks(load_moe(folders[name])).items()} == found
        text, experts = said_by(client, name)
        assert text == words_of(folders[name], folders["raw"])[0]
    assert (text, pytest.approx(experts, abs=1e-4)) == own_words(folders["beside"])


def test_another_gate_is_stored_and_not_served(folders, client):
    with Zoo(folders["zoo"]) as zoo:
        assert zoo.model("top_p").unservable == ("config.json: quiltwork_moe: the gate 'TopP' is not served",)
    assert "top_p" not in {model.id for model in client.models.list()}
