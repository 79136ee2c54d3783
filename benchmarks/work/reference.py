"""Who decides whether two answers part at a tie: transformers' own logits, asked only where answers differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from work.answers import Comparison, Logits, compare
from work.side import Side


class Reference:
    """Compares answers of many rounds; starts transformers in its own process at the first difference.

    Parameters
    ----------
    models : name -> folder (a PEFT folder is merged into its base).
    """

    def __init__(self, models: Mapping[str, Path]) -> None:
        self._models = dict(models)
        self._side: Side | None = None
        self._loaded: set[str] = set()

    def compare(
        self,
        asked: Mapping[str, tuple[str, Sequence[int]]],
        ours: Mapping[str, Sequence[int]],
        baseline: Mapping[str, Sequence[int]],
    ) -> Comparison:
        """Compare greedy answers; ``asked`` maps each request to its model and prompt."""

        def next_logits(request: str, tokens: Sequence[int]) -> Logits:
            model, prompt = asked[request]
            return self.next_logits(model, [*prompt, *tokens])

        return compare(ours, baseline, next_logits)

    def next_logits(self, model: str, tokens: Sequence[int]) -> Logits:
        """A model's logits (vocabulary,) after some tokens."""
        logits: Logits = self._ready(model).call("next_logits", model, list(tokens))
        return logits

    def _ready(self, model: str) -> Side:
        if self._side is None:
            self._side = Side("work.hf:HfModels", threads=1)
        if model not in self._loaded:
            self._side.call("load", {model: self._models[model]})
            self._loaded.add(model)
        return self._side

    def close(self) -> None:
        """End the process, if it was started."""
        if self._side is not None:
            self._side.close()

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
