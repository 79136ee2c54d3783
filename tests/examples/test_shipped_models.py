from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from find_models import Candidate, find_models
from peft import PeftModel
from transformers import AutoModelForCausalLM

from quiltwork.zoo import Zoo

NAMES = (
    "base", "asyncio-full", "web-full", "unittest-top2", "docstrings-head", "asyncio-lora-r4", "xml-lora-r8",
    "concurrency-lora-r16", "docstrings-norms", "web-ia3",
)  # fmt: skip


def candidate(models: Path, name: str) -> Candidate:
    return next(found for found in find_models(models).models if found.name == name)


def test_all_are_there_and_under_four_megabytes(models: Path) -> None:
    assert {found.name for found in find_models(models).models} == set(NAMES)
    assert sum(path.stat().st_size for path in models.rglob("*.safetensors")) < 4_000_000


def test_the_readmes_checksums_are_those_of_the_weights(models: Path) -> None:
    text = (models / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| (\S+\.safetensors) \| `([0-9a-f]{16})` \|$", text, re.MULTILINE))
    found = {
        str(path.relative_to(models)): blake2b(path.read_bytes(), digest_size=8).hexdigest()
        for path in models.rglob("*.safetensors")
    }
    assert listed == found


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_answers_otherwise_than_the_base(models: Path, name: str) -> None:
    chosen = candidate(models, name)
    ids = torch.arange(1, 33)[None]
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = base(ids).logits
        if chosen.adapter:
            assert chosen.base == (models / "base").resolve()
            model = PeftModel.from_pretrained(base, chosen.folder).eval()
        else:
            model = AutoModelForCausalLM.from_pretrained(chosen.folder, dtype=torch.float32).eval()
        logits = model(ids).logits
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, expected) == (name == "base")


def test_a_zoo_takes_them_all_and_can_serve_them(models: Path, tmp_path: Path) -> None:
    with Zoo(tmp_path / "zoo") as zoo:
        added = [zoo.add(found.folder, name=found.name) for found in find_models(models).models]
        assert [item.model.unservable for item in added] == [()] * len(NAMES)
        assert zoo.du().ratio < 1.0
