"""A Mixtral block of experts, with its own weights, in our layer and in transformers' two implementations."""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.servable import Json

EAGER, GROUPED = "moe.mixtral_vs_eager", "moe.mixtral_vs_grouped_mm"
_TITLE = "Mixtral's block of experts vs transformers' {}: top-2, SwiGLU, (T, D, H, E) = (1024, 128, 512, 16)"
CLAIMS = (
    Claim(name=EAGER, room="moe", title=_TITLE.format("eager"), reach=at_least(3.0), ratio="baseline/ours",
          unit="CPU-s per forward and backward"),
    Claim(name=GROUPED, room="moe", title=_TITLE.format("grouped_mm"), reach=at_least(1.5), ratio="baseline/ours",
          unit="CPU-s per forward and backward"),
)  # fmt: skip
NEAR = 1e-5
"""How far an output or a gradient may be off, of the largest."""
TIMES = 3


def run(context: Context) -> Mapping[str, Outcome]:
    """The claims are of one thread, at which all three take the least processor time; two threads stand in the rows."""
    from work.moe_layers import Size, milliseconds, threads, timed

    size, rounds = Size(1024, 128, 512, 16), 4 if context.quick else 25
    arms, off = _arms(context, size)
    rows: list[dict[str, Json]] = []
    cpu: dict[int, dict[str, list[float]]] = {}
    for count in (1, 2):
        with threads(count):
            samples = timed(context, arms, rounds if count == 1 else max(3, rounds // 3))
        cpu[count] = {name: [sample.cpu_s / TIMES for sample in both] for name, (both, _) in samples.items()}
        rows += [
            {
                "threads": count,
                "implementation": name,
                "forward CPU-ms": milliseconds(forward, TIMES),
                "forward+backward CPU-ms": milliseconds(both, TIMES),
                "forward+backward wall ms": round(1e3 * sorted(s.wall_s for s in both)[len(both) // 2] / TIMES, 2),
                "off by": f"{off[name]:.1e}",
            }
            for name, (both, forward) in samples.items()
        ]
    equal = max(off.values()) <= NEAR
    details: dict[str, Json] = {"off by": dict(off), "rows into the GEMMs": 2 * size.tokens, "rounds": rounds}
    return {
        claim: Outcome(cpu[1]["ours"], cpu[1][name], answers_equal=equal, details=details, rows=rows)
        for claim, name in ((EAGER, "eager"), (GROUPED, "grouped_mm"))
    }


def _arms(context: Context, size):  # type: ignore[no-untyped-def]
    """The three layers on the same weights, and by how much outputs and gradients are off those of ``eager``."""
    import torch
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    from quiltwork.moe import Experts, MoELayer, TopK
    from work.moe_layers import Steps, initialise

    generator = torch.Generator().manual_seed(context.seed)
    x, grad = (torch.randn(size.tokens, size.width, generator=generator) for _ in range(2))
    arms = {}
    for name in ("eager", "grouped_mm"):
        config = MixtralConfig(
            hidden_size=size.width, intermediate_size=size.inner, num_local_experts=size.experts, num_experts_per_tok=2
        )
        config._experts_implementation = name
        block = MixtralSparseMoeBlock(config)
        initialise(block, context.seed)
        arms[name] = Steps(block, lambda x, block=block: block(x[None])[0], x, grad, TIMES)
    theirs = arms["eager"].layer
    ours = MoELayer(Experts(size.experts, size.width, size.inner, gated=True, activation="silu"), TopK(2))
    with torch.no_grad():
        ours.router.copy_(theirs.gate.weight)
        ours.experts.up.copy_(theirs.experts.gate_up_proj)
        ours.experts.down.copy_(theirs.experts.down_proj)
    arms["ours"] = Steps(ours, lambda x: ours(x)[0], x, grad, TIMES)
    found = {name: _outcome(arm, name) for name, arm in arms.items()}
    off = {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(each, found["eager"], strict=True))
        for name, each in found.items()
    }
    return arms, off


def _outcome(arm, name: str):  # type: ignore[no-untyped-def]
    """Output, gradient of x, of the router, of both stacks of matrices."""
    x = arm.x.detach().clone().requires_grad_()
    y = arm.of(x)
    y.backward(arm.grad)
    layer = arm.layer
    if name == "ours":
        weights = [layer.router, layer.experts.up, layer.experts.down]
    else:
        weights = [layer.gate.weight, layer.experts.gate_up_proj, layer.experts.down_proj]
    found = [y.detach(), x.grad, *(weight.grad for weight in weights)]
    layer.zero_grad(set_to_none=True)
    return found
