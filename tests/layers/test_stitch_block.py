"""A stitch is one linear map for the rows of any number of sequences, whatever its two widths."""

import pytest
import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers import Placement, Runs, stitch_executor

FP32 = Placement(torch.device("cpu"), torch.float32)


class Held:
    """``Weights`` over one block's tensors."""

    def __init__(self, tensors: dict[str, Tensor], placement: Placement = FP32) -> None:
        self.tensors = {role: tensor.to(placement.dtype) for role, tensor in tensors.items()}

    def get(self, role):
        return self.tensors.get(role)

    def prepared(self, key, roles, prepare):
        return prepare(*map(self.tensors.get, roles))


def runs_of(*counts: int) -> Runs:
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(n) for n in counts])
    return Runs(positions, starts, torch.tensor(counts, dtype=torch.int32))


def tensors(into: int, out: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(into * 100 + out)
    return {
        "linear.weight": torch.randn(out, into, generator=generator),
        "linear.bias": torch.randn(out, generator=generator),
    }


@pytest.mark.parametrize(("into", "out"), [(5, 7), (7, 5), (64, 64), (1, 3)])
@pytest.mark.parametrize("counts", [(1,), (1, 1, 1), (3, 17, 2), (40,)])
def test_rows_are_mapped_as_torch_maps_them(into, out, counts):
    held, runs = tensors(into, out), runs_of(*counts)
    block = stitch_executor({"input_size": into, "hidden_size": out}, Held(held), FP32)
    x = torch.randn(runs.rows, into)
    y = block(x, runs)
    assert y.is_contiguous()
    torch.testing.assert_close(y, x @ held["linear.weight"].t() + held["linear.bias"], rtol=0, atol=1e-5)
    assert block.nbytes == 4 * (into * out + out)


def test_it_may_have_no_bias():
    held = tensors(4, 6)
    del held["linear.bias"]
    block = stitch_executor({"input_size": 4, "hidden_size": 6}, Held(held), FP32)
    x = torch.randn(2, 4)
    torch.testing.assert_close(block(x, runs_of(1, 1)), x @ held["linear.weight"].t(), rtol=0, atol=1e-5)


def test_a_sequence_may_have_its_own_lora_on_it():
    held, runs = tensors(6, 4), runs_of(2, 3)
    block = stitch_executor({"input_size": 6, "hidden_size": 4}, Held(held), FP32)
    down, up = torch.randn(2, 6), torch.randn(4, 2)
    arch = {"targets": {"linear": {"r": 2, "scale": 0.5, "dora": False}}}
    own = block.attach([("lora", arch, {"linear.lora_A": down, "linear.lora_B": up})])
    x = torch.randn(5, 6)
    y = block(x, runs, None, block.gather([None, own], [1.0, 1.0], runs))
    plain = x @ held["linear.weight"].t() + held["linear.bias"]
    torch.testing.assert_close(y[:2], plain[:2], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[2:], plain[2:] + 0.5 * x[2:] @ down.t() @ up.t(), rtol=0, atol=1e-5)


def test_half_precision_is_the_same_map():
    placement, held = Placement(torch.device("cpu"), torch.bfloat16), tensors(16, 8)
    block = stitch_executor({"input_size": 16, "hidden_size": 8}, Held(held, placement), placement)
    x = torch.randn(3, 16)
    y = block(x.bfloat16(), runs_of(3))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), x @ held["linear.weight"].t() + held["linear.bias"], rtol=0, atol=0.2)


def test_what_it_cannot_do_is_named():
    with pytest.raises(UnsupportedError, match=r"arch\.position_input"):
        stitch_executor({"input_size": 4, "hidden_size": 6, "position_input": True}, Held(tensors(4, 6)), FP32)
    with pytest.raises(BadInputError, match=r"linear\.weight: has shape"):
        stitch_executor({"input_size": 5, "hidden_size": 6}, Held(tensors(4, 6)), FP32)
    with pytest.raises(BadInputError, match=r"arch\.input_size"):
        stitch_executor({"hidden_size": 6}, Held(tensors(4, 6)), FP32)
