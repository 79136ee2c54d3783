"""The start of a stitch: ridge regression over batches of hidden pairs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.serving.stitching.least_squares import ridge


def test_a_linear_relation_is_found_however_the_pairs_are_batched():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator) * torch.tensor([1.0, 5, 0.2, 3, 1, 1]) + 2
    true, shift = torch.randn(4, 6, generator=generator), torch.randn(4, generator=generator)
    y = x @ true.t() + shift
    for size in (400, 37, 1):
        weight, bias = ridge(zip(x.split(size), y.split(size), strict=True), penalty=1e-9)
        torch.testing.assert_close(weight, true, rtol=0, atol=1e-3)
        torch.testing.assert_close(bias, shift, rtol=0, atol=1e-2)


def test_a_direction_that_never_varies_does_no_harm():
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    x[:, 2] = 7.0
    y = x[:, :2] * 3 + 1
    weight, bias = ridge([(x, y)])
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(x @ weight.t() + bias, y, rtol=0, atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_no_small_change_of_the_map_fits_better(into, out, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(40, width, generator=generator, dtype=torch.float64) for width in (into, out))
    weight, bias = (t.double() for t in ridge([(x, y)], penalty=1e-12))

    def error(w, b):
        return float(((y - x @ w.t() - b) ** 2).sum())

    best = error(weight, bias)
    for _ in range(3):
        step = 1e-3 * torch.randn(out, into, generator=generator, dtype=torch.float64)
        shift = 1e-3 * torch.randn(out, generator=generator, dtype=torch.float64)
        assert error(weight + step, bias + shift) >= best - 1e-9
