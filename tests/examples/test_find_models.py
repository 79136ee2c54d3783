from __future__ import annotations

import json
from pathlib import Path

import pytest
from find_models import base_of, find_models


def model(folder: Path, *, tokenizer: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return folder


def adapter(folder: Path, base: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def test_bases_come_before_what_may_need_them(tmp_path: Path) -> None:
    adapter(tmp_path / "a-lora", "../z-base")
    model(tmp_path / "b-tuned", tokenizer=False)
    model(tmp_path / "z-base")
    assert [found.name for found in find_models(tmp_path).models] == ["z-base", "b-tuned", "a-lora"]


def test_what_adapters_name_as_their_base_comes_first(tmp_path: Path) -> None:
    adapter(tmp_path / "lora", "../base")
    model(tmp_path / "a-tuned")
    model(tmp_path / "base")
    assert [found.name for found in find_models(tmp_path).models] == ["base", "a-tuned", "lora"]


def test_a_relative_base_is_resolved_from_the_adapters_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = model(tmp_path / "fleet" / "base"), model(tmp_path / "base")
    folder = adapter(tmp_path / "fleet" / "lora", "../base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # from here ../base is another model
    assert (Path.cwd() / "../base").resolve() == far
    assert base_of(folder) == near


def test_a_base_outside_the_folder_is_taken_along(tmp_path: Path) -> None:
    base = model(tmp_path / "hf")
    adapter(tmp_path / "variants" / "lora", "../../hf")
    found = find_models(tmp_path / "variants").models
    assert [(candidate.name, candidate.folder) for candidate in found] == [
        ("hf", base),
        ("lora", tmp_path / "variants" / "lora"),
    ]


def test_stray_files_are_listed_and_files_of_models_are_not(tmp_path: Path) -> None:
    model(tmp_path / "base")
    (tmp_path / "base" / "notes").mkdir()
    (tmp_path / "base" / "notes" / "log.txt").write_text("")
    (tmp_path / "golden.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"")
    assert find_models(tmp_path).skipped == (Path("golden.json"), Path("sub/weights.bin"))


def test_a_folder_that_is_itself_a_model_is_found_with_what_is_below(tmp_path: Path) -> None:
    root = model(tmp_path / "base")
    adapter(root / "adapters" / "one", "../..")
    assert [found.name for found in find_models(root).models] == ["base", "one"]


def test_folders_of_the_same_name_get_longer_names(tmp_path: Path) -> None:
    model(tmp_path / "x" / "final")
    model(tmp_path / "y" / "final")
    assert {found.name for found in find_models(tmp_path).models} == {"x-final", "y-final"}


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"base_model_name_or_path": 3}', '{"base_model_name_or_path": "\\u0000"}']
)
def test_a_broken_adapter_is_found_without_a_base(tmp_path: Path, text: str) -> None:
    folder = adapter(tmp_path / "broken", "x")
    (folder / "adapter_config.json").write_text(text)
    (found,) = find_models(tmp_path).models
    assert found.adapter
    assert found.base is None


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        find_models(tmp_path / "absent")


def test_hidden_folders_are_left_alone(tmp_path: Path) -> None:
    model(tmp_path / ".cache" / "base")
    assert find_models(tmp_path).models == ()


@pytest.mark.realdata
def test_the_stories_family_is_found(data_dir: Path) -> None:
    found = find_models(data_dir / "llm" / "weights" / "stories260K")
    assert len(found.models) == 9
    assert found.models[0].name == "hf"
    assert all(candidate.base == found.models[0].folder.resolve() for candidate in found.models if candidate.adapter)
    assert Path("golden_greedy.json") in found.skipped
