"""What is put into a zoo comes out as it was, once however often it is put, and goes when nobody needs it."""

import contextlib
import errno
import os
import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import (
    BadInputError,
    CapacityError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    QuiltworkError,
    UnsupportedError,
)
from quiltwork.zoo import ModelRef, Part, RawTensor, TensorRef, Zoo
from quiltwork.zoo.dtypes import from_float32, itemsize
from quiltwork.zoo.manifest import make_block
from quiltwork.zoo.types import DTYPE_BITS


def files_of(zoo):
    return {p.relative_to(zoo.path): p.stat().st_size for p in (zoo.path / "objects").rglob("*") if p.is_file()}


def all_arrays(zoo, model):
    return {t.name: zoo.read(t).data.tobytes() for part in model.parts for t in part.block.walk()}


def expected(adder, seed, base=None):
    return {name: array.tobytes() for name, array in adder.arrays(seed, base).items()}


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_comes_back_to_the_byte(zoo, dtype):
    data = np.random.default_rng(0).integers(0, 256, 6 * itemsize(dtype), dtype=np.uint8)
    with zoo.adding() as session:
        stored = session.tensor(RawTensor(dtype, (2, 3), data))
        ref = TensorRef("t", dtype, (2, 3), stored.content, stored.stored_dtype)
        block = make_block("tensors", {}, [ref])
        parts = [Part("all", block)]
        model = session.commit(ModelRef("m"), family="unknown", parts=parts, config={}, files={}, recipe=b"")
    read = zoo.read(model.parts[0].block.tensors[0])
    assert (read.dtype, read.shape, read.data.tobytes()) == (dtype, (2, 3), data.tobytes())


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (1,)])
def test_scalars_and_empty_tensors_come_back(zoo, adder, shape):
    array = np.full(shape, 0.3, dtype=np.float32)
    with zoo.adding() as session:
        stored = session.tensor(adder.raw(array))
        assert session.tensor(adder.raw(array), near=stored.content) == stored
        assert session.read(stored.content).tobytes() == array.tobytes()


def test_a_model_comes_back_as_it_was_committed(zoo, adder):
    model, session = adder.put(zoo, "org/m@v1", 5)
    assert zoo.model("org/m@v1") == model
    assert all_arrays(zoo, model) == expected(adder, 5)
    assert zoo.read_file(model, "tokenizer.json") == b'{"a": 1}' * 40
    assert zoo.recipe("org/m@v1") == b"recipe 5" * 20
    assert session.new_bytes == sum(files_of(zoo).values())
    with Zoo(zoo.path) as again:
        assert again.model("org/m@v1") == model


def test_adding_again_changes_nothing(zoo, adder):
    first, _ = adder.put(zoo, "m", 1)
    before, size = files_of(zoo), zoo.stored_bytes()
    second, session = adder.put(zoo, "m", 1)
    assert (first, before, size) == (second, files_of(zoo), zoo.stored_bytes())
    assert session.already
    assert session.new_bytes == 0


def test_the_same_model_under_another_name_costs_a_row(zoo, adder):
    first, _ = adder.put(zoo, "m", 1)
    before = files_of(zoo)
    second, session = adder.put(zoo, "other", 1, tenant="acme")
    assert second.version == first.version
    assert not session.already
    assert files_of(zoo) == before


def test_another_model_under_the_same_name_replaces_it(zoo, adder):
    first, _ = adder.put(zoo, "m", 1)
    second, session = adder.put(zoo, "m", 2)
    assert not session.already
    assert second.version != first.version
    assert zoo.model("m") == second
    assert zoo.models() == [ModelRef("m")]


def test_without_replace_a_taken_name_is_a_conflict_and_nothing_stays(zoo, adder):
    first, _ = adder.put(zoo, "m", 1)
    before = files_of(zoo)
    with pytest.raises(ConflictError, match="m: the name is taken"), zoo.adding() as session:
        session.commit(first.ref, family="u", parts=[], config={}, files={}, recipe=b"new", replace=False)
    assert (zoo.model("m"), files_of(zoo)) == (first, before)


def test_widening_bf16_and_f16_to_fp32_adds_no_object(zoo, adder):
    values = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    for dtype in ("BF16", "F16"):
        with zoo.adding() as session:
            half = from_float32(values, dtype)
            narrow = session.tensor(RawTensor(dtype, (8, 8), half))
            ref = TensorRef("w", dtype, (8, 8), narrow.content, narrow.stored_dtype)
            wide = session.tensor(zoo_read_wide(session, ref))
            assert wide == narrow


def zoo_read_wide(session, ref):
    from quiltwork.zoo.dtypes import to_float32

    wide = to_float32(session.read(ref.content), ref.stored_dtype)
    return RawTensor("F32", ref.shape, wide.view(np.uint8).reshape(-1))


