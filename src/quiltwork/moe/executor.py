"""A mixture-of-experts block as the engine runs it: rows of many requests, each with as many experts as it asks for.

``x + sum of weight_e * expert_e(n)`` over a row's experts, and ``sigmoid(gate(n)) * shared(n)`` where there is a shared
one; n = norm(x). Each expert is a block of its own: models that have the same expert have it once in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.activation import activation, gated
from quiltwork.layers.arch import choice, count, known_keys, weight
from quiltwork.layers.attachments import Attached, PartShape
from quiltwork.layers.block import AttachablePart, batch_of
from quiltwork.layers.norm import Norm, load_norm
from quiltwork.layers.projection import Projection, load_projection
from quiltwork.layers.protocol import Executor, Gathered, Inner, PagedKV, Placement, Runs, Weights
from quiltwork.moe.gate import Gate
from quiltwork.moe.routing import Routing
from quiltwork.moe.rule import Rule, read_rule

EXPERTS_PER_TOKEN = "experts_per_token"
"""What a row is told to have spent."""
_KEYS = frozenset({"hidden_size", "norm", "norm_eps", "num_experts", "shared"} | {
    "gate", "most", "threshold", "reading", "weights",
})  # fmt: skip
_EXPERT_KEYS = frozenset({"hidden_size", "intermediate_size", "activation", "gated", "layout", "bias"})


@dataclass(frozen=True)
class Expert:
    """One feed-forward network without norm and residual."""

    up: Projection
    """The gate's columns first where gated."""
    down: Projection
    activation: str
    gated: bool

    @property
    def nbytes(self) -> int:
        """Bytes of weights and biases."""
        return self.up.nbytes + self.down.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        raised = self.up(rows)
        return self.down(gated(self.activation, raised) if self.gated else activation(self.activation)(raised))


@dataclass(frozen=True)
class SharedExpert:
    """What every row takes besides."""

    expert: Expert
    gate: Tensor
    """(1, d)."""

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return self.expert.nbytes + self.gate.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        return torch.sigmoid(F.linear(rows, self.gate)) * self.expert(rows)


class MoEExecutor(AttachablePart):
    """(rows, d) -> (rows, d). Takes other norms as attachments, and no others.

    router : (E, d), in the precision that the gate is computed with.
    """

    def __init__(
        self,
        norm: Norm,
        router: Tensor,
        experts: Sequence[Expert],
        shared: SharedExpert | None,
        rule: Rule,
        placement: Placement,
    ) -> None:
        super().__init__(PartShape((), norm.roles, placement))
        self._norm, self._router, self._experts, self._shared = norm, router, tuple(experts), shared
        self._rule = rule
        self.nbytes = norm.nbytes + router.nbytes + sum(expert.nbytes for expert in experts)
        self.nbytes += shared.nbytes if shared is not None else 0

    def attach(self, attachments: Sequence[Any]) -> Attached:
        """See ``Executor.attach``."""
        for kind, *_ in attachments:
            if kind != "norm":
                raise UnsupportedError(f"a {kind} on a mixture of experts is not implemented", where="experts")
        return super().attach(attachments)

    def __call__(self, x: Tensor, runs: Runs, kv: PagedKV | None = None, gathered: Gathered | None = None) -> Tensor:
        """See ``Executor``. Tells ``runs`` how many experts each row took."""
        batch = batch_of(gathered)
        rows = self._norm(x, batch.norms if batch else None)
        routing, broken = route(self._rule.gate(runs), F.linear(rows.float(), self._router))
        out = self._run(rows, routing)
        if broken is not None:
            out[broken] = torch.nan
        if runs.tell is not None:
            runs.tell(EXPERTS_PER_TOKEN, routing.experts_per_token())
        if self._shared is not None:
            out += self._shared(rows)
        return out.add_(x)

    def _run(self, rows: Tensor, routing: Routing) -> Tensor:
        """(n, d) -> (n, d): of each row the weighted sum over its experts, in their order."""
        out, weights = torch.zeros_like(rows), routing.weight.to(rows.dtype)[:, None]
        for expert, (start, end) in zip(self._experts, pairwise(routing.offsets.tolist()), strict=True):
            if start < end:
                own = routing.token[start:end]
                out.index_add_(0, own, expert(rows.index_select(0, own)).mul_(weights[start:end]))
        return out


def route(gate: Gate, logits: Tensor) -> tuple[Routing, Tensor | None]:
    """The routing of (n, E) logits, and the rows (n,) bool whose logits are not finite, if there are any.

    Those take the first experts, so that one request's broken numbers do not end the others in its batch.
    """
    broken = ~torch.isfinite(logits).all(-1)
    if not bool(broken.any()):
        return gate(logits), None
    return gate(torch.where(broken[:, None], 0.0, logits)), broken


def moe_executor(arch: Mapping[str, Any], weights: Weights, placement: Placement) -> Executor:
    """Load a ``moe`` block (see ``ExecutorFactory``)."""
    known_keys(arch, _KEYS)
    width, experts = count(arch, "hidden_size"), count(arch, "num_experts")
    rule = read_rule(arch, experts)
    inside = weights.inside
    wanted = [f"experts.{i}" for i in range(experts)]
    if missing := [name for name in wanted if name not in inside]:
        raise BadInputError("is missing", where=missing[0])
    shared = None
    if arch.get("shared"):
        if "shared" not in inside:
            raise BadInputError("is missing", where="shared")
        shared = SharedExpert(_expert(inside["shared"], width), weight(weights, "shared_gate.weight", 1, width))
    return MoEExecutor(
        load_norm(arch, weights),
        weight(weights, "router.weight", experts, width).float(),
        [_expert(inside[name], width) for name in wanted],
        shared,
        rule,
        placement,
    )


def _expert(inner: Inner, width: int) -> Expert:
    """Load an ``expert`` block. Raises UnsupportedError or BadInputError naming the key that is not as it must be."""
    if inner.kind != "expert":
        raise UnsupportedError(f"{inner.kind!r} is no expert", where="moe")
    known_keys(inner.arch, _EXPERT_KEYS)
    if count(inner.arch, "hidden_size") != width:
        raise BadInputError(f"is not the width of the layer, {width}", where="arch.hidden_size")
    within, layout = count(inner.arch, "intermediate_size"), choice(inner.arch, "layout", ("linear", "conv1d"))
    is_gated, name = bool(inner.arch.get("gated")), str(inner.arch.get("activation"))
    activation(name)
    outputs = {"gate_proj": within, "up_proj": within} if is_gated else {"up_proj": within}
    return Expert(
        load_projection("up", inner.weights, layout, (outputs,), width),
        load_projection("down", inner.weights, layout, ({"down_proj": width},), within),
        name,
        is_gated,
    )
