"""The training seam, held by two real trainables: one whose step is a mean over samples, one whose step is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.core.sample_order import SampleOrder
from quiltwork.core.trainable import Elastic, Gradients, Setup, State, StepReport, Trainable, Tunable, mean_of


class LinearRegression:
    """Least squares by momentum descent on mini-batches, dropping inputs at random. Elastic."""

    def setup(self, setup: Setup) -> None:
        samples = setup.config.get("samples", 64)
        if not isinstance(samples, int) or samples < 1:
            raise BadInputError("is not a number of samples", where="samples")
        self._seed, self._batch, self._steps = setup.seed, 8, setup.config.get("steps", 12)
        rng = np.random.default_rng(setup.seed)
        self._x = rng.normal(size=(samples, 3))
        self._y = self._x @ np.array([1.0, -2.0, 0.5])
        self._w, self._velocity, self._done = np.zeros(3), np.zeros(3), 0

    def next_samples(self):
        per_epoch = len(self._x) // self._batch
        epoch, at = divmod(self._done, per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._x))
        return order[at * self._batch : (at + 1) * self._batch]

    def gradients(self, sample_ids) -> Gradients:
        # Which inputs a sample loses hangs on sample and step, not on who computes it.
        kept = np.array([np.random.default_rng([self._seed, self._done, i]).random(3) > 0.1 for i in sample_ids])
        x = self._x[sample_ids] * kept.reshape(-1, 3)
        error = x @ self._w - self._y[sample_ids]
        mean = x.T @ error / max(len(sample_ids), 1)
        loss = float(np.mean(error**2)) if len(error) else 0.0
        return Gradients({"w": mean}, len(sample_ids), {"loss": loss})

    def apply(self, mean: Gradients) -> StepReport:
        if self._done < self._steps:
            self._velocity = 0.9 * self._velocity + mean.arrays["w"]
            self._w = self._w - 0.05 * self._velocity
            self._done += 1
        return StepReport(self._done, self._steps, self._done >= self._steps, mean.metrics)

    def step(self) -> StepReport:
        return self.apply(self.gradients(self.next_samples()))

    def resize(self, rank: int, workers: int) -> None:
        pass

    def state_dict(self) -> State:
        return State({"w": self._w.copy(), "velocity": self._velocity.copy()}, {"done": self._done})

    def load_state_dict(self, state: State) -> None:
        if state.arrays["w"].shape != self._w.shape:
            raise BadInputError("has another shape", where="state: w")
        self._w, self._velocity = state.arrays["w"].copy(), state.arrays["velocity"].copy()
        self._done = state.meta["done"]


class Repulsion:
    """Particles on a circle that push each other apart, one at a time in random order. No mean over samples in it."""

    def setup(self, setup: Setup) -> None:
        self._rng = np.random.default_rng(setup.seed)
        self._angles = self._rng.uniform(0, 2 * np.pi, size=setup.config.get("particles", 9))
        self._done, self._steps = 0, 10

    def step(self) -> StepReport:
        if self._done < self._steps:
            for i in self._rng.permutation(len(self._angles)):
                others = np.delete(self._angles, i)
                gap = np.angle(np.exp(1j * (self._angles[i] - others)))
                self._angles[i] += 0.05 * np.sum(np.sign(gap) / (np.abs(gap) + 0.1))
            self._done += 1
        return StepReport(self._done, None, self._done >= self._steps)

    def state_dict(self) -> State:
        return State({"angles": self._angles.copy()}, {"done": self._done, "rng": self._rng.bit_generator.state})

    def load_state_dict(self, state: State) -> None:
        self._angles, self._done = state.arrays["angles"].copy(), state.meta["done"]
        self._rng.bit_generator.state = state.meta["rng"]


class TunedRegression(LinearRegression):
    """The same, told its batch and its rate. Tunable."""

    def setup(self, setup: Setup) -> None:
        super().setup(setup)
        self._order, self._taken, self._rate = SampleOrder(len(self._x), setup.seed), 0, 0.05

    def next_samples(self):
        return self._order.ids(self._taken, self._batch)

    def apply(self, mean: Gradients) -> StepReport:
        before, batch = self._w, self._batch
        report = super().apply(mean)
        self._w = before + (self._w - before) * self._rate / 0.05
        self._taken += batch
        return report

    def set_batch(self, samples: int) -> None:
        self._batch = samples

    def set_learning_rate(self, rate: float) -> None:
        self._rate = rate


KINDS = [LinearRegression, Repulsion]


def made(kind, seed=3):
    trainable = kind()
    trainable.setup(Setup({}, seed))
    return trainable


def moved(state: State) -> State:
    """The state as another process would get it: bytes and JSON text."""
    arrays = {n: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for n, a in state.arrays.items()}
    return State(arrays, json.loads(json.dumps(state.meta)))


def equal(a: State, b: State) -> bool:
    same = set(a.arrays) == set(b.arrays) and all(np.array_equal(a.arrays[n], b.arrays[n]) for n in a.arrays)
    return same and a.meta == b.meta


def test_both_are_trainable_and_only_one_is_elastic():
    assert all(isinstance(made(kind), Trainable) for kind in KINDS)
    assert isinstance(made(LinearRegression), Elastic)
    assert not isinstance(made(Repulsion), Elastic)


def test_only_what_can_be_told_batch_and_rate_is_tunable():
    assert isinstance(made(TunedRegression), Tunable)
    assert isinstance(made(TunedRegression), Elastic)
    assert not isinstance(made(LinearRegression), Tunable)


@given(batches=st.lists(st.integers(1, 30), min_size=1, max_size=10))
def test_a_tunable_neither_repeats_nor_skips_a_sample_when_its_batch_changes(batches):
    tuned, taken = made(TunedRegression), []
    for batch in batches:
        tuned.set_batch(batch)
        taken.extend(tuned.next_samples().tolist())
        tuned.step()
    for start in range(0, len(taken) - 63, 64):
        assert sorted(taken[start : start + 64]) == list(range(64))


def test_a_tunable_steps_at_the_rate_that_it_was_told():
    plain, tuned = made(TunedRegression), made(TunedRegression)
    tuned.set_learning_rate(0.1)
    start = plain.state_dict().arrays["w"]
    plain.step()
    tuned.step()
    moved = [one.state_dict().arrays["w"] - start for one in (plain, tuned)]
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(before=st.integers(0, 12), after=st.integers(1, 6), seed=st.integers(0, 1000))
def test_resuming_in_another_process_equals_never_having_stopped(kind, before, after, seed):
    straight = made(kind, seed)
    for _ in range(before):
        straight.step()
    resumed = made(kind, seed)
    resumed.step()
    resumed.load_state_dict(moved(straight.state_dict()))
    reports = [(straight.step(), resumed.step()) for _ in range(after)]
    assert all(a == b for a, b in reports)
    assert equal(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_a_copy(kind):
    trainable = made(kind)
    kept = trainable.state_dict()
    before = moved(kept)
    trainable.step()
    assert equal(kept, before)
    assert not equal(kept, trainable.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_after_the_end_change_nothing(kind):
    trainable = made(kind)
    while not trainable.step().finished:
        pass
    end = trainable.state_dict()
    assert trainable.step().finished
    assert equal(end, trainable.state_dict())


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 8), max_size=4).map(sorted), seed=st.integers(0, 100))
def test_any_split_among_workers_is_the_same_step(cuts, seed):
    alone, workers = made(LinearRegression, seed), [made(LinearRegression, seed) for _ in range(len(cuts) + 1)]
    for rank, worker in enumerate(workers):
        worker.resize(rank, len(workers))
    for _ in range(5):
        ids = workers[0].next_samples()
        parts = np.split(ids, cuts)
        mean = mean_of([worker.gradients(part) for worker, part in zip(workers, parts, strict=True)])
        assert mean.count == len(ids)
        expected = alone.step()
        for worker in workers:
            report = worker.apply(mean)
            assert (report.done, report.finished) == (expected.done, expected.finished)
            assert report.metrics["loss"] == pytest.approx(expected.metrics["loss"])
    for worker in workers:
        np.testing.assert_allclose(worker.state_dict().arrays["w"], alone.state_dict().arrays["w"], rtol=1e-12)


def test_the_mean_keeps_the_type_and_weighs_by_count():
    parts = [Gradients({"w": np.float32([1, 2])}, 3), Gradients({"w": np.float32([5, 6])}, 1)]
    mean = mean_of(parts)
    assert mean.arrays["w"].dtype == np.float32
    assert mean.arrays["w"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [Gradients({"w": np.zeros(1)}, 0)],
        [Gradients({"w": np.zeros(1)}, 1), Gradients({"v": np.zeros(1)}, 1)],
        [Gradients({"w": np.zeros(1)}, 1), Gradients({"w": np.zeros(2)}, 1)],
        [Gradients({"w": np.zeros(1)}, 1), Gradients({"w": np.zeros(1)}, -1)],
    ],
)
def test_gradients_that_do_not_fit_together_are_refused(parts):
    with pytest.raises(BadInputError, match="gradients"):
        mean_of(parts)


@pytest.mark.parametrize("array", [np.array([object()]), [1.0], np.array([(1, "x")], dtype=[("a", "i4"), ("b", "O")])])
def test_a_state_holds_no_objects(array):
    with pytest.raises(BadInputError, match="state: w: is not an array of numbers"):
        State({"w": array}, {})


@pytest.mark.parametrize("meta", [{"a": object()}, {"a": float("nan")}, {"a": np.float32(1)}, {"a": {1, 2}}])
def test_what_is_not_json_is_no_meta(meta):
    with pytest.raises(BadInputError, match="state: meta: is not JSON"):
        State({}, meta)


def test_a_wrong_setting_is_named():
    with pytest.raises(BadInputError, match="samples"):
        LinearRegression().setup(Setup({"samples": "many"}, 0))
