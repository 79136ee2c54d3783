"""The batch log shows models sharing a batch where they share blocks, and nowhere else."""

import errno
import json
import logging

import pytest
from tiny_llama import Desk

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.serving import Engine, EngineConfig, language_servable
from quiltwork.serving.batch_log import BatchLog
from quiltwork.zoo.segments import segment_id

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19]


@pytest.fixture
def logged(family, tmp_path):
    """A desk whose engine writes a batch log, and a reader of it."""
    path = tmp_path / "batches.jsonl"
    log = BatchLog(path, lambda: 1234.5)
    d = Desk(Engine(EngineConfig(), lambda: 0.0, log), family.bench)
    yield d, lambda: [json.loads(line) for line in path.read_text().splitlines()]
    log.close()


def test_two_models_meet_in_the_batches_of_what_they_share_only(logged, family):
    d, lines = logged
    base, top, lora = family.base(), family.changed("top", "layers.3.", seed=4), family.lora("lora", seed=2)
    d.load(base, top, lora)
    for at, twin in enumerate((base, top, lora, base)):
        d.ask(twin, PROMPT[at:], max_tokens=5)
    d.finish()
    owners = {}
    for ref, route in d.engine.stats().routes.items():
        for key in route:
            owners.setdefault(segment_id(key), set()).add(str(ref))
    written = lines()
    assert {line["segment"] for line in written} == set(owners)
    for line in written:
        assert set(line["sequences"]) <= owners[line["segment"]]
    together = {line["segment"]: set(line["sequences"]) for line in written}
    shared = [segment for segment, models in owners.items() if len(models) > 1]
    assert together[segment_id(d.engine.stats().routes[ModelRef("top")][0])] == {"base", "top", "lora"}
    assert all(len(together[segment]) > 1 for segment in shared)
    (alone,) = [segment for segment, models in owners.items() if models == {"top"}]
    assert all(line["sequences"] == {"top": 1} for line in written if line["segment"] == alone)


def test_a_line_tells_time_place_rows_and_whose_sequences(logged, family):
    d, lines = logged
    base = family.base()
    d.load(base)
    for _ in range(2):
        d.ask(base, PROMPT, max_tokens=2)
    d.engine.step()
    key = d.engine.stats().routes[ModelRef("base")][0]
    first, last = "embed", "head"
    assert lines() == [
        {"time": 1234.5, "segment": segment_id(key), "first": first, "last": last, "blocks": len(key), "rows": 20,
         "sequences": {"base": 1}},
    ]  # fmt: skip
    d.engine.step()
    assert lines()[-1]["sequences"] == {"base": 2}


def test_rows_of_the_log_are_the_tokens_that_were_computed(logged, family):
    d, lines = logged
    base, lora = family.base(), family.lora("lora", seed=2)
    d.load(base, lora)
    for twin in (base, lora):
        d.ask(twin, PROMPT, max_tokens=7)
    d.finish()
    rows = {}
    for line in lines():
        rows[line["segment"]] = rows.get(line["segment"], 0) + line["rows"]
    assert len(rows) == 2
    assert set(rows.values()) == {2 * (len(PROMPT) + 6)}


def test_a_full_disk_ends_the_log_and_not_the_service(family, tmp_path, caplog):
    log = BatchLog(tmp_path / "log", lambda: 0.0)

    class Full:
        closed = False

        def write(self, text):
            raise OSError(errno.ENOSPC, "no space")

    log._file = Full()
    d = Desk(Engine(EngineConfig(), lambda: 0.0, log), family.bench)
    base = family.base()
    d.load(base)
    d.ask(base, PROMPT, max_tokens=3)
    with caplog.at_level(logging.WARNING):
        (tokens,) = d.finish().values()
    assert len(tokens) == 3
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "log"):
        with pytest.raises(BadInputError) as caught:
            language_servable({"zoo": str(tmp_path / "zoo"), "log_batches": str(path)})
        assert caught.value.where == str(path)
