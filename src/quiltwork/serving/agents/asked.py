"""What was asked of a front: how often for each model of late, and how long prompts and answers were."""

from __future__ import annotations

from collections.abc import Collection

from quiltwork.core.names import ModelRef
from quiltwork.serving.policy.admission import expected_tokens
from quiltwork.serving.policy.pace import Pace


class Asked:
    """Counts of one front. output_tokens : of a request, as expected before any has ended."""

    def __init__(self, output_tokens: float) -> None:
        self._default = output_tokens
        self._paces: dict[ModelRef, Pace] = {}
        self._prompts = self._prompt_tokens = self._ended = self._generated = 0

    def came(self, ref: ModelRef, prompt_tokens: int, now: float) -> None:
        """A request for a model."""
        self._paces[ref] = self._paces.get(ref, Pace()).counted(now)
        self._prompts += 1
        self._prompt_tokens += prompt_tokens

    def ended(self, generated: int) -> None:
        """A request has got its last token."""
        self._ended += 1
        self._generated += generated

    @property
    def output_tokens(self) -> float:
        """Tokens that a request generates, as far as can be told."""
        return expected_tokens(self._generated, self._ended, self._default)

    @property
    def prompt_tokens(self) -> float:
        """Tokens of a prompt, as far as can be told."""
        return expected_tokens(self._prompt_tokens, self._prompts, self._default)

    def rates(self, models: Collection[ModelRef], now: float) -> dict[ModelRef, float]:
        """Requests per second of late; for models that nobody has asked for, the mean of the others.

        Nothing where nobody has asked for any.
        """
        paces = dict(self._paces)
        seen = {ref: paces[ref].per_second(now) for ref in models if ref in paces}
        if not any(seen.values()):
            return {}
        mean = sum(seen.values()) / len(seen)
        return {ref: seen.get(ref, mean) for ref in models}