def test_unchanged_tensors_of_a_fine_tune_are_shared_and_changed_ones_kept_as_differences(zoo, adder):
    adder.put(zoo, "base", 1)
    model, session = adder.put(zoo, "tuned", 2, base="base")
    assert all_arrays(zoo, model) == expected(adder, 2, "base")
    raw_bytes = 3 * 24 * 40 * 4
    own = 3 * 24 * 40 * 4
    assert session.new_bytes < 0.8 * raw_bytes + own + 200


def test_a_difference_from_a_difference_is_taken_from_its_base(zoo, adder):
    adder.put(zoo, "base", 1)
    adder.put(zoo, "tuned", 2, base="base")
    model, _ = adder.put(zoo, "again", 3, base="tuned")
    assert all_arrays(zoo, model) == expected(adder, 3, "tuned")
    zoo.remove("base")
    zoo.remove("tuned")
    zoo.gc()
    assert all_arrays(zoo, model) == expected(adder, 3, "tuned")
    assert zoo.fsck() == []


def test_embedding_rows_that_were_appended_are_stored_alone(zoo, adder):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((1000, 16)).astype(np.float32)
    grown = np.concatenate([base, rng.standard_normal((8, 16)).astype(np.float32)])
    cut = base[:900]
    with zoo.adding() as session:
        near = session.tensor(adder.raw(base)).content
        refs = [TensorRef("base", "F32", base.shape, near, "F32")]
        for name, array in (("grown", grown), ("cut", cut)):
            stored = session.tensor(adder.raw(array), near=near)
            refs.append(TensorRef(name, "F32", array.shape, stored.content, "F32"))
        parts = [Part("embed", make_block("embed", {}, refs))]
        model = session.commit(ModelRef("m"), family="unknown", parts=parts, config={}, files={}, recipe=b"")
    assert session.new_bytes < base.nbytes + 1.2 * 8 * 16 * 4 + 400
    assert all_arrays(zoo, model) == {"base": base.tobytes(), "grown": grown.tobytes(), "cut": cut.tobytes()}


@pytest.mark.parametrize(("code", "at_most"), [("int8", 0.001), ("int4", 0.02)])
def test_a_lossy_model_says_what_it_lost(zoo, adder, code, at_most):
    adder.put(zoo, "base", 1)
    model, _ = adder.put(zoo, "tuned", 2, base="base", lossy=code)
    assert sorted(model.lossy) == ["shared.0", "shared.1", "shared.2"]
    exact = adder.arrays(2, "base")
    for tensor in model.parts[0].block.tensors:
        read = zoo.read(tensor).data.view(np.float32).reshape(tensor.shape)
        if tensor.name in model.lossy:
            error = np.linalg.norm(read - exact[tensor.name]) / np.linalg.norm(exact[tensor.name])
            assert model.lossy[tensor.name]["code"] == code
            assert model.lossy[tensor.name]["relative_error"] == pytest.approx(error, rel=1e-3)
            assert 0 < error < at_most
        else:
            assert np.array_equal(read, exact[tensor.name])
    assert zoo.fsck() == []
    again, session = adder.put(zoo, "tuned", 2, base="base", lossy=code)
    assert (again, session.already, session.new_bytes) == (model, True, 0)


def test_an_exact_difference_is_preferred_where_rounding_saves_nothing(zoo):
    rng = np.random.default_rng(0)
    base = (rng.standard_normal((256, 256)) * 0.02).astype(np.float32)
    tuned = (base + rng.standard_normal(base.shape) * 0.001).astype(np.float32)
    base16, tuned16 = (RawTensor("BF16", (256, 256), from_float32(a, "BF16")) for a in (base, tuned))
    with zoo.adding() as session:
        near = session.tensor(base16).content
        stored = session.tensor(tuned16, near=near, lossy="int8")
        assert stored.loss is None
        assert session.read(stored.content).tobytes() == tuned16.data.tobytes()
        assert session.tensor(tuned16, near=near, lossy="int4") == stored  # exact bytes that are there already


def test_a_half_precision_fine_tune_of_a_wide_base_is_a_difference(zoo, adder):
    rng = np.random.default_rng(0)
    base = (rng.standard_normal((128, 128)) * 0.02).astype(np.float32)
    tuned = from_float32((base + rng.standard_normal(base.shape) * 0.001).astype(np.float32), "BF16")
    with zoo.adding() as session:
        near = session.tensor(adder.raw(base)).content
        session.commit(ModelRef("b"), family="u", parts=[], config={}, files={"b": near}, recipe=b"")
        stored = session.tensor(RawTensor("BF16", (128, 128), tuned), near=near).content
        before = session.new_bytes
        session.commit(ModelRef("t"), family="u", parts=[], config={}, files={"t": stored}, recipe=b"")
        assert session.new_bytes - before < 0.5 * tuned.size
    zoo.remove("b")
    zoo.gc()
    assert zoo.content(stored).tobytes() == tuned.tobytes()


