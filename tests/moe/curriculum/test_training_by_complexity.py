"""A training whose order goes by recorded routing: what is recorded, on however many workers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import Setup, mean_of
from quiltwork.moe.training.training import MoETraining

Make = Callable[..., MoETraining]
BATCH = 8


@pytest.fixture
def make(tmp_path: Path) -> Make:
    words = ["good", "bad", "fine", "dull", "a", "film", "the", "plot", "and", "very", "so", "not"]
    draw = np.random.default_rng(0)

    def rows(count: int) -> str:
        texts = [" ".join(draw.choice(words, draw.integers(1, 12))) for _ in range(count)]
        return "".join(f"{'good' in text:d} ||| {text}\n" for text in texts)

    for part, count in (("train", 40), ("valid", 12), ("test", 12)):
        (tmp_path / part).write_text(rows(count))

    def made(**changes: object) -> MoETraining:
        config = {
            "task": "classify", "corpus": str(tmp_path / "train"), "valid": str(tmp_path / "valid"),
            "test": str(tmp_path / "test"), "out": str(tmp_path / "out"), "steps": 20, "tokenizer": "byte",
            "length": 48, "width": 16, "inner": 8, "layers": 2, "heads": 2,
            "experts": 4, "batch": BATCH, "micro_batch": 4, "threshold": 0.01, "validate_every": 100,
            "order": "mean", "buckets": 2, "shares": "balanced",
        }  # fmt: skip
        training = MoETraining()
        training.setup(Setup(config | changes, seed=3))  # type: ignore[arg-type]
        return training

    return made


def shared_step(workers: list[MoETraining]) -> None:
    ids = [worker.next_samples() for worker in workers]
    assert all(one.tolist() == ids[0].tolist() for one in ids)
    parts = np.array_split(ids[0], len(workers))
    mean = mean_of([worker.gradients(part) for worker, part in zip(workers, parts, strict=True)])
    for worker in workers:
        worker.apply(mean)


def test_records_are_the_extra_experts_of_tokens_as_they_were_routed_without_padding(make: Make) -> None:
    training = make()
    ids = training.next_samples()
    alone = {int(i): training.objective.run(training.model, "train", np.array([i])).outcome for i in ids}
    training.step()
    assert training.curriculum is not None
    for i, outcome in alone.items():
        own = [int((routed.routing.experts_per_token() - 1).sum()) for routed in outcome.routed]
        assert training.curriculum.records[i].tolist() == own
    others = np.setdiff1d(np.arange(40), ids)
    assert not training.curriculum.records[others].any()
    lengths = training.objective.lengths("train")[0]
    assert (training.curriculum.records <= lengths[:, None]).all()


def test_every_worker_has_the_records_and_the_order_that_one_alone_has(make: Make) -> None:
    alone, workers = make(), [make() for _ in range(3)]
    for rank, worker in enumerate(workers):
        worker.resize(rank, 3)
    assert alone.curriculum is not None
    for _ in range(14):
        expected = alone.next_samples()
        assert sorted(workers[0].next_samples().tolist()) == sorted(expected.tolist())
        alone.step()
        shared_step(workers)
        for worker in workers:
            assert worker.curriculum is not None
            # A token may be on the threshold, where rounding of the sum decides.
            apart = worker.curriculum.records.astype(int) - alone.curriculum.records
            assert np.abs(apart).max() <= 1
            assert worker.curriculum.records.tolist() == workers[0].curriculum.records.tolist()  # type: ignore[union-attr]


def test_a_step_has_the_same_samples_and_the_same_gradient_however_it_is_split(make: Make) -> None:
    even, balanced = make(shares="even"), make()
    for training in (even, balanced):
        training.resize(0, 2)
    taken = even.next_samples(), balanced.next_samples()
    assert taken[0].tolist() != taken[1].tolist()
    assert sorted(taken[0].tolist()) == sorted(taken[1].tolist())
    means = [
        mean_of([training.gradients(part) for part in np.array_split(ids, 2)])
        for training, ids in zip((even, balanced), taken, strict=True)
    ]
    for name, array in means[0].arrays.items():
        if name != "means/cpu_s":
            np.testing.assert_allclose(means[1].arrays[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_balanced_shares_are_predicted_to_cost_as_much_as_each_other(make: Make) -> None:
    even, balanced = make(shares="even", buckets=1), make(buckets=1)
    spread = []
    for training in (even, balanced):
        training.resize(0, 2)
        assert training.curriculum is not None
        costs = training.curriculum.costs
        spread.append(np.ptp([costs[part].sum() for part in np.array_split(training.next_samples(), 2)]))
    assert spread[1] < spread[0] / 2


def test_shares_by_length_have_as_many_tokens_and_do_not_ask_for_routing(make: Make) -> None:
    training = make(order="length", shares="length", gate="dense")
    training.resize(0, 2)
    lengths = np.sum(training.objective.lengths("train"), axis=0)
    for _ in range(5):  # from the first step of the first epoch on
        ids = training.next_samples()
        shares = np.array_split(ids, 2)
        sums = [lengths[share].sum() for share in shares]
        least = min(abs(2 * lengths[list(half)].sum() - lengths[ids].sum()) for half in combinations(ids, BATCH // 2))
        assert abs(int(sums[0]) - int(sums[1])) <= least + lengths[ids].max() // 4
        training.apply(mean_of([training.gradients(share) for share in shares]))


def test_it_goes_on_from_a_state_as_if_it_had_not_stopped(make: Make) -> None:
    whole, first, second = make(), make(), make()
    for _ in range(12):
        whole.step()
    for _ in range(7):  # two steps into the second epoch
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        assert second.next_samples().tolist() == first.next_samples().tolist()
        second.step()
        first.step()
    left, right = whole.state_dict(), second.state_dict()
    for name, array in left.arrays.items():
        assert np.array_equal(array, right.arrays[name]), name


def test_the_order_never_sees_validation(make: Make) -> None:
    by_order, random = make(), make(order="random", buckets=1, shares="even")
    seen: dict[str, list[list[int]]] = {"mean": [], "random": []}
    for name, training in (("mean", by_order), ("random", random)):
        run = training.objective.run

        def watched(model: object, part: str, ids: np.ndarray, run=run, name=name):  # type: ignore[no-untyped-def]
            if part == "valid":
                seen[name].append(ids.tolist())
            return run(model, part, ids)

        training.objective.run = watched  # type: ignore[method-assign]
        training.step()
        before = training.curriculum.records if training.curriculum else None
        training.valid_loss()
        if training.curriculum is not None:
            assert np.array_equal(training.curriculum.records, before)
            assert len(training.curriculum.records) == training.objective.count("train")
    assert seen["mean"] == seen["random"] != []


def test_an_order_by_experts_is_refused_for_a_dense_model(make: Make) -> None:
    with pytest.raises(BadInputError, match="order"):
        make(gate="dense")


@pytest.mark.parametrize(("name", "value"), [("order", "easy"), ("buckets", 0), ("frozen", "yes"), ("shares", "fair")])
def test_a_wrong_setting_is_named(make: Make, name: str, value: object) -> None:
    with pytest.raises(BadInputError, match=name):
        make(**{name: value})


def test_a_dense_model_may_have_buckets(make: Make) -> None:
    training = make(gate="dense", order="random", batch=5)
    lengths = training.objective.lengths("train")[0]
    middle = np.sort(lengths)[len(lengths) // 2]
    for _ in range(3):
        found = lengths[training.next_samples()]
        assert found.max() <= middle or found.min() >= np.sort(lengths)[len(lengths) // 2 - 1]
        training.step()
