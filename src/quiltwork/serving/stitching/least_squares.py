"""The linear map that a stitch starts from: ridge regression from one model's hidden states to another's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

RIDGE = 1e-4
"""Weight of the penalty, in mean variances of the inputs."""


def ridge(pairs: Iterable[tuple[Tensor, Tensor]], penalty: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Weight (d_b, d_a) and bias (d_b,) that minimise ``|y - W x - b|^2 + penalty * v |W|^2``.

    pairs : batches of x (n, d_a) and y (n, d_b), seen once each; only their second moments are kept, in float64.
    ``v`` is the mean variance of the inputs; the bias is not penalised.
    """
    count, xs, ys, xx, xy = 0, None, None, None, None
    for x_batch, y_batch in pairs:
        x, y = x_batch.double(), y_batch.double()
        if xs is None:
            xs, ys = x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1])
            xx, xy = x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(x.shape[1], y.shape[1])
        assert ys is not None
        assert xx is not None
        assert xy is not None
        count += x.shape[0]
        xs += x.sum(0)
        ys += y.sum(0)
        xx += x.t() @ x
        xy += x.t() @ y
    if xs is None or ys is None or xx is None or xy is None:
        raise ValueError("no pairs to fit")
    mean_x, mean_y = xs / count, ys / count
    covariance = xx / count - torch.outer(mean_x, mean_x)
    cross = xy / count - torch.outer(mean_x, mean_y)
    floor = penalty * float(covariance.diagonal().mean()) + 1e-12
    weight = torch.linalg.solve(covariance + floor * torch.eye(len(mean_x), dtype=xx.dtype, device=xx.device), cross)
    return weight.t().float().contiguous(), (mean_y - weight.t() @ mean_x).float()
