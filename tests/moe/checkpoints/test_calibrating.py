"""A checkpoint calibrated on a text: on one part, and verified on the other."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from tiny_sparse import build, outputs

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.moe import (
    Thresholds,
    TopK,
    adopt,
    calibrate,
    held_out,
    load_moe,
    read_thresholds,
    save_moe,
    sparse_blocks,
    upcycle,
)
from quiltwork.moe.checkpoints.calibrating import flops_per_token, measure_part
from quiltwork.moe.checkpoints.held_out import Part, encoder_of


def parts(seed=0, windows=6, length=10):
    made = torch.randint(3, 64, (2, windows, length), generator=torch.Generator().manual_seed(seed))
    return Part("calibration", "a", made[0]), Part("verification", "b", made[1])


@pytest.mark.parametrize("method", ["common", "greedy"])
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "olmoe"])
def test_the_loss_rises_by_no_more_than_it_may(kind, method):
    model = adopt(build(kind))
    given = parts(windows=24)
    found = calibrate(model, given, 0.1, method=method)
    ours = measure_part(model, given[0], 4).losses.mean()
    whole = measure_part(adopt(build(kind)), given[0], 4).losses.mean()
    assert ours <= whole * 1.1
    assert found.chosen.rise == pytest.approx(ours / whole - 1, abs=1e-6)
    assert found.chosen.mean < model.config.num_experts_per_tok
    assert set(found.thresholds.layers) == set(sparse_blocks(model))
    assert found.thresholds.most == model.config.num_experts_per_tok
    verified = measure_part(model, given[1], 4)
    assert found.verified.loss == pytest.approx(verified.losses.mean(), abs=1e-6)
    assert found.verified.experts == pytest.approx(verified.experts)
    assert found.holds == (found.verified.rise <= 0.1)
    most = (float(model.config.num_experts_per_tok),) * len(sparse_blocks(model))
    assert found.full_flops == flops_per_token(model, most)
    means = [point.mean for point in found.frontier]
    assert means == sorted(means)
    assert found.flops == pytest.approx([flops_per_token(model, point.experts) for point in found.frontier])


def test_experts_that_are_alike_need_no_second_one():
    found = calibrate(upcycle(build("llama"), 4, TopK(2)), parts(), 0.0001)
    assert found.chosen.mean == 1.0
    assert abs(found.verified.rise) < 1e-4


def test_only_the_calibration_part_is_chosen_by():
    one, other = (calibrate(adopt(build("mixtral")), (parts()[0], parts(seed)[1]), 0.02) for seed in (1, 2))
    assert one.thresholds.layers == other.thresholds.layers
    assert one.verified.loss != other.verified.loss


def test_flops_are_two_for_each_weight_that_a_token_passes():
    model = adopt(build("mixtral"))
    attention, experts, router, head = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48, 5 * 32, 64 * 32
    for count in (1.0, 1.5, 2.0):
        wanted = 2 * (2 * (attention + router + count * experts) + head)
        assert flops_per_token(model, (count, count)) == wanted
    tied = upcycle(build("llama-tied"), 5, TopK(2))
    assert flops_per_token(tied, (2.0, 2.0)) == 2 * (2 * (attention + router + 2 * experts) + head)
    gpt2 = upcycle(build("gpt2"), 5, TopK(2))
    assert flops_per_token(gpt2, (1.0, 1.0)) == 2 * (2 * (4 * 32 * 32 + router + 2 * 32 * 128) + head)


def test_thresholds_come_back_from_their_file_and_set_the_loader(tmp_path):
    model = adopt(build("mixtral"))
    found = calibrate(model, parts(), 0.02)
    found.thresholds.write(tmp_path / "thresholds.json")
    back = read_thresholds(tmp_path / "thresholds.json")
    assert back.gates() == found.thresholds.gates()
    save_moe(adopt(build("mixtral")), tmp_path / "model")
    torch.testing.assert_close(outputs(load_moe(tmp_path / "model", back.gates())), outputs(model))


def gated(second=None, x=None, **changes):
    """A document of two layers' gates, of which the first is another than it should be."""
    gates = {"0": {"gate": "Adaptive"} | changes, "1": second or {"gate": "Adaptive"}}
    return {"quiltwork_moe": {"gates": gates | ({} if x is None else {"x": x})}}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({}, "no file of thresholds"),
        ({"quiltwork_moe": {"gates": {}}}, "there are no gates"),
        (gated(x={}), "'x' is no index of a layer"),
        (gated(threshold="much"), "gates: 0: threshold: 'much'"),
        (gated(threshold=True), "gates: 0: threshold: True"),
        (gated(most=0), "gates: 0: most: must be at least 1"),
        (gated(reading="loud"), "gates: 0: reading: 'loud'"),
        (gated(weights=None), "gates: 0: weights: None"),
        (gated(gate="TopK", threshold=0.1), "gates: 0: threshold: TopK has no such setting"),
        ({"quiltwork_moe": {"gates": {"0": {"gate": "TopK"}}}}, "gates: 0: TopK has no threshold"),
        (gated({"gate": "Adaptive", "most": 3}), "gates: differ in more than their thresholds"),
    ],
)
def test_a_file_of_thresholds_that_is_none_is_refused(written, said, tmp_path):
    path = tmp_path / "thresholds.json"
    Thresholds({0: 0.1}, 2).write(path)
    path.write_text(json.dumps(written))
    with pytest.raises(BadInputError, match=said):
        read_thresholds(path)
    with pytest.raises(NotFoundError):
        read_thresholds(tmp_path / "nowhere.json")


