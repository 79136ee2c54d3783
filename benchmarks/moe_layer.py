"""What a layer costs where most tokens need one expert only, against two for all, in the same kernel."""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.servable import Json

NAME = "moe.layer_adaptive"
CLAIMS = (
    Claim(name=NAME, room="moe", title="MoE layer at 80 % single-expert tokens vs top-2 in the same kernel, forward "
          "and backward, (T, D, H, E) = (2048, 128, 512, 16)",
          reach=at_most(0.65), ratio="ours/baseline", unit="CPU-s per step"),
)  # fmt: skip
SINGLE = 0.8
THREADS = 1


def run(context: Context) -> Mapping[str, Outcome]:
    """Router, gate, experts and combination; whole layers, in turn. One thread: ratios of processor time."""
    from work.moe_layers import Size, threads

    rounds = 5 if context.quick else 50
    with threads(THREADS):
        claimed, rows = _shape(context, Size(2048, 128, 512, 16), rounds)
        _, more = _shape(context, Size(1024, 256, 1024, 8), rounds)
    ours, baseline = claimed
    details: dict[str, Json] = {"threads": THREADS, "rounds": rounds, "experts": "ReLU, float32, no bias"}
    return {NAME: Outcome(ours, baseline, details=details, rows=[*rows, *more])}


def _shape(context: Context, size, rounds: int):  # type: ignore[no-untyped-def]
    """Samples of adaptive and of top-2, and rows of the table."""
    import torch

    from quiltwork.moe import Adaptive, Experts, Gate, MoELayer, TopK
    from quiltwork.moe.gates import gaps_of
    from work.moe_layers import Steps, initialise, milliseconds, timed

    generator = torch.Generator().manual_seed(context.seed)
    x, grad = (torch.randn(size.tokens, size.width, generator=generator) for _ in range(2))
    experts = Experts(size.experts, size.width, size.inner, gated=False, activation="relu")
    layers = {name: MoELayer(experts, TopK(2)) for name in ("adaptive", "top-1", "50 % single", "20 % single", "top-2")}
    for layer in layers.values():
        initialise(layer, context.seed)
    router = layers["top-2"].router
    best = torch.softmax(x @ router.detach().t(), -1).topk(2).values
    gaps = gaps_of(best, "softmax")[:, 1]
    at: dict[str, Gate] = {
        "adaptive": Adaptive(float(gaps.quantile(1 - SINGLE))),
        "top-1": TopK(1),
        "50 % single": Adaptive(float(gaps.quantile(0.5))),
        "20 % single": Adaptive(float(gaps.quantile(0.8))),
        "top-2": TopK(2),
    }
    entered, times = {}, 4
    for name, layer in layers.items():
        layer.gate = at[name]
        entered[name] = len(layer(x)[1].token)
    arms = {name: Steps(layer, lambda x, layer=layer: layer(x)[0], x, grad, times) for name, layer in layers.items()}
    samples = timed(context, arms, rounds)
    rows = []
    whole = milliseconds(samples["top-2"][0], times)
    for name, (both, forward) in samples.items():
        cost = milliseconds(both, times)
        rows.append({
            "(T, D, H, E)": str(size), "gate": name, "rows into the GEMMs": entered[name],
            "FLOP ratio": round(entered[name] / entered["top-2"], 3), "forward CPU-ms": milliseconds(forward, times),
            "forward+backward CPU-ms": cost, "of top-2": round(cost / whole, 3),
        })  # fmt: skip
    cpu = {name: [sample.cpu_s / times for sample in both] for name, (both, _) in samples.items()}
    return (cpu["adaptive"], cpu["top-2"]), rows
