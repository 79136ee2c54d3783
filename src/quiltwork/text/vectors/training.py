"""Training vectors on a corpus, step by step: where the walk is, which rate it has, and what is left at its end."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.core.result_folder import ResultFolder
from quiltwork.core.trainable import Setup, State, StepReport
from quiltwork.text.token_corpus import Ends, token_corpus
from quiltwork.text.vectors.learner import MOST_TOKENS, Learner
from quiltwork.text.vectors.settings import read_settings
from quiltwork.text.vectors.training_text import TrainingText, draw_text


def text_vectors() -> TextVectors:
    """What is registered as the trainable ``text-vectors``."""
    return TextVectors()


class TextVectors:
    """A ``core.trainable.Trainable``: walks through a text ``epochs`` times and has a ``Learner`` learn from it.

    A step is about ``step_tokens`` tokens, in stretches of at most MOST_TOKENS: the position is the number of stretches
    done. The rate of a stretch hangs on its position alone. One thread; nothing averages, so it is not elastic.
    """

    def setup(self, setup: Setup) -> None:
        """Raises BadInputError naming the setting that is wrong, or what ``read_corpus`` finds wrong."""
        settings = read_settings(setup.config)
        run = f"{json.dumps(settings.told(), sort_keys=True)} {setup.seed}"
        self._result = ResultFolder(settings.out, where="config: out", replaces=True)
        self._result.require_free()
        cache = settings.tokens or (None if setup.workdir is None else Path(setup.workdir))
        corpus = token_corpus(settings.corpus, split=settings.split, cache=cache)
        self._settings, self._seed = settings, setup.seed
        self._text = draw_text(corpus, words=settings.words, min_count=settings.min_count, seed=setup.seed)
        self._run = hashlib.blake2b(f"{run} {self._text.digest}".encode(), digest_size=16).hexdigest()
        self._ends = _cut_long(self._text.ends)
        self._stretches = _stretches(self._ends)
        self._learner: Learner = settings.kind.make(settings.fields, self._text.vocabulary, setup.seed)
        self._done = 0

    @property
    def text(self) -> TrainingText:
        """What is learnt from."""
        return self._text

    def step(self) -> StepReport:
        total = len(self._stretches) * self._settings.epochs
        for _ in range(min(self._per_step, total - self._done)):
            self._learn_one()
            self._done += 1
        finished = self._done >= total
        if finished and self._result.report(self._run) is None:
            self._result.write(self._run, {}, self._fill)
        steps, done = -(-total // self._per_step), -(-self._done // self._per_step)
        rate = self._rate(min(self._done, total - 1))
        share = self._done / total
        metrics = {
            "epoch": share * self._settings.epochs,
            "rate": rate,
            "words": float(len(self._text.vocabulary.words)),
        }
        return StepReport(done, steps, finished, metrics)

    def state_dict(self) -> State:
        arrays = {name: array.copy() for name, array in self._learner.arrays().items()}
        return State(arrays, {"run": self._run, "done": self._done, "learner": self._learner.meta()})

    def load_state_dict(self, state: State) -> None:
        done, told = state.meta.get("done"), state.meta.get("learner")
        if state.meta.get("run") != self._run:
            raise BadInputError("is of another training: settings, seed or corpus differ", where="state")
        if type(done) is not int or done < 0 or not isinstance(told, dict):
            raise BadInputError("does not say how far it is", where="state")
        self._learner.load(state.arrays, told)
        self._done = done

    @property
    def _per_step(self) -> int:
        """Stretches of a step."""
        return max(1, round(self._settings.step_tokens / MOST_TOKENS))

    def _learn_one(self) -> None:
        first, last = self._stretches[self._done % len(self._stretches)]
        begin = int(self._ends[first - 1]) if first else 0
        ends = self._ends[first:last] - begin
        self._learner.learn(self._text.ids[begin : begin + int(ends[-1])], ends, self._rate(self._done))

    def _rate(self, position: int) -> float:
        epoch, stretch = divmod(position, len(self._stretches))
        first = self._stretches[stretch][0]
        begin = int(self._ends[first - 1]) if first else 0
        share = (epoch + begin / len(self._text.ids)) / self._settings.epochs
        return self._settings.rate + (self._settings.last_rate - self._settings.rate) * share

    def _fill(self, folder: Path) -> None:
        training = {**self._settings.told(), "seed": self._seed}
        self._learner.write(folder, self._text, training, self._seed)


def _cut_long(ends: Ends) -> Ends:
    """Ends of sentences, with more of them where one is longer than a stretch can be."""
    long = np.flatnonzero(np.diff(ends, prepend=0) > MOST_TOKENS)
    more = [np.arange(int(ends[i - 1]) if i else 0, ends[i], MOST_TOKENS)[1:] for i in long.tolist()]
    return np.unique(np.concatenate([ends, *more])).astype(np.int64)


def _stretches(ends: Ends) -> list[tuple[int, int]]:
    """Runs of whole sentences, each of at most MOST_TOKENS tokens, as (first, last + 1)."""
    found, first, begin = [], 0, 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, begin + MOST_TOKENS, side="right")))
        found.append((first, last))
        first, begin = last, int(ends[last - 1])
    return found
