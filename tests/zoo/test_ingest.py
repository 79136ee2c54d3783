"""What comes in comes out again, byte for byte; what is equal is stored once; what is wrong is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import CONFIGS, adapted, build

from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError, QuiltworkError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.zoo import Zoo

Saved = Callable[..., Path]


def contents(folder: Path) -> dict[str, Any]:
    """Every entry below a folder: bytes of files, targets of links, None for folders."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def assert_round_trip(zoo: Zoo, source: Path, name: str, out: Path) -> None:
    exported = zoo.export(name, out)
    assert contents(out) == contents(source)
    assert exported.exact
    assert exported.nbytes == sum(len(data) for data in contents(source).values() if isinstance(data, bytes))


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def save_bin(model: Any, folder: Path) -> Path:
    import torch

    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_directories_come_out_byte_for_byte(zoo: Zoo, saved: Saved, tmp_path: Path, kind: str) -> None:
    added = zoo.add(saved(kind), name=kind)
    assert added.model.unservable == ()
    assert [part.name for part in zoo.chain(kind).links] == [
        "embed", "layers.0.attn", "layers.0.ffn", "layers.1.attn", "layers.1.ffn", "head",
    ]  # fmt: skip
    assert_round_trip(zoo, saved(kind), kind, tmp_path / "out")


def test_bin_sharded_and_resaved_forms_are_the_same_blocks(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    forms = {
        "whole": saved("llama"),
        "sharded": saved("llama", max_shard_size="20KB"),
        "bin": save_bin(build("llama"), tmp_path / "bin"),
    }
    assert len(list(forms["sharded"].glob("*.safetensors"))) > 2
    resaved = copy(forms["whole"], tmp_path / "resaved")
    tensors = load_file(resaved / "model.safetensors")
    save_file(dict(reversed(tensors.items())), resaved / "model.safetensors", metadata={"again": "yes"})
    forms["resaved"] = resaved
    models = {}
    for name, folder in forms.items():
        added = zoo.add(folder, name=name)
        models[name] = added.model
        assert_round_trip(zoo, folder, name, tmp_path / f"out-{name}")
        if name != "whole":
            assert added.new_bytes < added.source_bytes / 8, "more than manifests was stored"
    assert len({tuple(part.block.id for part in model.parts) for model in models.values()}) == 1


def test_widening_is_stored_once(zoo: Zoo, tmp_path: Path) -> None:
    import torch

    for name, dtype in (("narrow", torch.bfloat16), ("wide", torch.float32)):
        build("llama").to(torch.bfloat16).to(dtype).save_pretrained(tmp_path / name)
        added = zoo.add(tmp_path / name)
        assert_round_trip(zoo, tmp_path / name, name, tmp_path / f"out-{name}")
    assert added.new_bytes < added.source_bytes / 20


def test_tied_and_transposed_views_in_a_bin_survive(zoo: Zoo, tmp_path: Path) -> None:
    import torch

    folder = save_bin(build("llama-tied"), tmp_path / "tied")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    state[name] = state[name].t().contiguous().t()
    torch.save(state, folder / "pytorch_model.bin")
    model = zoo.add(folder).model
    head = {t.name: t for t in zoo.chain("tied").links[-1].block.tensors}
    embed = {t.name: t for t in zoo.chain("tied").links[0].block.tensors}
    assert head["lm_head.weight"].content == embed["tokens.weight"].content
    q = next(t for t in model.parts[1].block.tensors if t.name == "q_proj.weight")
    assert zoo.read(q).data.tobytes() == state[name].contiguous().numpy().tobytes()
    assert_round_trip(zoo, folder, "tied", tmp_path / "out")


def test_links_inside_stay_links_and_links_outside_are_followed(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    copy(saved("llama"), blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(Path("..") / "blobs" / path.name)
    (folder / "also.json").symlink_to("config.json")
    (folder / "empty").mkdir()
    zoo.add(folder, name="linked")
    zoo.export("linked", tmp_path / "out")
    out = contents(tmp_path / "out")
    assert out.pop("also.json") == "config.json"
    assert out.pop("empty") is None
    assert out == contents(blobs)


def test_gpt2_names_without_prefix_and_with_buffers(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    folder = copy(saved("gpt2"), tmp_path / "bare")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items() if name != "lm_head.weight"}
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 64, 64), dtype=np.uint8))
    bare["h.0.attn.masked_bias"] = np.array(-1e4, dtype=np.float32)
    save_file(bare, folder / "model.safetensors")
    zoo.add(saved("gpt2"), name="full")
    zoo.add(folder)
    assert [p.block.id for p in zoo.chain("bare").links] == [p.block.id for p in zoo.chain("full").links]
    assert_round_trip(zoo, folder, "bare", tmp_path / "out")
    assert zoo.fsck() == []