def test_thresholds_of_another_model_are_refused(tmp_path):
    save_moe(adopt(build("mixtral")), tmp_path / "model")
    with pytest.raises(BadInputError, match="layer 7"):
        load_moe(tmp_path / "model", Thresholds({7: 0.1}, 2).gates())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"most_rise": -0.1}, "rise"),
        ({"most_rise": float("nan")}, "rise"),
        ({"most_rise": 1.5}, "rise"),
        ({"most": 1}, "nothing to choose"),
        ({"most": 6}, "6 of 5"),
        ({"method": "lucky"}, "lucky"),
        ({"reading": "loud"}, "loud"),
        ({"batch": 0}, "batch"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(BadInputError, match=said):
        calibrate(adopt(build("mixtral")), parts(), **changes)


def test_a_model_without_a_next_token_or_with_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(UnsupportedError, match="causal"):
        calibrate(upcycle(build("bert"), 4), parts())
    model = adopt(build("mixtral"))
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(BadInputError, match="not finite"):
        calibrate(model, parts())


def test_the_parts_share_no_character_and_say_which_they_have(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line-{i}\n" for i in range(100)))
    first, second = held_out(path, encoder_of("byte", 256), length=16, tokens=10**6)
    assert (first.name, second.name) == ("calibration", "verification")
    text = path.read_text()
    cut = text.rfind("\n", 0, len(text) // 2) + 1
    assert first.source == f"characters 0 to {cut} of text.txt"
    assert second.source == f"characters {cut} to {len(text)} of text.txt"
    assert bytes(first.windows.flatten().tolist()).decode() == text[: len(first.windows) * 16]
    assert bytes(second.windows.flatten().tolist()).decode() == text[cut : cut + len(second.windows) * 16]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b" \n ", "is empty"), (b"\xff\xfe", "line 1: is not UTF-8"), (b"too short", "64 are needed")],
)
def test_a_text_that_is_none_or_too_short_is_refused(content, said, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=said):
        held_out(path, encoder_of("byte", 256), length=16, tokens=10**6)


def test_a_packed_text_has_the_same_parts(tmp_path):
    text = "".join(f"line-{i}\n" for i in range(100)).encode()
    (tmp_path / "text.txt").write_bytes(text)
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(text))
    plain, packed = (
        held_out(tmp_path / name, encoder_of("byte", 256), length=16, tokens=10**6)
        for name in ("text.txt", "text.txt.gz")
    )
    assert all(torch.equal(one.windows, other.windows) for one, other in zip(plain, packed, strict=True))


def test_a_tokenizer_that_is_missing_or_another_models_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="no tokenizer"):
        encoder_of(tmp_path, 64)
    with pytest.raises(BadInputError, match="the token 97"):
        encoder_of("byte", 64)("a")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadInputError, match="cannot be loaded"):
        encoder_of(tmp_path, 64)