@pytest.mark.parametrize("lossy", ["int2", "", "INT8"])
def test_an_unknown_lossy_code_is_refused(zoo, adder, lossy):
    with zoo.adding() as session, pytest.raises(BadInputError, match=r"lossy: .* is not one of int8, int4"):
        session.tensor(adder.raw(np.ones((2, 2), np.float32)), lossy=lossy)


def test_vectors_stay_exact_in_a_lossy_model(zoo, adder):
    vector = np.linspace(0.1, 1, 64, dtype=np.float32)
    with zoo.adding() as session:
        near = session.tensor(adder.raw(vector)).content
        stored = session.tensor(adder.raw(vector * np.float32(1.01)), near=near, lossy="int8")
        assert stored.loss is None
        assert session.read(stored.content).tobytes() == (vector * np.float32(1.01)).tobytes()


def test_a_file_on_disk_is_put_like_its_bytes(zoo, tmp_path):
    for data in (b"", b"x", b"abc" * 100_000, np.random.default_rng(0).bytes(100_000)):
        path = tmp_path / "file"
        path.write_bytes(data)
        with zoo.adding() as session:
            content = session.file(path)
            assert content == session.file(data)
            assert session.read(content).tobytes() == data


def test_what_no_commit_refers_to_vanishes(zoo, adder):
    with zoo.adding() as session:
        session.tensor(adder.raw(np.ones((5, 5), np.float32) * np.float32(0.1)))
        session.commit(ModelRef("m"), family="unknown", parts=[], config={}, files={}, recipe=b"r")
    assert len(files_of(zoo)) == 1
    assert list((zoo.path / "tmp").iterdir()) == []


