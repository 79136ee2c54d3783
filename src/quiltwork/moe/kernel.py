"""The kernel of a layer: gather rows, two matrices for each expert, combine by weight; and its gradient.

One expert after another, so that what lies between its matrices stays in the processor's cache. There is no padding
and no mask: exactly M rows enter the matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quiltwork.layers.compiled import compilable
from quiltwork.moe.nonlinearity import nonlinearity
from quiltwork.moe.routing import Routing
from quiltwork.moe.rows import CompiledRows, Rows, TorchRows


def run_experts(
    x: Tensor,
    routing: Routing,
    up: Tensor,
    down: Tensor,
    *,
    activation: str,
    gated: bool,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> Tensor:
    """x : (T, D), up : (E, H or 2H, D), down : (E, D, H), biases (E, H or 2H), (E, D), all of one dtype -> (T, D).

    Sums over a token's experts are in float32 where the dtype is narrower. On a CPU the same call gives the same bits.
    Experts without rows get gradients of zeros.
    """
    rest = routing.token, routing.offsets, activation, gated
    found = _Experts.apply(x.contiguous(), routing.weight, up, down, up_bias, down_bias, *rest)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        up: Tensor,
        down: Tensor,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
        token: Tensor,
        offsets: Tensor,
        activation: str,
        gated: bool,
    ) -> Tensor:
        rows, bounds = _rows_for(x), offsets.tolist()
        between = nonlinearity(activation, gated, compiled=isinstance(rows, CompiledRows))
        largest, kept = _largest(bounds), any(ctx.needs_input_grad)
        y = torch.zeros(x.shape, dtype=_sum_dtype(x), device=x.device)
        raised = x.new_empty(len(token) if kept else largest, up.shape[1])
        hidden, gathered = x.new_empty(largest, down.shape[2]), x.new_empty(largest, x.shape[1])
        v_x, v_y, v_token, v_weight, v_raised, v_hidden, v_gathered = map(
            rows.view, (x, y, token, weight, raised, hidden, gathered)
        )
        ups, downs = up.transpose(1, 2).unbind(0), down.transpose(1, 2).unbind(0)
        for e, (start, end) in enumerate(pairwise(bounds)):
            if (n := end - start) == 0:
                continue
            here = slice(start, end) if kept else slice(0, n)
            rows.take(v_x, v_token[start:end], v_gathered[:n])
            _linear(gathered[:n], ups[e], up_bias, e, raised[here])
            between.forward(v_raised[here], v_hidden[:n])
            _linear(hidden[:n], downs[e], down_bias, e, gathered[:n])
            rows.add_weighted(v_y, v_token[start:end], v_gathered[:n], v_weight[start:end])
        ctx.save_for_backward(x, weight, up, down, up_bias, down_bias, token, raised)
        ctx.rows, ctx.between, ctx.bounds = rows, between, bounds
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, up, down, up_bias, down_bias, token, raised = ctx.saved_tensors
        rows, between, largest = ctx.rows, ctx.between, _largest(ctx.bounds)
        d_x = torch.zeros(x.shape, dtype=_sum_dtype(x), device=x.device)
        d_weight, d_up, d_down = torch.empty_like(weight), torch.empty_like(up), torch.empty_like(down)
        d_up_bias = None if up_bias is None else torch.zeros_like(up_bias)
        d_down_bias = None if down_bias is None else torch.zeros_like(down_bias)
        back, d_raised = x.new_empty(largest, down.shape[2]), x.new_empty(largest, up.shape[1])
        gathered = x.new_empty(largest, x.shape[1])
        v_x, v_grad, v_d_x, v_token, v_weight, v_d_weight, v_raised, v_back, v_d_raised, v_gathered = map(
            rows.view, (x, grad.contiguous(), d_x, token, weight, d_weight, raised, back, d_raised, gathered)
        )
        ups, downs, d_ups, d_downs = (each.unbind(0) for each in (up.detach(), down.detach(), d_up, d_down))
        for e, (start, end) in enumerate(pairwise(ctx.bounds)):
            if (n := end - start) == 0:
                d_ups[e].zero_()
                d_downs[e].zero_()
                continue
            at = slice(start, end)
            g, d_r = gathered[:n], d_raised[:n]
            rows.take(v_grad, v_token[at], v_gathered[:n])
            torch.mm(g, downs[e], out=back[:n])
            between.backward(v_raised[at], v_back[:n], v_weight[at], v_d_raised[:n], v_d_weight[at])
            torch.mm(g.t(), back[:n], out=d_downs[e])
            if d_down_bias is not None:
                d_down_bias[e] = weight[at].to(g.dtype) @ g
                d_weight[at] += (g @ down_bias[e]).to(d_weight.dtype)
            if d_up_bias is not None:
                d_up_bias[e] = d_r.sum(0)
            rows.take(v_x, v_token[at], v_gathered[:n])
            torch.mm(d_r.t(), gathered[:n], out=d_ups[e])
            torch.mm(d_r, ups[e], out=gathered[:n])
            rows.add(v_d_x, v_token[at], v_gathered[:n])
        return d_x.to(x.dtype), d_weight, d_up, d_down, d_up_bias, d_down_bias, None, None, None, None


def _rows_for(x: Tensor) -> Rows:
    return CompiledRows() if compilable(x) else TorchRows()


def _sum_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == torch.float64 else torch.float32


def _largest(bounds: Sequence[int]) -> int:
    return max(end - start for start, end in pairwise(bounds))


def _linear(rows: Tensor, matrix: Tensor, bias: Tensor | None, expert: int, out: Tensor) -> None:
    """out (n, B) = rows (n, A) @ matrix (A, B) + bias[expert]."""
    if bias is None:
        torch.mm(rows, matrix, out=out)
    else:
        torch.addmm(bias[expert], rows, matrix, out=out)
