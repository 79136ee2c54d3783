"""Best-effort KV coordination: go to who holds a sequence's keys and values, fetch them, or compute them again.

Keys and values may be dropped at any moment; none of these choices ever changes an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quiltwork.serving.policy.cost import Handling, Link, SegmentProfile

NO_HANDLING = Handling()


class KVChoice(StrEnum):
    """How work for a sequence gets at its keys and values."""

    NONE = "none"
    """There are none yet: the sequence starts here."""
    OWNER = "owner"
    """It goes to who holds them."""
    MOVE = "move"
    """Another instance fetches them page by page."""
    RECOMPUTE = "recompute"
    """Another instance computes them from the segment's inputs."""


@dataclass(frozen=True)
class KVState:
    """What is known of one sequence at one segment, and of the way to another instance of it."""

    tokens: int
    """Tokens whose keys and values the owner holds (n)."""
    profile: SegmentProfile
    """Of the segment, on the instance's device."""
    from_owner: Link | None
    """From the owner to the instance; None where the owner is gone."""
    input_bytes: int
    """Bytes per token of what the segment's keys and values are computed from: hidden states, or token ids."""
    from_inputs: Link | None
    """From who has those inputs to the instance; None where nobody has."""
    delayed: int = 0
    """Requests that wait at the instance and would wait longer: computing again is charged for each of them."""
    handling: Handling = NO_HANDLING
    """What moving costs beyond the link."""


def move_seconds(state: KVState) -> float:
    """``alpha + 2 g d e n L_s / beta`` and their handling: all pages of the segment over the link from the owner."""
    if state.from_owner is None:
        return float("inf")
    nbytes = state.tokens * state.profile.kv_bytes
    return state.from_owner.seconds(nbytes) + state.handling.seconds(nbytes)


def recompute_seconds(state: KVState) -> float:
    """``bytes_in / beta + n L_s c_prefill``, the computing charged to everybody it delays."""
    if state.from_inputs is None:
        return float("inf")
    computing = state.profile.prefill_s(state.tokens)
    return state.from_inputs.seconds(state.tokens * state.input_bytes) + computing * (1 + state.delayed)


def fetch(state: KVState) -> tuple[KVChoice, float]:
    """The cheaper way for an instance that is not the owner, and its seconds; moving on ties.

    The seconds are infinite where neither is possible: then only starting the sequence anew helps.
    """
    if state.tokens == 0:
        return KVChoice.NONE, 0.0
    move, again = move_seconds(state), recompute_seconds(state)
    return (KVChoice.MOVE, move) if move <= again else (KVChoice.RECOMPUTE, again)


def crossover_bytes_per_s(state: KVState) -> float:
    """The link rate above which moving beats computing again, latencies left out; for reports and tests.

    Infinite where computing again always wins (its inputs free, and it is quicker than handling what is moved).
    """
    extra = state.tokens * (state.profile.kv_bytes - state.input_bytes)
    computing = state.profile.prefill_s(state.tokens) * (1 + state.delayed)
    computing -= state.handling.seconds(state.tokens * state.profile.kv_bytes)
    if extra <= 0:
        return 0.0
    return extra / computing if computing > 0 else float("inf")
