"""Zip checkpoints are read without torch, and run nothing."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo.formats.torch_bin import read_checkpoint


def test_reads_what_torch_saves(tmp_path: Path) -> None:
    import torch

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = OrderedDict(
        whole=base,
        row=base[1],
        transposed=base.t(),
        parameter=torch.nn.Parameter(torch.randn(3)),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 4),
        flags=torch.tensor([True, False]),
    )
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    file = read_checkpoint(path)
    assert file.tensors.keys() == state.keys()
    for name, tensor in state.items():
        raw = file.read(name)
        assert raw.shape == tuple(tensor.shape)
        assert raw.data.tobytes() == tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes(), name


def test_shared_storage_is_one_range(tmp_path: Path) -> None:
    import torch

    weight = torch.randn(4, 4)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": weight, "b": weight}, path)
    file = read_checkpoint(path)
    assert file.tensors["a"].offset == file.tensors["b"].offset
    assert len(list(file.ranges())) == 1


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def archive(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return path


def test_a_payload_is_refused_by_its_name_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "pytorch_model.bin", pickle.dumps({"a": Payload()}))
    with pytest.raises(BadInputError, match=r"pytorch_model\.bin.*posix\.system"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_the_old_format_is_named(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsupportedError, match=r"before PyTorch 1\.6"):
        read_checkpoint(path)


@pytest.mark.parametrize("state", [[1, 2], {}, {"a": 3}, {3: 4}, "text"])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, state: Any) -> None:
    with pytest.raises(BadInputError):
        read_checkpoint(archive(tmp_path / "x.bin", pickle.dumps(state)))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "whole.bin"
    torch.save({"a": torch.randn(64), "b": torch.randn(3, 3)}, path)
    content = path.read_bytes()
    cut = tmp_path / "cut.bin"
    for length in range(0, len(content) - 1, 37):
        cut.write_bytes(content[:length])
        with pytest.raises(BadInputError):
            read_checkpoint(cut)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_read_in_bounds_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    import torch

    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    if not hasattr(Payload, "content"):
        torch.save({"a": torch.arange(8.0), "b": torch.arange(6).reshape(2, 3).t()}, path)
        Payload.content = path.read_bytes()  # type: ignore[attr-defined]
    content = bytearray(Payload.content)  # type: ignore[attr-defined]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        file = read_checkpoint(path)
    except BadInputError as error:
        assert "fuzzed.bin" in str(error)  # noqa: PT017 - either outcome is right
        return
    for name in file.tensors:
        raw = file.read(name)
        assert raw.data.size == file.tensors[name].nbytes
