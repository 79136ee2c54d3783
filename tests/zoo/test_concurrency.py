"""Many processes and threads on one zoo at once."""

import mmap
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quiltwork.core.errors import ConflictError, NotFoundError
from quiltwork.zoo import ModelRef, Part, TensorRef, Zoo
from quiltwork.zoo.lock import FolderLock
from quiltwork.zoo.manifest import make_block

ADDER = str(Path(__file__).with_name("adder.py"))


def start(*arguments):
    return subprocess.Popen([sys.executable, ADDER, *map(str, arguments)], stderr=subprocess.PIPE, text=True)


def objects_and_rows(zoo):
    return {p.parent.name + p.name for p in (zoo.path / "objects").rglob("*") if p.is_file()}


def test_processes_adding_the_same_and_different_models_at_once(zoo, adder, tmp_path):
    # All wait for the lock and then start together.
    with FolderLock(zoo.path / "lock").exclusive():
        running = [start(zoo.path, name, seed) for name, seed in [("a", 1), ("a", 1), ("b", 1), ("c", 2), ("d", 3)]]
    for process in running:
        assert process.wait(timeout=60) == 0, process.stderr.read()
        process.stderr.close()
    assert [ref.name for ref in zoo.models()] == ["a", "b", "c", "d"]
    assert zoo.fsck() == []
    with Zoo(tmp_path / "one-after-another") as other:
        for name, seed in [("a", 1), ("b", 1), ("c", 2), ("d", 3)]:
            adder.put(other, name, seed)
        assert objects_and_rows(zoo) == objects_and_rows(other)
        assert [zoo.model(ref) for ref in zoo.models()] == [other.model(ref) for ref in other.models()]


def test_processes_creating_the_zoo_at_once(tmp_path):
    running = [start(tmp_path / "new", f"m{seed}", seed) for seed in range(3)]
    for process in running:
        assert process.wait(timeout=60) == 0, process.stderr.read()
        process.stderr.close()
    with Zoo(tmp_path / "new") as zoo:
        assert len(zoo.models()) == 3
        assert zoo.fsck() == []


def test_threads_adding_reading_and_removing_at_once(zoo, adder):
    stable, _ = adder.put(zoo, "stable", 0)
    wanted = {name: array.tobytes() for name, array in adder.arrays(0).items()}

    def work(seed):
        adder.put(zoo, f"m{seed}", seed, base="stable" if seed % 2 else None)
        if seed % 3 == 0:
            zoo.remove(f"m{seed}")
            zoo.gc()
        return {t.name: zoo.read(t).data.tobytes() for t in stable.parts[0].block.tensors} == wanted

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(1, 19)))
    zoo.gc()
    assert zoo.fsck() == []
    assert {ref.name for ref in zoo.models()} == {"stable"} | {f"m{seed}" for seed in range(1, 19) if seed % 3}


def test_a_reader_keeps_its_tensors_when_the_model_is_removed_and_collected(zoo, adder):
    array = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
    with zoo.adding() as session:
        stored = session.tensor(adder.raw(array))
        tensor = TensorRef("w", "F32", array.shape, stored.content, stored.stored_dtype)
        parts = [Part("p", make_block("ffn", {}, [tensor]))]
        session.commit(ModelRef("m"), family="unknown", parts=parts, config={}, files={}, recipe=b"")
    held = zoo.read(tensor)
    mapped = held.data
    while isinstance(mapped.base, np.ndarray):
        mapped = mapped.base
    assert isinstance(mapped.base.obj if isinstance(mapped.base, memoryview) else mapped.base, mmap.mmap)
    zoo.remove("m")
    assert zoo.gc().objects > 0
    assert held.data.tobytes() == array.tobytes()
    with pytest.raises(NotFoundError, match="no such object"):
        zoo.read(tensor)


def test_what_is_read_cannot_be_written(zoo, adder):
    adder.put(zoo, "base", 1)
    model, _ = adder.put(zoo, "m", 2, base="base")
    for tensor in model.parts[0].block.tensors:
        with pytest.raises(ValueError, match="read-only"):
            zoo.read(tensor).data[0] = 1


def test_collection_waits_for_additions(zoo, adder):
    freed = []
    with zoo.adding() as session:
        session.tensor(adder.raw(np.full((9, 9), 0.1, np.float32)))
        refused = pytest.raises(ConflictError, match="models are being added")
        with Zoo(zoo.path) as other, ThreadPoolExecutor(1) as pool, refused:
            pool.submit(other.gc, wait=False).result()
        collector = threading.Thread(target=lambda: freed.append(zoo.gc()))
        collector.start()
        parts, config = [], {"still": "here"}
        kept = session.file(b"kept" * 100)
        session.commit(adder.ModelRef("m"), family="unknown", parts=parts, config=config, files={"k": kept}, recipe=b"")
        assert freed == []
    collector.join(timeout=30)
    assert freed[0].objects == 0
    assert zoo.read_file(zoo.model("m"), "k") == b"kept" * 100


def test_collection_within_an_addition_of_the_same_thread_is_refused_not_stuck(zoo):
    with zoo.adding(), pytest.raises(ConflictError, match="this thread is adding"):
        zoo.gc()


def test_an_object_that_an_open_addition_counts_on_is_not_collected(zoo, adder):
    adder.put(zoo, "m", 1)
    with zoo.adding() as session:
        array = adder.arrays(1)["own.0"]
        stored = session.tensor(adder.raw(array))
        zoo.remove("m")
        with ThreadPoolExecutor(1) as pool, pytest.raises(ConflictError):
            pool.submit(zoo.gc, wait=False).result()
        session.commit(
            adder.ModelRef("n"), family="unknown", parts=[], config={}, files={"f": stored.content}, recipe=b""
        )
    zoo.gc()
    assert zoo.read_file(zoo.model("n"), "f") == array.tobytes()
