"""The load-balance loss: what it counts, its edges, and its form over several workers."""

import pytest
import torch

from quiltwork.core.errors import BadInputError
from quiltwork.moe import Adaptive, NullExperts, TopK, balance_counts, balance_loss, null_balance_loss

# Three tokens: the first two with one expert, the last with two.
PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.35, 0.3, 0.35]])
LOGITS = PROBABILITIES.log()


def test_only_tokens_with_a_single_expert_are_counted() -> None:
    mean = PROBABILITIES.mean(0)
    loss = balance_loss(Adaptive(0.1, most=2)(LOGITS))
    assert float(loss) == pytest.approx(3 * float(mean[0] / 2 + mean[1] / 2))


def test_all_assignments_may_be_counted_instead() -> None:
    mean, routing = PROBABILITIES.mean(0), Adaptive(0.1, most=2)(LOGITS)
    assert routing.load.tolist() == [2, 1, 1]
    weighed = float(2 * mean[0] + mean[1] + mean[2])
    assert float(balance_loss(routing, "all")) == pytest.approx(3 * weighed / 4)
    assert float(balance_loss(routing, "per_token")) == pytest.approx(3 * weighed / 3)


def test_it_is_nothing_or_over_all_where_no_token_is_single() -> None:
    routing = TopK(2)(LOGITS.clone().requires_grad_())
    assert balance_loss(routing).item() == 0.0
    balance_loss(routing).backward()
    assert torch.equal(balance_loss(routing, "single_or_all"), balance_loss(routing, "all"))
    with pytest.raises(BadInputError, match="single_or_all"):
        balance_loss(routing, "some")


def test_it_is_nothing_for_no_tokens() -> None:
    for counted in ("single", "all", "single_or_all", "per_token"):
        assert float(balance_loss(TopK(2)(torch.zeros(0, 3)), counted)) == 0.0


@pytest.mark.slow
def test_it_is_that_of_transformers_for_a_fixed_number_of_experts() -> None:
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    logits = torch.randn(50, 6)
    theirs = modeling.load_balancing_loss_func((logits,), 6, 2)
    assert float(balance_loss(TopK(2)(logits), "per_token")) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("counted", ["single", "all", "single_or_all", "per_token"])
def test_the_mean_over_workers_is_the_loss_of_their_tokens_together_and_so_is_its_gradient(counted: str) -> None:
    gate, logits = Adaptive(0.1), torch.randn(30, 4, requires_grad=True)
    together = balance_loss(gate(logits), counted)
    (wanted,) = torch.autograd.grad(together, logits)
    parts = [gate(part) for part in logits.split([5, 25])]
    counts = sum((balance_counts(part) for part in parts), torch.zeros(9, dtype=torch.int64))
    losses = [balance_loss(part, counted, counts, workers=2) for part in parts]
    mean = (losses[0] + losses[1]) / 2
    (found,) = torch.autograd.grad(mean, logits)
    assert mean.item() == pytest.approx(together.item(), rel=1e-6)
    torch.testing.assert_close(found, wanted)


def test_the_null_experts_loss_is_lowest_where_all_are_taken_alike() -> None:
    even = torch.zeros(40, 4)
    even[torch.arange(40), torch.arange(40) % 4] = 5.0
    uneven = torch.zeros(40, 4)
    uneven[:, 0] = 5.0
    gate = NullExperts(1, 2)
    low, high = (float(null_balance_loss(gate(each), 1)) for each in (even, uneven))
    assert low == pytest.approx(1.0)
    assert high > 3.0