def test_unknown_families_are_stored_tensor_by_tensor(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    folder = copy(saved("llama"), tmp_path / "odd")
    edit(folder / "config.json", model_type="oddity", limit=float("inf"))
    added = zoo.add(folder)
    assert (added.model.family, added.model.unservable) == ("oddity", ())
    assert "model.layers.1" in [part.name for part in added.model.parts]
    with pytest.raises(UnsupportedError, match="oddity"):
        zoo.chain("odd")
    assert_round_trip(zoo, folder, "odd", tmp_path / "out")


def test_adding_again_changes_nothing(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    first = zoo.add(saved("llama"), name="a")
    zoo.add(saved("llama", seed=1), name="b")
    again = zoo.add(saved("llama"), name="a")
    assert again.already
    assert (again.new_bytes, again.model.version) == (0, first.model.version)
    with pytest.raises(ConflictError, match="taken"):
        zoo.add(saved("llama", seed=1), name="a")
    assert zoo.model("a").version == first.model.version
    replaced = zoo.add(saved("llama", seed=1), name="a", replace=True)
    assert replaced.model.version != first.model.version


def test_export_leaves_what_is_there_alone(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    zoo.add(saved("llama"), name="a")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    with pytest.raises(ConflictError, match="exists"):
        zoo.export("a", tmp_path / "used")
    assert contents(tmp_path / "used") == {"file": b"mine"}
    (tmp_path / "empty").mkdir()
    zoo.export("a", tmp_path / "empty")
    with pytest.raises(QuiltworkError):
        zoo.export("a", tmp_path / "used" / "file" / "below")


# -- full fine-tunes --------------------------------------------------------------------------------------------------


def fine_tune(source: Path, target: Path, *names: str, size: float = 0.05) -> Path:
    copy(source, target)
    tensors = load_file(target / "model.safetensors")
    rng = np.random.default_rng(0)
    for name, value in tensors.items():
        if not names or any(part in name for part in names):
            noise = rng.standard_normal(value.shape).astype(np.float32)
            tensors[name] = value + noise * (size * np.linalg.norm(value) / np.linalg.norm(noise))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_fine_tune_finds_its_base_and_stores_only_what_changed(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    base = copy(saved("llama"), tmp_path / "base")
    (base / "tokenizer.json").write_text('{"a": "tokenizer"}')
    zoo.add(base)
    zoo.add(saved("llama", seed=1), name="stranger")
    tuned = fine_tune(saved("llama"), tmp_path / "tuned", "layers.1")
    added = zoo.add(tuned)
    assert any("fine-tune of base" in note for note in added.notes)
    assert zoo.read_file(added.model, "tokenizer.json") == b'{"a": "tokenizer"}'
    changed = [c.part for c in zoo.diff("base", "tuned").changes if not c.same]
    assert changed == ["layers.1.attn", "layers.1.ffn"]
    assert_round_trip(zoo, tuned, "tuned", tmp_path / "out")
    assert not any("fine-tune" in note for note in zoo.model("stranger").notes)


def test_lossy_is_refused_at_export_unless_allowed(zoo: Zoo, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2, vocab_size=128
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    zoo.add(tmp_path / "base")
    tuned = fine_tune(tmp_path / "base", tmp_path / "tuned")
    added = zoo.add(tuned, lossy="int8")
    assert added.model.lossy
    assert zoo.add(tuned, lossy="int8").already
    with pytest.raises(BadInputError, match="rounded"):
        zoo.export("tuned", tmp_path / "out")
    assert not zoo.export("tuned", tmp_path / "out", lossy=True).exact
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", tuned))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert np.linalg.norm(ours[name] - value) <= 0.01 * np.linalg.norm(value), name


# -- adapters and their bases -----------------------------------------------------------------------------------------


def lora(base: str | None = None, **options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", base_model_name_or_path=base, **options)


def adapter(tmp_path: Path, base: str | None, kind: str = "llama", name: str = "adapter") -> Path:
    folder = tmp_path / name
    adapted(build(kind), lora(), folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=base)
    return folder


def test_a_relative_base_is_found_from_the_adapters_folder(
    zoo: Zoo, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(saved("llama"), tmp_path / "family" / "hf")
    copy(saved("llama", seed=1), tmp_path / "hf")
    monkeypatch.chdir(tmp_path)
    zoo.add("hf", name="wrong")
    zoo.add("family/hf", name="right")
    folder = adapter(tmp_path / "family", "./hf")
    edit(folder / "adapter_config.json", base_model_name_or_path="../hf")
    assert zoo.add(folder).model.base == ModelRef("right")
    assert_round_trip(zoo, folder, "adapter", tmp_path / "out")


def test_bases_by_name_shape_and_request(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    zoo.add(saved("qwen3"), name="other-shape")
    with pytest.raises(NotFoundError, match="no/where"):
        zoo.add(adapter(tmp_path, "no/where", name="lost"))
    zoo.add(saved("llama"), name="org/base")
    only = zoo.add(adapter(tmp_path, "renamed/base", name="only"))
    assert only.model.base == ModelRef("org/base")
    assert any("warning" in note and "renamed/base" in note for note in only.notes)
    zoo.add(saved("llama", seed=1), name="org/twin")
    with pytest.raises(BadInputError, match="org/base, org/twin"):
        zoo.add(adapter(tmp_path, "renamed/thing", name="torn"))
    assert zoo.add(adapter(tmp_path, "org/twin", name="named")).model.base == ModelRef("org/twin")
    asked = zoo.add(adapter(tmp_path, "renamed/thing", name="asked"), base="org/twin")
    assert asked.model.base == ModelRef("org/twin")
    with pytest.raises(BadInputError, match=r"lora_[AB]\.weight.*shape|does not have"):
        zoo.add(adapter(tmp_path, "other-shape", name="misfit"))
    assert ModelRef("misfit") not in zoo.models()


def test_a_tenant_sees_its_own_and_public_bases_alone(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    zoo.add(saved("llama"), name="base", tenant="alice")
    with pytest.raises(NotFoundError):
        zoo.add(adapter(tmp_path, "base"), tenant="bob")
    assert zoo.add(adapter(tmp_path, "base", name="mine"), tenant="alice").model.base == ModelRef("base", "alice")


@pytest.mark.parametrize("field", ["arrow_config", "use_qalora", "trainable_token_indices", "alora_invocation_tokens"])
def test_fields_that_change_the_maths_are_stored_and_named(zoo: Zoo, saved: Saved, tmp_path: Path, field: str) -> None:
    zoo.add(saved("llama"), name="base")
    folder = adapter(tmp_path, "base")
    edit(folder / "adapter_config.json", **{field: [1]})
    added = zoo.add(folder)
    with pytest.raises(UnsupportedError, match=field):
        zoo.chain(added.model.ref)
    assert_round_trip(zoo, folder, "adapter", tmp_path / "out")


def test_an_adapter_bin_is_the_same_as_its_safetensors(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch

    zoo.add(saved("llama"), name="base")
    folder = adapter(tmp_path, "base")
    old = copy(folder, tmp_path / "old")
    torch.save(load_torch(old / "adapter_model.safetensors"), old / "adapter_model.bin")
    (old / "adapter_model.safetensors").unlink()
    first, second = zoo.add(folder).model, zoo.add(old).model
    assert [p.attachments for p in first.parts] == [p.attachments for p in second.parts]
    assert_round_trip(zoo, old, "old", tmp_path / "out")


def test_virtual_tokens_become_prompt_and_prefix_blocks(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    import torch
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
    from safetensors.torch import load_file as load_torch

    zoo.add(saved("llama"), name="base")
    options = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
    for config in (PromptTuningConfig(**options), PromptEncoderConfig(**options, encoder_hidden_size=8)):
        folder = tmp_path / config.peft_type.value
        adapted(build("llama"), config, folder)
        model = zoo.add(folder, base="base").model
        (block,) = model.parts[0].attachments
        assert (block.kind, block.arch) == ("prompt", {"num_virtual_tokens": 3})
        saved_prompt = load_torch(folder / "adapter_model.safetensors")["prompt_embeddings"]
        assert zoo.read(block.tensors[0]).data.tobytes() == saved_prompt.numpy().tobytes()
        assert_round_trip(zoo, folder, folder.name, tmp_path / f"out-{folder.name}")
    peft_model = adapted(build("llama"), PrefixTuningConfig(**options), tmp_path / "prefix")
    model = zoo.add(tmp_path / "prefix", base="base").model
    cache = peft_model.get_prompt(batch_size=1)
    for layer in range(2):
        (block,) = model.parts[1 + 2 * layer].attachments
        assert block.kind == "prefix"
        kept = cache.layers[layer]
        for ref, theirs in zip(block.tensors, (kept.keys, kept.values), strict=True):
            ours = torch.from_numpy(zoo.read(ref).data.copy()).view(torch.float32).view(ref.shape)
            torch.testing.assert_close(ours, theirs[0].transpose(0, 1))
    assert_round_trip(zoo, tmp_path / "prefix", "prefix", tmp_path / "out-prefix")


# -- what is wrong ----------------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "model.layers.1.input_layernorm.weight"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (lambda f: rewrite(f, lambda t: t.pop(NORM)), f"{NORM}.*missing"),
    "extra tensor": (lambda f: rewrite(f, lambda t: t.update(extra=np.zeros(2))), "extra.*no place"),
    "wrong shape": (lambda f: rewrite(f, lambda t: t.update({NORM: np.zeros(5, np.float32)})), f"{NORM}.*shape"),
    "wrong dtype": (lambda f: rewrite(f, lambda t: t.update({NORM: np.zeros(32, np.int64)})), f"{NORM}.*I64"),
    "truncated": (lambda f: os.truncate(f / "model.safetensors", 20_000), "model.safetensors.*truncated"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds none of"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config no json": (lambda f: (f / "config.json").write_text("{"), "config.json: is not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: is not a JSON object"),
    "config latin-1": (lambda f: (f / "config.json").write_bytes(b'{"a": "\xe9"}'), "config.json: is not UTF-8"),
    "absurd width": (lambda f: edit(f / "config.json", hidden_size=10**12), "hidden_size.*absurd"),
    "negative layers": (lambda f: edit(f / "config.json", num_hidden_layers=-2), "num_hidden_layers.*positive"),
    "many layers": (lambda f: edit(f / "config.json", num_hidden_layers=10**9), "num_hidden_layers.*absurd"),
    "text as size": (lambda f: edit(f / "config.json", vocab_size="64"), "vocab_size.*positive"),
    "no activation": (lambda f: edit(f / "config.json", hidden_act=None), "hidden_act"),
    "theta text": (lambda f: edit(f / "config.json", rope_parameters={"rope_theta": "x"}), "rope_theta"),
    "a pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no zip"), "pytorch_model.bin"),
    "dangling link": (lambda f: (f / "x").symlink_to("nowhere"), "does not exist"),
    "loop": (lambda f: (f / "x").symlink_to("x"), "x"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_directory_is_refused_by_name_and_leaves_nothing(
    zoo: Zoo, saved: Saved, tmp_path: Path, case: str
) -> None:
    breaking, message = BROKEN[case]
    folder = copy(saved("llama"), tmp_path / "broken")
    breaking(folder)
    with pytest.raises(QuiltworkError, match=message) as caught:
        zoo.add(folder)
    assert "\n" not in str(caught.value)
    assert zoo.models() == []
    assert zoo.objects() == {}
    assert zoo.fsck() == []


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "absent.safetensors"}, "absent.safetensors.*does not exist"),
        ({"a": "../../etc/passwd"}, "not a file beside it"),
        ({"a": "/etc/passwd"}, "not a file beside it"),
        ({"a": 3}, "weight_map"),
        ({}, "weight_map"),
        (None, "weight_map"),
        ({"nothing": "part.safetensors"}, "nothing"),
    ],
)
def test_a_broken_index_is_refused(zoo: Zoo, saved: Saved, tmp_path: Path, weight_map: Any, message: str) -> None:
    folder = copy(saved("llama"), tmp_path / "broken")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadInputError, match=message):
        zoo.add(folder)
    assert zoo.models() == []


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "", ".hidden", "a/../b", "x" * 300, "a\nb"])
def test_names_that_climb_are_refused(zoo: Zoo, saved: Saved, name: str) -> None:
    with pytest.raises(BadInputError):
        zoo.add(saved("llama"), name=name)


@pytest.mark.parametrize("source", ["no/such-model@v1", "nothing-here", "bad\0name", "../../x", "a b"])
def test_sources_that_are_not_there(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(QuiltworkError) as caught:
        zoo.add(source)
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_found_in_the_local_cache(
    zoo: Zoo, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    commit = "0123456789" * 4
    folder = tmp_path / "hub" / "models--org--tiny"
    copy(saved("llama"), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    by_name = zoo.add("org/tiny").model
    assert by_name.ref == ModelRef("org/tiny")
    assert zoo.add(f"org/tiny@{commit}").already
    assert zoo.add(folder / "snapshots" / commit).already


def test_a_model_that_a_package_brings_is_added_by_the_name_it_gives(
    zoo: Zoo, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quiltwork.zoo.ingest.names", lambda group: ("Ours-1.0",))
    monkeypatch.setattr("quiltwork.zoo.ingest.packaged", lambda group, name: lambda: saved("llama"))
    added = zoo.add("Ours-1.0")
    assert (added.model.ref.name, added.model.family) == ("Ours-1.0", "llama")
    with pytest.raises(NotFoundError):
        zoo.add("Ours-1.1")


def test_a_configuration_without_a_family_says_why_nobody_serves_it(zoo: Zoo, saved: Saved, tmp_path: Path) -> None:
    for number, kind in enumerate((None, "", "a b", 7)):
        folder = copy(saved("llama"), tmp_path / f"odd-{number}")
        edit(folder / "config.json", model_type=kind)
        model = zoo.add(folder).model
        assert model.family == "unknown"
        assert "is not the name of a family" in model.unservable[0]
