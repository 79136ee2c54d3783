"""What the agents' batches held can be read in the front's log and among its metrics."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
from agent_fleet import PROMPT, Fleet, assert_greedy

from quiltwork.gateway.measure import prometheus_page
from quiltwork.serving.agents.batches import Notes, executed
from quiltwork.serving.agents.figures import samples
from quiltwork.serving.agents.message import Batches, from_bytes, to_bytes
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.execute import BatchRecord
from quiltwork.zoo.segments import segment_id


@pytest.fixture
def logged(family, tmp_path):
    """Two agents whose batches are logged, and what ends them and reads the log."""
    path = tmp_path / "batches.jsonl"
    log = BatchLog(path, lambda: 1000.0)
    f = Fleet(family, agents=2, settings=AgentSettings(log_batches=True, rebalance_s=0.0), log=log)
    closed = []

    def close():
        if not closed:
            closed.append(True)
            f.engine.close()
            log.close()
        return [json.loads(line) for line in path.read_text().splitlines()]

    yield f, close
    close()


def test_two_apps_that_share_an_ffn_ride_in_one_batch_of_it_on_the_agent_that_holds_it(logged, family):
    f, read = logged
    base, other = family.base(), family.changed("other", "layers.2.self_attn", seed=3)
    f.load(base, other)
    for twin in (base, other):
        f.spread(twin, "a0", "a1")
    route = dict(zip(f.engine.holdings.models[base.chain.model.ref].route, f.holders(base), strict=True))
    asked = {f.ask(twin, PROMPT[i:], 16): (twin, PROMPT[i:]) for i, twin in enumerate([base, other] * 3)}
    answers = f.finish()
    for id, (twin, prompt) in asked.items():
        assert_greedy(twin, prompt, answers[id])
    lines = read()

    (shared,) = [key for key in route if key[0] == base.chain.links[6].block.id]
    assert base.chain.links[6].name == "layers.2.ffn"
    at_ffn = [line for line in lines if line["segment"] == segment_id(shared)]
    assert {(line["agent"], line["first"]) for line in at_ffn} == {(route[shared][0], "layers.2.ffn")}
    assert any(set(line["sequences"]) == {"base", "other"} for line in at_ffn), "both in one executed batch"

    apart = {segment_id(key) for key in f.engine.holdings.models[other.chain.model.ref].route} - {
        segment_id(key) for key in route
    }
    assert apart
    assert all(set(line["sequences"]) == {"other"} for line in lines if line["segment"] in apart)


def test_every_row_that_was_computed_is_in_the_log_once(logged, fleet):
    f, read = logged
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.spread(fleet[name], "a0", "a1")
        f.ask(fleet[name], PROMPT, 7)
    f.finish()
    rows, sequences = {}, {}
    for line in read():
        rows[line["segment"]] = rows.get(line["segment"], 0) + line["rows"]
        for model, count in line["sequences"].items():
            sequences[line["segment"], model] = sequences.get((line["segment"], model), 0) + count
    lower, *_ = (segment_id(key) for key in f.engine.holdings.models[fleet["base"].chain.model.ref].route)
    each = len(PROMPT) + 6
    assert rows[lower] == 2 * each
    assert all(rows[segment] % each == 0 for segment in rows)
    assert sequences[lower, "base"] == sequences[lower, "top1"] == 7


def test_queues_of_every_agent_and_segment_move_on_the_metrics_page(make, fleet):
    f = make(agents=2, settings=AgentSettings(rebalance_s=0.0))
    f.load(fleet["base"], fleet["top1"])
    for name in ("base", "top1"):
        f.spread(fleet[name], "a0", "a1")
    where = {
        (holders[0], segment_id(key))
        for name in ("base", "top1")
        for key, holders in zip(
            f.engine.holdings.models[fleet[name].chain.model.ref].route, f.holders(fleet[name]), strict=True
        )
    }

    def page(name):
        beats = {agent: f.crew.agents[agent].beat() for agent in f.crew.names}
        return {
            (s.labels["agent"], s.labels["segment"]): s.value
            for s in samples(beats)
            if s.name == f"quiltwork:agent_segment_{name}"
        }

    assert page("rows_total") == {}
    for i in range(6):
        f.ask(fleet["base" if i % 2 else "top1"], PROMPT[i:], 8)
    f.finish()
    first = page("rows_total")
    assert set(first) == where
    assert all(first.values())
    f.ask(fleet["base"], PROMPT[1:], 8)
    f.finish()
    more = page("rows_total")
    moved = {place for place in where if more[place] > first[place]}
    assert {segment for _, segment in moved} == {
        segment_id(key) for key in f.engine.holdings.models[fleet["base"].chain.model.ref].route
    }
    text = prometheus_page(f.engine.samples()).decode()
    assert 'quiltwork:agent_up{agent="a0"} 1.0' in text
    assert "quiltwork:agent_segment_wait_p95_seconds{" in text


def test_an_agent_that_is_gone_is_shown_as_such():
    text = prometheus_page(samples({"a0": None})).decode()
    assert 'quiltwork:agent_up{agent="a0"} 0.0' in text
    assert "queue" not in text


def segment(*names):
    return SimpleNamespace(key=names, links=[SimpleNamespace(name=name) for name in names])


def works(*models):
    return [SimpleNamespace(seq=SimpleNamespace(model=model)) for model in models]


def test_a_letter_of_batches_arrives_as_it_was_noted():
    clock = itertools.count(10)
    notes = Notes("a1", lambda: float(next(clock)))
    assert notes.letter() is None
    notes.watch(segment("embed", "ffn"), works("m", "n", "m"), BatchRecord(2, 9, 3, 2))
    notes.watch(segment("head"), works("n"), BatchRecord(1, 4, 1, 1))
    letter = from_bytes(to_bytes(notes.letter()))
    assert isinstance(letter, Batches)
    first, second = executed(letter)
    assert (first.agent, first.first, first.last, first.blocks, first.rows) == ("a1", "embed", "ffn", 2, 9)
    assert first.segment == segment_id(("embed", "ffn"))
    assert first.sequences == {"m": 2, "n": 1}
    assert (second.sequences, second.rows) == ({"n": 1}, 4)
    assert (first.before_s, second.before_s) == (2.0, 1.0)
    assert notes.letter() is None


def test_what_does_not_fit_is_counted_and_said(tmp_path):
    notes = Notes("a0", lambda: 0.0, most=3)
    for rows in range(1, 6):
        notes.watch(segment("head"), works("m"), BatchRecord(1, rows, 1, 1))
    letter = notes.letter()
    assert [batch.rows for batch in executed(letter)] == [3, 4, 5]
    assert letter.left_out == 2
    notes.watch(segment("head"), works("m"), BatchRecord(1, 1, 1, 1))
    assert notes.letter().left_out == 0
    log = BatchLog(tmp_path / "log", lambda: 7.0)
    log.append(executed(letter))
    log.left_out("a0", letter.left_out)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line.get("rows") for line in lines] == [3, 4, 5, None]
    assert lines[-1] == {"time": 7.0, "agent": "a0", "left_out": 2}
