"""The safetensors header reader: right on what is right, one clear error on everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo.formats.safetensors import read_header


def file_of(header: Any, data: bytes = b"", *, raw: bytes | None = None, length: int | None = None) -> bytes:
    head = raw if raw is not None else json.dumps(header).encode()
    return (len(head) if length is None else length).to_bytes(8, "little") + head + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_reference_implementation_writes(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, dtype=np.int64),
        "c": np.zeros((0, 4)),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(arrays, metadata={"format": "pt"}))
    file = read_header(path)
    assert file.metadata == {"format": "pt"}
    for name, array in arrays.items():
        raw = file.read(name)
        assert raw.shape == array.shape
        assert raw.data.tobytes() == array.tobytes()


BAD = {
    "empty": (b"", "too few"),
    "no header": ((10).to_bytes(8, "little"), "truncated"),
    "absurd header": (file_of({}, length=2**62), "absurd"),
    "not json": (file_of(None, raw=b"{]"), "not JSON"),
    "deep json": (file_of(None, raw=b'{"a":' + b"[" * 50_000), "not JSON"),
    "not an object": (file_of(None, raw=b"[1]"), "does not begin"),
    "not utf-8": (file_of(None, raw=b'{"\xff": 1}'), "not UTF-8"),
    "a name twice": (file_of(None, raw=b'{"a": 1, "a": 2}'), "occurs twice"),
    "unprintable name": (file_of({"a\nb": entry()}, b"12345678"), "printable"),
    "metadata": (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
    "unknown dtype": (file_of({"a": entry("F99")}, b"12345678"), "dtype"),
    "dtype no text": (file_of({"a": entry(["F32"])}, b"12345678"), "dtype"),
    "negative shape": (file_of({"a": entry(shape=(-2,))}, b"12345678"), "shape"),
    "huge shape": (file_of({"a": entry(shape=(2**62, 2**62))}, b"12345678"), "need"),
    "fractional shape": (file_of({"a": entry(shape=(2.0,))}, b"12345678"), "shape"),
    "true as a size": (file_of({"a": entry(shape=(True, 2))}, b"12345678"), "shape"),
    "backwards": (file_of({"a": entry(offsets=(8, 0))}, b"12345678"), "outside"),
    "past the end": (file_of({"a": entry(offsets=(8, 16))}, b"12345678"), "outside"),
    "wrong size": (file_of({"a": entry(offsets=(0, 4))}, b"12345678"), "need 8 bytes"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=(4, 12))}, b"123456789012"), "overlap"),
    "missing key": (file_of({"a": {"dtype": "F32", "shape": [2]}}, b"12345678"), "exactly"),
    "no object": (file_of({"a": 3}), "exactly"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=message) as caught:
        read_header(path)
    assert "bad.safetensors" in str(caught.value)


def test_types_smaller_than_a_byte_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"a": entry("F4", (4,), (0, 2))}, b"12"))
    with pytest.raises(UnsupportedError, match="F4"):
        read_header(path)


def test_gaps_and_a_tail_are_allowed_and_belong_to_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"a": entry(offsets=(4, 12))}, b"gap.12345678tail"))
    (only,) = read_header(path).ranges()
    assert path.read_bytes()[only.offset : only.offset + only.nbytes] == b"12345678"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "I8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "I8", "nonsense"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values,
    },
)
headers = st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), entries | json_values, max_size=4)
files = (
    st.binary(max_size=64)
    | st.builds(file_of, headers, st.binary(max_size=40))
    | st.builds(lambda head, data: file_of(None, data, raw=head), st.binary(max_size=60), st.binary(max_size=8))
)


@settings(deadline=None)
@given(content=files)
def test_any_bytes_are_read_consistently_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        file = read_header(path)
    except BadInputError as error:
        assert "fuzzed.safetensors" in str(error)  # noqa: PT017 - either outcome is right
        return
    end = 0
    for item in file.ranges():
        assert end <= item.offset <= item.offset + item.nbytes <= len(content)
        assert file.read(item.name).data.tobytes() == content[item.offset : item.offset + item.nbytes]
        end = item.offset + item.nbytes
