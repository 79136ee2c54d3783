"""Measured block times: what the executors took, kept, and refused where a file is not what it should be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.layers.protocol import Placement
from quiltwork.serving.profiles.measure import Sizes, measure
from quiltwork.serving.profiles.measured import Measured, MeasuredBlock, document, read_measured, write_measured
from quiltwork.zoo import Zoo

MODELS = Path(__file__).resolve().parents[3] / "examples" / "models"
BLOCK = MeasuredBlock(((1, 0.001), (8, 0.002)), 1e-7, 1e-8, 100, 10, 8)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    opened = Zoo(tmp_path_factory.mktemp("zoo"))
    for name in ("base", "unittest-top2"):
        opened.add(MODELS / name)
    return opened


def test_every_block_of_every_model_of_a_family_is_covered_by_one_measured_model(zoo: Zoo) -> None:
    clock = itertools.count()
    chain = zoo.chain("base")
    sizes = Sizes(rows=(1, 2, 16), context=16, repeats=2, warmup=0)
    place = Placement(torch.device("cpu"), torch.float32)
    blocks = measure(chain, zoo.read, place, clock=lambda: float(next(clock)), sizes=sizes)
    assert sorted(name.split("-")[0] for name in blocks) == ["attn", "embed", "ffn", "head"]
    # A clock that ticks once per look: every batch took one tick, and a longer context took no more.
    assert {seconds for b in blocks.values() for _, seconds in b.rows} == {1.0}
    measured = Measured(blocks, {})
    for name in ("base", "unittest-top2"):
        links = zoo.chain(name).links
        whole = measured.segment(links)
        assert whole.rows.at(2) == len(links)
        assert whole.weight_bytes == sum(part.block.nbytes for part in links)
        assert whole.kv_bytes > 0


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    measured = Measured({"ffn-1": BLOCK}, {"threads": 1})
    write_measured(measured, tmp_path / "p.json")
    assert read_measured(tmp_path / "p.json") == measured


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("format",), "quiltwork.profile/9", "format"),
        (("blocks",), {}, "blocks"),
        (("blocks", "ffn-1"), 3, "blocks.ffn-1"),
        (("blocks", "ffn-1", "context_s"), -1, "blocks.ffn-1.context_s"),
        (("blocks", "ffn-1", "kv_bytes"), "many", "blocks.ffn-1.kv_bytes"),
        (("blocks", "ffn-1", "rows"), [], "blocks.ffn-1.rows"),
        (("blocks", "ffn-1", "rows"), [[8, 1.0], [1, 1.0]], "blocks.ffn-1.rows[1]"),
        (("blocks", "ffn-1", "rows"), [[1, float("nan")]], "blocks.ffn-1.rows[0]"),
    ],
)
def test_a_malformed_profile_is_refused_with_the_field(
    tmp_path: Path, path: tuple[str, ...], value: Any, named: str
) -> None:
    good = json.loads(json.dumps(document(Measured({"ffn-1": BLOCK}, {}))))
    at = good
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(good))
    with pytest.raises(BadInputError) as refused:
        read_measured(file)
    assert refused.value.where == f"{file}: {named}"


def test_a_missing_profile_and_an_unmeasured_block_are_named(tmp_path: Path, zoo: Zoo) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.json"):
        read_measured(tmp_path / "nowhere.json")
    with pytest.raises(NotFoundError, match="embed"):
        Measured({"ffn-1": BLOCK}, {}).segment(zoo.chain("base").links[:1])
