"""Damage of every kind is found and named, and can be mended by adding the model again."""

import sqlite3
from contextlib import closing

import pytest

from quiltwork.core.errors import CorruptionError
from quiltwork.zoo import Zoo


@pytest.fixture
def filled(zoo, adder):
    """A zoo with raw, compressed and difference objects."""
    adder.put(zoo, "base", 1)
    adder.put(zoo, "tuned", 2, base="base")
    adder.put(zoo, "rounded", 3, base="base", lossy="int8")
    assert zoo.fsck() == []
    return zoo


def execute(zoo, statement, *values):
    zoo.close()
    with closing(sqlite3.connect(zoo.path / "index.sqlite")) as connection, connection:
        return connection.execute(statement, values).fetchall()


def one_object(zoo, encoding):
    content = execute(zoo, "SELECT hex(content) FROM objects WHERE encoding = ? LIMIT 1", encoding)[0][0].lower()
    return content, zoo.path / "objects" / content[:2] / content[2:]


@pytest.mark.parametrize("encoding", ["raw", "zstd", "delta", "rounded"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_a_damaged_object_is_found_whatever_its_encoding(filled, encoding, damage):
    content, path = one_object(filled, encoding)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes({"flip": data, "cut": data[: len(data) // 2], "grow": data + b"x", "empty": b""}[damage])
    findings = filled.fsck()
    assert content in {finding.where for finding in findings}
    assert {finding.kind for finding in findings} == {"corrupt"}


def test_a_lost_object_is_found_and_reading_it_says_so(filled):
    content, path = one_object(filled, "delta")
    path.unlink()
    assert [(f.kind, f.where) for f in filled.fsck()] == [("missing", content)]
    with pytest.raises(CorruptionError, match=f"object {content}: the object's file is missing"):
        filled.content(content)


def test_a_file_nobody_speaks_of_is_found_and_collected(filled):
    stray = filled.path / "objects" / "ab"
    stray.mkdir(exist_ok=True)
    (stray / "cd").write_text("x")
    (filled.path / "objects" / "note.txt").write_text("x")
    assert [f.kind for f in filled.fsck()] == ["extra", "extra"]
    filled.gc()
    assert filled.fsck() == []


def test_a_row_that_is_gone_leaves_a_dangling_model_and_an_extra_file(filled):
    content, _ = one_object(filled, "zstd")
    execute(filled, "DELETE FROM objects WHERE hex(content) = ?", content.upper())
    findings = filled.fsck()
    assert {f.kind for f in findings} == {"dangling", "extra"}
    assert any(content in f.what for f in findings)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE models SET manifest = x'00' WHERE name = 'tuned'",
        "UPDATE models SET version = zeroblob(32) WHERE name = 'tuned'",
        "UPDATE models SET manifest = (SELECT manifest FROM models WHERE name = 'base') WHERE name = 'tuned'",
    ],
)
def test_a_damaged_manifest_is_found_never_served_and_stops_collection(filled, statement):
    execute(filled, statement)
    assert [(f.kind, f.where) for f in filled.fsck()] == [("manifest", "model tuned")]
    with pytest.raises(CorruptionError, match="manifest of tuned"):
        filled.model("tuned")
    with pytest.raises(CorruptionError, match="manifest of tuned"):
        filled.gc()
    assert filled.model("base").config == {"seed": 1}
    filled.remove("tuned")
    filled.gc()
    assert filled.fsck() == []


def test_a_damaged_block_is_found(filled):
    execute(filled, "UPDATE blocks SET body = (SELECT body FROM blocks ORDER BY id LIMIT 1)")
    assert {f.kind for f in filled.fsck()} == {"manifest"}
    execute(filled, "DELETE FROM blocks")
    assert {f.kind for f in filled.fsck()} == {"manifest"}


def test_repair_and_adding_again_mend_a_zoo(filled, adder):
    model = filled.model("tuned")
    _, lost = one_object(filled, "delta")
    _, damaged = one_object(filled, "raw")
    lost.unlink()
    damaged.write_bytes(b"x")
    (filled.path / "objects" / "stray").write_text("x")
    assert all(f.repaired for f in filled.fsck(repair=True))
    assert {f.kind for f in filled.fsck()} <= {"dangling"}
    adder.put(filled, "base", 1)
    adder.put(filled, "tuned", 2, base="base")
    adder.put(filled, "rounded", 3, base="base", lossy="int8")
    assert filled.fsck() == []
    for tensor in model.parts[0].block.tensors:
        assert filled.read(tensor).data.tobytes() == adder.arrays(2, "base")[tensor.name].tobytes()


def test_checking_works_on_a_zoo_opened_anew(filled):
    with Zoo(filled.path, create=False) as again:
        assert again.fsck() == []