def test_an_exception_leaves_nothing(zoo, adder):
    def interrupted():
        with zoo.adding() as session:
            session.tensor(adder.raw(np.ones((5, 5), np.float32)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_of(zoo) == {}
    assert list((zoo.path / "tmp").iterdir()) == []
    assert zoo.models() == []


def test_collection_removes_what_only_the_removed_model_used(zoo, adder):
    adder.put(zoo, "a", 1)
    before = files_of(zoo)
    kept = zoo.model("a")
    adder.put(zoo, "b", 2, base="a")
    zoo.remove("b")
    freed = zoo.gc()
    assert files_of(zoo) == before
    assert freed.objects == 8  # six tensors, one file, the recipe
    assert freed.blocks == 1
    assert freed.bytes > 0
    assert zoo.model("a") == kept
    zoo.remove("a")
    zoo.gc()
    assert files_of(zoo) == {}
    assert zoo.fsck() == []


def test_tenants_see_their_own_models_and_the_public_ones(zoo, adder):
    adder.put(zoo, "open", 1)
    adder.put(zoo, "mine", 1, tenant="acme")
    adder.put(zoo, "theirs", 1, tenant="other")
    assert zoo.models("acme") == [ModelRef("mine", "acme"), ModelRef("open")]
    assert len(zoo.models()) == 3
    with pytest.raises(NotFoundError):
        zoo.model("mine")


def test_an_alias_stands_for_its_model_until_either_goes(zoo, adder):
    model, _ = adder.put(zoo, "m", 1)
    zoo.alias(ModelRef("latest"), "m")
    zoo.alias(ModelRef("best"), "latest")
    assert zoo.model("best") == zoo.model("latest") == model
    with pytest.raises(ConflictError, match="a model has this name"):
        zoo.alias(ModelRef("m"), "latest")
    with pytest.raises(NotFoundError, match="nothing-here"):
        zoo.alias(ModelRef("x"), "nothing-here")
    zoo.remove("latest")
    assert zoo.aliases() == {ModelRef("best"): ModelRef("m")}
    zoo.remove("m")
    assert zoo.aliases() == {}


@pytest.mark.parametrize("call", ["model", "remove", "recipe"])
def test_an_unknown_model_is_named(zoo, call):
    with pytest.raises(NotFoundError, match="ghost: no such model"):
        getattr(zoo, call)("ghost")
    with pytest.raises(BadInputError, match="is not a name"):
        getattr(zoo, call)("../ghost")


def test_content_that_was_never_stored_cannot_be_committed(zoo):
    ref = TensorRef("w", "F32", (1,), "0" * 64, "F32")
    parts = [Part("p", make_block("ffn", {}, [ref]))]
    with pytest.raises(BadInputError, match="was never stored"), zoo.adding() as session:
        session.commit(ModelRef("m"), family="unknown", parts=parts, config={}, files={}, recipe=b"r")
    assert files_of(zoo) == {}
    with pytest.raises(BadInputError, match="near"), zoo.adding() as session:
        session.tensor(RawTensor("F32", (1,), np.zeros(4, np.uint8)), near="0" * 64)


@pytest.mark.parametrize(
    ("raw", "error", "match"),
    [
        (("F32", (2,), 4), BadInputError, "4 bytes do not make a F32 tensor of shape"),
        (("F99", (1,), 4), UnsupportedError, "F99"),
        (("F32", (-1,), 4), BadInputError, "shape"),
        (("F32", (2**62, 4), 0), BadInputError, "shape"),
    ],
)
def test_tensors_that_make_no_sense_are_refused(zoo, raw, error, match):
    dtype, shape, size = raw
    with zoo.adding() as session, pytest.raises(error, match=match):
        session.tensor(RawTensor(dtype, shape, np.zeros(size, np.uint8)))


def test_what_is_not_json_is_refused_by_name(zoo):
    for config in ({"a": float("nan")}, {"a": {1, 2}}, {"a": b"x"}):
        with pytest.raises(BadInputError, match="model m: cannot be written as JSON"), zoo.adding() as session:
            session.commit(ModelRef("m"), family="unknown", parts=[], config=config, files={}, recipe=b"r")


def test_a_folder_of_something_else_is_not_made_a_zoo(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInputError, match="is not a zoo"):
        Zoo(tmp_path)
    with pytest.raises(BadInputError, match="is a file"):
        Zoo(tmp_path / "thesis.tex")
    with pytest.raises(NotFoundError, match="no zoo here"):
        Zoo(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


def test_an_index_that_is_not_one_is_refused(tmp_path):
    (tmp_path / "index.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(CorruptionError, match="index"):
        Zoo(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(QuiltworkError, match="cannot be used: Not a directory"):
        Zoo(tmp_path / "file" / "zoo")


def test_a_database_of_something_else_is_left_alone(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    with pytest.raises(CorruptionError, match="not the index of a zoo"):
        Zoo(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("diary",)]


def test_a_forked_process_reads_with_connections_of_its_own(zoo, adder):
    model, _ = adder.put(zoo, "m", 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if zoo.model("m") == model else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert zoo.model("m") == model


def test_checking_reports_its_progress_in_bytes(zoo, adder):
    adder.put(zoo, "m", 1)
    seen = []
    zoo.fsck(progress=seen.append)
    assert sum(seen) == sum(files_of(zoo).values())


def test_a_model_takes_the_place_of_an_alias_of_its_name(zoo, adder):
    adder.put(zoo, "m", 1)
    zoo.alias(ModelRef("n"), "m")
    model, _ = adder.put(zoo, "n", 2)
    assert zoo.model("n") == model
    assert zoo.aliases() == {}


def test_an_index_of_a_later_program_is_refused(zoo):
    zoo.close()
    connection = sqlite3.connect(zoo.path / "index.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UnsupportedError, match="schema 99"):
        Zoo(zoo.path)


def test_stored_bytes_are_the_files_of_the_folder(zoo, adder):
    adder.put(zoo, "m", 1)
    counted = zoo.stored_bytes()
    assert counted == sum(p.stat().st_size for p in zoo.path.rglob("*") if p.is_file())
    assert (zoo.path / "lock").stat().st_size == 0


def test_a_full_disk_is_a_capacity_error_and_leaves_nothing(tmp_path, adder):
    for step in ("object", "object written", "commit", "object placed", "rows inserted"):

        def full(reached, step=step):
            if reached == step:
                raise OSError(errno.ENOSPC, "No space left on device")

        with Zoo(tmp_path / step.replace(" ", "-"), watch=full) as zoo:
            with pytest.raises(CapacityError, match="the disk is full"):
                adder.put(zoo, "m", 1)
            assert (zoo.models(), files_of(zoo), zoo.fsck()) == ([], {}, [])
            assert list((zoo.path / "tmp").iterdir()) == []


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_tensors_of_any_bits_come_back_with_any_base(zoo, data):
    patterns = st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4)
    bits = [np.array(data.draw(patterns), np.uint32) for _ in range(3)]
    with zoo.adding() as session:
        near = None
        for row in bits:
            stored = session.tensor(RawTensor("F32", (2, 2), row.view(np.uint8)), near=near)
            ref = TensorRef("w", "F32", (2, 2), stored.content, stored.stored_dtype)
            parts = [Part("p", make_block("ffn", {}, [ref]))]
            model = session.commit(ModelRef("m"), family="unknown", parts=parts, config={}, files={}, recipe=b"r")
            near = stored.content
            assert zoo.read(model.parts[0].block.tensors[0]).data.tobytes() == row.tobytes()
