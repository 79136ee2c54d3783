from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.core.bench import Claim, at_most, judge, read, write
from quiltwork.core.errors import BadInputError


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    kept = record(rows=({"a": 1, "b": [1.5, None]},), details={"n": {"m": True}}, answers_equal=True)
    path = write(tmp_path / "records", kept)
    assert path.name == "room.speed.json"
    assert read(path) == kept
    assert [p.name for p in path.parent.iterdir()] == ["room.speed.json"]


def test_a_record_tells_people_its_ratio_interval_and_verdict(record, tmp_path):
    kept = record()
    document = json.loads(write(tmp_path, kept).read_text())
    verdict = judge(kept.claim, kept.outcome)
    assert document["ratio"] == pytest.approx(3.0) == verdict.ratio
    assert document["interval"] == [verdict.interval.low, verdict.interval.high]
    assert document["met"] is True


def test_a_missed_claim_is_recorded_as_missed(record, tmp_path):
    document = json.loads(write(tmp_path, record(ours=[2.0], baseline=[3.0])).read_text())
    assert (document["met"], document["why"]) == (False, "1.5x does not reach ≥ 2x")


def test_a_quick_run_never_takes_a_full_ones_place(record, tmp_path):
    path = write(tmp_path, record())
    before = path.read_bytes()
    with pytest.raises(BadInputError, match="quick run is not kept"):
        write(tmp_path, record(quick=True))
    assert path.read_bytes() == before


@pytest.mark.parametrize("details", [{"x": object()}, {"x": float("nan")}, {"x": {1, 2}}])
def test_what_is_not_json_is_refused_and_leaves_the_old_record(record, tmp_path, details):
    path = write(tmp_path, record())
    before = path.read_bytes()
    with pytest.raises(BadInputError, match=r"room\.speed: details or rows are not JSON"):
        write(tmp_path, record(details=details))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_claim_keeps_its_direction_and_unit(record, tmp_path):
    other = Claim("zoo.bytes", "zoo", "t", at_most(0.45), "ours/baseline", "bytes", parity=True)
    assert read(write(tmp_path, record(other, ours=[4], baseline=[10]))).claim == other


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, "schema"),
        (["schema"], "1", "schema: is not of type int"),
        (["claim"], [], "claim: is not of type dict"),
        (["claim", "ratio"], "up", "ratio"),
        (["claim", "reach", "at"], "about", "reach"),
        (["claim", "reach", "value"], True, "value"),
        (["claim", "name"], "../../etc", "claim"),
        (["outcome", "ours"], [], "no samples"),
        (["outcome", "ours"], ["1"], "ours: is not a list of numbers"),
        (["outcome", "ours"], [float("nan")], "finite"),
        (["outcome", "baseline"], [0], "not positive"),
        (["outcome", "answers_equal"], "yes", "answers_equal"),
        (["outcome", "rows"], [1], "rows"),
        (["quick"], None, "quick"),
        (["seconds"], float("inf"), "seconds"),
        (["machine"], "fast", "machine"),
    ],
)
def test_a_damaged_record_names_file_and_field(record, tmp_path, path, value, message):
    document = record().document()
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    with pytest.raises(BadInputError, match=message) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))


def test_every_field_is_needed(record, tmp_path):
    whole = record().document()
    file = tmp_path / "bad.json"
    for name in set(whole) - {"ratio", "interval", "met", "why"}:
        document = copy.deepcopy(whole)
        del document[name]
        file.write_text(json.dumps(document))
        with pytest.raises(BadInputError, match=f"{name}: is missing"):
            read(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}'])
def test_what_is_no_record_is_refused(tmp_path, content):
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(BadInputError, match=r"bad\.json"):
        read(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_change_to_a_record_is_read_or_refused(record, tmp_path, data):
    document = json.loads(json.dumps(record().document()))
    inner = document
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(json_values)
    file = tmp_path / "fuzzed.json"
    file.write_text(json.dumps(document))
    refused = None
    try:
        read(file)
    except BadInputError as error:
        refused = error
    assert refused is None or str(refused).startswith(str(file))
