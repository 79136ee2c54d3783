"""Real models and adapters: the stories260K family, its GGUF file, and two adapters from public repositories."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quiltwork.core.errors import NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo

pytestmark = pytest.mark.realdata

GPT2, GPT_NEO = "gpt2-lora-r8-tigrinya-causal", "gptneo125m-lora-r8-movies-causal"


@pytest.fixture
def stories(data_dir: Path) -> Path:
    """The folder with the base, its fine-tunes and its GGUF file."""
    return data_dir / "llm" / "weights" / "stories260K"


def assert_same_files(a: Path, b: Path) -> None:
    assert subprocess.run(["diff", "-r", a, b], capture_output=True, check=False).stdout == b""


def test_the_whole_family_round_trips_from_less_than_its_size(zoo: Zoo, stories: Path, tmp_path: Path) -> None:
    sources = {"stories260K": stories / "hf"} | {d.name: d for d in sorted((stories / "variants").iterdir())}
    for name, source in sources.items():
        added = zoo.add(source, name=name)
        assert added.model.unservable == ()
        assert not any("warning" in note for note in added.notes)
        adapter = (source / "adapter_config.json").exists()
        assert added.model.base == (ModelRef("stories260K") if adapter else None)
    for name, source in sources.items():
        zoo.export(name, tmp_path / name)
        assert_same_files(source, tmp_path / name)
    usage = zoo.du()
    assert usage.source_bytes == sum(f.stat().st_size for s in sources.values() for f in s.iterdir())
    assert usage.stored_bytes < 0.75 * usage.source_bytes
    assert zoo.fsck() == []


def test_top_layers_alone_add_only_their_tensors(zoo: Zoo, stories: Path) -> None:
    zoo.add(stories / "hf", name="base")
    before = set(zoo.objects())
    added = zoo.add(stories / "variants" / "grimm-top2")
    assert "fine-tune of base: 28 of 47 tensors are the same" in added.notes
    tensors = {t.content for part in added.model.parts for t in part.block.tensors}
    assert len(tensors - before) == 19
    changed = {change.part for change in zoo.diff("base", "grimm-top2").changes if not change.same}
    assert changed == {"layers.3.attn", "layers.3.ffn", "layers.4.attn", "layers.4.ffn", "head"}


def test_gguf_is_the_same_blocks_and_comes_out_exactly(zoo: Zoo, stories: Path, tmp_path: Path) -> None:
    zoo.add(stories / "hf", name="base")
    added = zoo.add(stories / "stories260K.f32.gguf")
    assert [p.block.id for p in added.model.parts] == [p.block.id for p in zoo.model("base").parts]
    assert added.new_bytes < 10_000
    zoo.export(added.model.ref, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == (stories / "stories260K.f32.gguf").read_bytes()
    zoo.export(added.model.ref, tmp_path / "hf", format="hf")
    ours, theirs = tmp_path / "hf" / "model.safetensors", stories / "hf" / "model.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_gguf_alone_brings_its_tokenizer(zoo: Zoo, stories: Path, data_dir: Path) -> None:
    from tokenizers import Tokenizer

    model = zoo.add(stories / "stories260K.f32.gguf").model
    ours = Tokenizer.from_str(zoo.read_file(model, "tokenizer.json").decode())
    theirs = Tokenizer.from_file(str(stories / "hf" / "tokenizer.json"))
    lines = (data_dir / "llm" / "text" / "tinystories.txt").read_text().splitlines()[:300]
    for line in [*lines, "  spaces ", "caf\u00e9 \u2603 \U0001f600", ""]:
        assert ours.encode(line).ids == theirs.encode(line).ids
        assert ours.decode(ours.encode(line).ids) == theirs.decode(theirs.encode(line).ids)


def test_the_gpt2_adapter_round_trips_on_a_base_of_its_shape(zoo: Zoo, data_dir: Path, tmp_path: Path) -> None:
    adapter = data_dir / "llm" / "adapters" / "licensed" / GPT2
    with pytest.raises(NotFoundError, match="gpt2"):
        zoo.add(adapter)
    base = tmp_path / "gpt2"
    base.mkdir()
    width, tensors = 768, {}
    for i in range(12):
        for path, shape in {
            "ln_1": (width,), "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
            "ln_2": (width,), "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width),
        }.items():  # fmt: skip
            tensors[f"h.{i}.{path}.weight"] = np.zeros(shape, np.float16)
            tensors[f"h.{i}.{path}.bias"] = np.zeros(shape[-1:], np.float16)
    tensors |= {"wte.weight": np.zeros((50, width), np.float16), "wpe.weight": np.zeros((16, width), np.float16)}
    tensors |= {"ln_f.weight": np.zeros(width, np.float16), "ln_f.bias": np.zeros(width, np.float16)}
    save_file(tensors, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 50, "n_positions": 16}))
    zoo.add(base)
    model = zoo.add(adapter).model
    assert model.base == ModelRef("gpt2")
    targets = {role: t for p in model.parts for b in p.attachments for role, t in b.arch["targets"].items()}
    assert targets.keys() == {"qkv_proj", "o_proj", "down_proj"}
    assert targets["qkv_proj"] == {"r": 8, "scale": 4.0, "dora": False}
    zoo.export(model.ref, tmp_path / "out")
    assert_same_files(adapter, tmp_path / "out")


def test_the_gpt_neo_adapter_is_stored_and_refused(zoo: Zoo, data_dir: Path, tmp_path: Path) -> None:
    adapter = data_dir / "llm" / "adapters" / "licensed" / GPT_NEO
    with pytest.raises(NotFoundError, match="gpt-neo-125M"):
        zoo.add(adapter)
    base = tmp_path / "base"
    base.mkdir()
    save_file({"transformer.h.0.attn.weight": np.zeros((8, 8), np.float32)}, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"model_type": "gpt_neo"}))
    zoo.add(base, name="EleutherAI/gpt-neo-125M")
    model = zoo.add(adapter).model
    with pytest.raises(UnsupportedError, match="gpt_neo"):
        zoo.chain(model.ref)
    zoo.export(model.ref, tmp_path / "out")
    assert_same_files(adapter, tmp_path / "out")
    assert zoo.fsck() == []


def test_a_real_fine_tune_is_explained_and_its_candidates_are_no_decision(zoo: Zoo, stories: Path) -> None:
    zoo.add(stories / "hf", name="base")
    for name in ("grimm-top2", "grimm-ff", "sherlock-ff"):
        zoo.add(stories / "variants" / name, name=name)
    top = zoo.explain("grimm-top2")
    own = [part.name for part in top.parts if not part.block.others.named]
    assert own == ["layers.3.attn", "layers.3.ffn", "layers.4.attn", "layers.4.ffn", "head"]
    assert top.own_bytes == sum(part.block.nbytes for part in top.parts if part.name in own)
    assert [(cut.first, cut.last) for cut in top.segments] == [("embed", "layers.2.ffn"), ("layers.3.attn", "head")]
    whole = zoo.explain("grimm-ff")
    assert [near.part for near in whole.near or ()] == [part.name for part in whole.parts], (
        "every block of a full fine-tune passes the cosine, and yet all of them together are the fine-tune"
    )
