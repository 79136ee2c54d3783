from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.core.traces import (
    TraceRequest,
    choose,
    compress_time,
    mean_rate,
    read_azure,
    read_gentd_popularity,
    read_mooncake,
    read_trace,
    scale_lengths,
    shares_of,
)

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:00,0,1"""


def azure(tmp_path, text):
    path = tmp_path / "azure.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mooncake(tmp_path, *rows):
    path = tmp_path / "mooncake.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def line(timestamp=0, input_length=1, output_length=1, **more):
    return {"timestamp": timestamp, "input_length": input_length, "output_length": output_length} | more


def test_azure_rows_become_requests_in_seconds_from_the_first(tmp_path):
    trace = read_azure(azure(tmp_path, AZURE))
    assert [(r.prompt_tokens, r.output_tokens) for r in trace] == [(374, 44), (396, 109), (0, 1)]
    assert [r.arrival for r in trace] == pytest.approx([0, 4.314579, 13.31941], abs=1e-6)


def test_line_ends_byte_order_mark_and_blank_lines_do_not_matter(tmp_path):
    plain = read_azure(azure(tmp_path, AZURE))
    assert read_azure(azure(tmp_path, b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n\r\n").encode())) == plain


def test_more_columns_in_another_order_do_not_matter(tmp_path):
    text = "x,GeneratedTokens,TIMESTAMP,ContextTokens\na,2,2023-11-16 18:15:46,1\n"
    assert read_azure(azure(tmp_path, text)) == (TraceRequest(0.0, 1, 2),)


def test_a_limit_reads_the_first_rows_and_looks_at_no_other(tmp_path):
    path = azure(tmp_path, AZURE + "\ngarbage")
    assert len(read_azure(path, limit=2)) == 2


def test_requests_come_in_the_order_of_their_arrival(tmp_path):
    trace = read_mooncake(mooncake(tmp_path, line(5000, 5), line(1000, 1), line(5000, 6)))
    assert [(r.arrival, r.prompt_tokens) for r in trace] == [(0.0, 1), (4.0, 5), (4.0, 6)]


def test_mooncake_lines_keep_their_prefix_blocks(tmp_path):
    trace = read_mooncake(mooncake(tmp_path, line(0, 600, 5, hash_ids=[0, 7]), "", line(27, 3, 4)))
    assert trace == (TraceRequest(0.0, 600, 5, (0, 7)), TraceRequest(0.027, 3, 4))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yesterday,1,2", "line 3: TIMESTAMP"),
        ("2023-02-30 00:00:00,1,2", "line 3: TIMESTAMP"),
        ("2023-11-16 18:15:46,-1,2", "line 3: ContextTokens"),
        ("2023-11-16 18:15:46,1,2.5", "line 3: GeneratedTokens"),
        ("2023-11-16 18:15:46,1,", "line 3: GeneratedTokens"),
        ("2023-11-16 18:15:46,1," + "9" * 400, "line 3: GeneratedTokens"),
        ("2023-11-16 18:15:46,1", "line 3: has 2 fields instead of 3"),
        ("2023-11-16 18:15:46,1,2,3", "line 3: has 4 fields instead of 3"),
        ('"2023', "line 3: is not CSV"),
        ("\0,1,2", "line 3"),
        ("x" * 200_000 + ",1,2", "line 3"),
    ],
)
def test_a_bad_azure_row_is_named(tmp_path, row, message):
    path = azure(tmp_path, "\n".join(AZURE.splitlines()[:2]) + "\n" + row)
    with pytest.raises(BadInputError, match=message) as caught:
        read_azure(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: is not JSON"),
        ("[" * 100_000, "line 2: is not JSON"),
        ("3", "line 2: is not an object"),
        (line(-1), "line 2: timestamp"),
        (line(True), "line 2: timestamp"),
        (line(1.5), "line 2: timestamp"),
        (line(0, "7"), "line 2: input_length"),
        (line(0, 1, 10**30), "line 2: output_length"),
        (line(hash_ids=[True]), "line 2: hash_ids"),
        (line(hash_ids=7), "line 2: hash_ids"),
        ({"timestamp": 0}, "line 2: input_length"),
    ],
)
def test_a_bad_mooncake_line_is_named(tmp_path, row, message):
    path = mooncake(tmp_path, line(), row)
    with pytest.raises(BadInputError, match=message) as caught:
        read_mooncake(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "TIMESTAMP,ContextTokens\n", "a,b\n1,2\n", AZURE.splitlines()[0]])
@pytest.mark.parametrize("read", [read_azure, read_gentd_popularity])
def test_a_file_without_the_columns_or_without_rows_is_refused(tmp_path, text, read):
    with pytest.raises(BadInputError, match=r"has no (column|requests)"):
        read(azure(tmp_path, text))


@pytest.mark.parametrize("read", [read_azure, read_mooncake, read_gentd_popularity])
def test_what_is_no_text_or_no_file_is_refused(tmp_path, read):
    with pytest.raises(BadInputError, match="line 1: is not UTF-8"):
        read(azure(tmp_path, b"\xff\xfe\x00"))
    with pytest.raises(BadInputError, match="cannot be read"):
        read(tmp_path / "none.csv")
    with pytest.raises(BadInputError, match="cannot be read"):
        read(tmp_path)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_a_trace_or_bad_input(tmp_path, content):
    for path in (azure(tmp_path, content), azure(tmp_path, AZURE.encode() + b"\n" + content)):
        for read in (read_azure, read_mooncake, read_gentd_popularity):
            refused = None
            try:
                assert len(read(path)) > 0
            except BadInputError as error:
                refused = error
            assert refused is None or str(refused).startswith(str(path))


def test_the_format_is_told_by_the_name(tmp_path):
    assert len(read_trace(azure(tmp_path, AZURE))) == 3
    assert len(read_trace(mooncake(tmp_path, line()))) == 1
    with pytest.raises(BadInputError, match=r"neither .csv"):
        read_trace(tmp_path / "trace.parquet")


def test_popularity_is_the_share_of_requests_that_name_a_model(tmp_path):
    text = "gmt_create,checkpoint_model_version_id\n" + "".join(f"t,{m}\n" for m in ["b", "a", "c", "c", "", "a", "c"])
    assert read_gentd_popularity(azure(tmp_path, text)) == (("c", 0.5), ("a", 1 / 3), ("b", 1 / 6))


requests = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 9000), st.integers(0, 900)), min_size=1).map(
    lambda rows: tuple(TraceRequest(*row) for row in sorted(rows))
)


@given(requests, st.floats(0.001, 10), st.integers(2, 4096))
def test_scaled_lengths_fit_and_leave_something_to_do(trace, factor, longest):
    for before, after in zip(trace, scale_lengths(trace, factor, longest=longest), strict=True):
        assert after.arrival == before.arrival
        assert min(after.prompt_tokens, after.output_tokens) >= 1
        assert after.prompt_tokens + after.output_tokens <= longest
        assert after.prompt_tokens <= max(round(before.prompt_tokens * factor), 1)


@given(requests, st.floats(0.01, 100))
def test_compressed_time_keeps_order_lengths_and_proportions(trace, factor):
    fast = compress_time(trace, factor)
    assert [r.arrival * factor for r in fast] == pytest.approx([r.arrival for r in trace])
    assert [r.prompt_tokens for r in fast] == [r.prompt_tokens for r in trace]


def test_compressing_time_multiplies_the_rate():
    trace = tuple(TraceRequest(float(n), 1, 1) for n in range(11))
    assert mean_rate(trace) == 1.0
    assert mean_rate(compress_time(trace, 4)) == pytest.approx(4.0)


@given(st.integers(1, 20), st.integers(0, 1000))
def test_every_application_gets_one_rank_and_the_same_seed_the_same(count, seed):
    apps = [f"app{n}" for n in range(count)]
    popularity = [(f"m{n}", 0.5**n) for n in range(25)]
    shares = shares_of(apps, popularity, seed=seed)
    assert set(shares) == set(apps)
    assert sum(shares.values()) == pytest.approx(1)
    total = sum(share for _, share in popularity[:count])
    assert sorted(shares.values(), reverse=True) == pytest.approx([s / total for _, s in popularity[:count]])
    assert shares_of(apps, popularity, seed=seed) == shares


def test_another_seed_deals_other_ranks():
    apps, popularity = [f"app{n}" for n in range(16)], [(f"m{n}", 0.5**n) for n in range(16)]
    favourites = {max(s, key=s.get) for s in (shares_of(apps, popularity, seed=seed) for seed in range(10))}
    assert len(favourites) > 3


def test_choices_follow_the_shares():
    drawn = Counter(choose({"a": 0.7, "b": 0.3, "c": 0.0}, 5000, seed=1))
    assert drawn["a"] / 5000 == pytest.approx(0.7, abs=0.03)
    assert "c" not in drawn
    assert choose({"a": 0.5, "b": 0.5}, 20, seed=3) == choose({"a": 0.5, "b": 0.5}, 20, seed=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: scale_lengths(t, 1.0, longest=1),
        lambda t: scale_lengths(t, 0.0, longest=9),
        lambda t: scale_lengths(t, float("nan"), longest=9),
        lambda t: compress_time(t, 0.0),
        lambda t: compress_time(t, float("inf")),
        mean_rate,
        lambda t: shares_of(["a", "b"], [("m", 1.0)], seed=0),
        lambda t: shares_of([], [("m", 1.0)], seed=0),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(BadInputError):
        call((TraceRequest(0.0, 1, 1),))


@pytest.mark.realdata
def test_the_real_traces_have_their_published_numbers(data_dir):
    traces = data_dir / "llm" / "traces"
    conv = read_azure(traces / "azure2023" / "AzureLLMInferenceTrace_conv.csv")
    code = read_trace(traces / "azure2023" / "AzureLLMInferenceTrace_code.csv")
    assert (len(conv), len(code)) == (19366, 8819)
    assert [mean_rate(conv), mean_rate(code)] == pytest.approx([5.53, 2.57], abs=0.01)
    chats = read_mooncake(traces / "mooncake_fast25" / "conversation_trace.jsonl")
    assert len(chats) == 12031
    seen, hits = set(), 0
    for request in chats:
        hits += sum(block in seen for block in request.prefix_blocks)
        seen.update(request.prefix_blocks)
    assert hits / sum(len(r.prefix_blocks) for r in chats) == pytest.approx(0.366, abs=0.001)


@pytest.mark.realdata
def test_few_models_take_most_of_the_real_requests(data_dir):
    popularity = read_gentd_popularity(data_dir / "llm" / "traces" / "gentd26" / "lora_request_trace.csv")
    shares = [share for _, share in popularity]
    assert len(shares) == 86
    assert [sum(shares[:n]) for n in (1, 5, 10)] == pytest.approx([0.307, 0.705, 0.867], abs=0.001)
    assert sum(shares) == pytest.approx(1)
