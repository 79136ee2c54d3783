"""Published operator and link times, read as they are, and refused where they are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.serving.profiles.accelerator import A100, Accelerator, Span, span_profile
from quiltwork.serving.profiles.vidur import ATTENTION, EMBED, FFN, OPERATORS, read_link, read_operators

COLUMNS = [
    *(f"time_stats.{name}.median" for name in OPERATORS),
    "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size", "use_gated_mlp", "num_tokens",
    "num_tensor_parallel_workers",
]  # fmt: skip


def line(tokens: int, milliseconds: float = 1.0, parallel: int = 1, **changes: str) -> dict[str, str]:
    values = dict.fromkeys(COLUMNS, str(milliseconds))
    values |= {"n_head": "4", "n_kv_head": "2", "n_embd": "64", "n_expanded_embd": "128", "vocab_size": "512"}
    values |= {"use_gated_mlp": "True", "num_tokens": str(tokens), "num_tensor_parallel_workers": str(parallel)}
    return values | changes


def table(path: Path, *lines: dict[str, str], without: str = "") -> Path:
    kept = [c for c in COLUMNS if c != without]
    rows = [",".join(kept), *(",".join(row[c] for c in kept) for row in lines)]
    path.write_text("\n".join(rows))
    return path


@pytest.mark.realdata
def test_64_decoding_tokens_cost_hardly_more_than_one(data_dir: Path) -> None:
    times = read_operators(data_dir / "llm/profiles/vidur/compute/a100/Llama-2-7b-hf.mlp.csv")
    ffn = times.together(FFN)
    assert ffn.at(64) / ffn.at(1) == pytest.approx(1.05, abs=0.01)
    assert ffn.at(2048) / ffn.at(1) > 10
    assert (times.heads, times.width, times.ffn_width) == (32, 4096, 11008)


@pytest.mark.realdata
@pytest.mark.parametrize(("model", "layers", "gigabytes"), [("Llama-2-7b-hf", 32, 13.5), ("internlm-20b", 60, 40.2)])
def test_a_whole_model_weighs_what_it_is_known_to(data_dir: Path, model: str, layers: int, gigabytes: float) -> None:
    times = read_operators(data_dir / f"llm/profiles/vidur/compute/a100/{model}.mlp.csv")
    whole = span_profile(times, A100, Span(layers, embed=True, head=True))
    assert whole.weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert whole.kv_bytes == layers * 4 * times.width


@pytest.mark.realdata
def test_cut_anywhere_the_parts_cost_what_the_whole_costs(data_dir: Path) -> None:
    times = read_operators(data_dir / "llm/profiles/vidur/compute/a100/Llama-2-7b-hf.mlp.csv")
    whole = span_profile(times, A100, Span(32, embed=True, head=True))
    parts = [span_profile(times, A100, Span(24, embed=True)), span_profile(times, A100, Span(8, head=True))]
    for rows, context in ((1, 900.0), (48, 40_000.0), (512, 0.0)):
        assert sum(p.batch_s(rows, context) for p in parts) == pytest.approx(whole.batch_s(rows, context))
    assert sum(p.weight_bytes for p in parts) == whole.weight_bytes


@pytest.mark.realdata
def test_every_table_of_a_device_and_every_link_can_be_read(data_dir: Path) -> None:
    tables = sorted((data_dir / "llm/profiles/vidur/compute").glob("*/*.mlp.csv"))
    assert len(tables) == 16
    for path in tables:
        times = read_operators(path)
        assert times.together(ATTENTION).at(1) > 0
        assert times.together(EMBED).at(4096) > 0
    inside = read_link(data_dir / "llm/profiles/vidur/network/a100_dgx/send_recv.csv", inside=True)
    between = read_link(data_dir / "llm/profiles/vidur/network/a100_dgx/send_recv.csv", inside=False)
    assert between.bytes_per_s == pytest.approx(7.8e9, rel=0.02)
    assert inside.bytes_per_s > 20 * between.bytes_per_s
    assert between.seconds(2048) == pytest.approx(24e-6)
    assert between.seconds(10e9) == pytest.approx(10e9 / between.bytes_per_s, rel=0.01)


def test_lines_of_another_parallel_width_are_left_out_and_repeats_are_one_median(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", line(1), line(8, 2.0), line(8, 4.0), line(8, 9.0), line(8, 90.0, parallel=2))
    assert read_operators(path).operators["emb"].at(8) == pytest.approx(4e-3)


def test_beyond_what_was_measured_time_grows_with_the_tokens(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", line(1, 1.0), line(100, 2.0))
    assert read_operators(path).operators["emb"].at(300) == pytest.approx(6e-3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_tokens": "many"}, "line 3: num_tokens"),
        ({"num_tokens": "0"}, "line 3: num_tokens"),
        ({"time_stats.mlp_act.median": ""}, "line 3: time_stats.mlp_act.median"),
        ({"time_stats.emb.median": "-1"}, "line 3: time_stats.emb.median"),
        ({"n_embd": "128"}, "line 3"),
    ],
)
def test_a_malformed_table_is_refused_with_the_line_and_the_column(
    tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    path = table(tmp_path / "bad.csv", line(1), line(8, **changes))
    with pytest.raises(BadInputError) as refused:
        read_operators(path)
    assert refused.value.where is not None
    assert refused.value.where.startswith(f"{path}: {named}")


def test_a_missing_column_file_or_width_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="mlp_up_proj"):
        read_operators(table(tmp_path / "bad.csv", line(1), without="time_stats.mlp_up_proj.median"))
    with pytest.raises(NotFoundError, match=r"nowhere\.csv"):
        read_operators(tmp_path / "nowhere.csv")
    with pytest.raises(BadInputError, match="width 4"):
        read_operators(table(tmp_path / "one.csv", line(1)), parallel=4)


def test_a_model_with_one_norm_for_both_blocks_is_read(tmp_path: Path) -> None:
    name = "time_stats.post_attention_layernorm.median"
    times = read_operators(table(tmp_path / "a.csv", line(1), line(8), without=name))
    assert times.operators["post_attention_layernorm"].at(8) == 0


def test_links_without_the_asked_kind_or_without_a_rise_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "send_recv.csv"
    path.write_text("time_stats.send_recv.median,size,devices_per_node\n0.01,2048,1\n0.01,4096,1\n")
    with pytest.raises(BadInputError, match="inside a server"):
        read_link(path, inside=True)
    with pytest.raises(BadInputError, match="not slower"):
        read_link(path, inside=False)


def test_an_accelerator_out_of_range_and_an_empty_span_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="memory_share"):
        Accelerator("x", 1, 1, 1, memory_share=1.5)
    with pytest.raises(BadInputError, match="flops"):
        Accelerator("x", 1, 1, 0)
    with pytest.raises(BadInputError, match="no blocks"):
        span_profile(read_operators(table(tmp_path / "a.csv", line(1))), A100, Span(0))
