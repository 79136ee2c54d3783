"""The load-balance loss: what it counts, its edges, its form over several workers, and null experts."""

import pytest
import torch

from quiltwork.core.errors import BadInputError
from quiltwork.moe import Adaptive, Gate, NullExperts, TopK, balance_counts, balance_loss

# Three tokens: the first two with one expert, the last with two.
PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.35, 0.3, 0.35]])
LOGITS = PROBABILITIES.log()
MEAN = PROBABILITIES.mean(0)
KINDS = ("single", "first", "all")


def test_only_tokens_with_a_single_expert_are_counted() -> None:
    routing = Adaptive(0.1, most=2)(LOGITS)
    assert balance_counts(routing).tolist() == [1, 1, 0]
    assert float(balance_loss(routing)) == pytest.approx(3 * float(MEAN[0] + MEAN[1]) / 2)


def test_first_choices_or_all_assignments_may_be_counted_instead() -> None:
    routing = Adaptive(0.1, most=2)(LOGITS)
    assert balance_counts(routing, "first").tolist() == [2, 1, 0]
    assert balance_counts(routing, "all").tolist() == [2, 1, 1]
    loss = balance_loss(routing, balance_counts(routing, "all"))
    assert float(loss) == pytest.approx(3 * float(2 * MEAN[0] + MEAN[1] + MEAN[2]) / 4)
    with pytest.raises(BadInputError, match="single, first, all"):
        balance_counts(routing, "some")


def test_it_is_nothing_where_no_token_is_single() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = balance_loss(TopK(2)(logits))
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("counted", KINDS)
def test_it_is_nothing_for_no_tokens(counted: str) -> None:
    routing = TopK(2)(torch.zeros(0, 3))
    assert float(balance_loss(routing, balance_counts(routing, counted))) == 0.0


def test_only_the_probabilities_have_its_gradient() -> None:
    logits = torch.randn(30, 4, requires_grad=True)
    routing = Adaptive(0.1)(logits)
    counts = balance_counts(routing)
    assert not counts.requires_grad
    (found,) = torch.autograd.grad(balance_loss(routing, counts), logits, retain_graph=True)
    share = counts / counts.sum()
    (wanted,) = torch.autograd.grad(4 * (share * torch.softmax(logits, -1).mean(0)).sum(), logits)
    torch.testing.assert_close(found, wanted)


@pytest.mark.slow
def test_over_all_assignments_it_is_that_of_transformers_by_the_number_of_experts() -> None:
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    logits = torch.randn(50, 6)
    theirs, routing = modeling.load_balancing_loss_func((logits,), 6, 2), TopK(2)(logits)
    assert 2 * float(balance_loss(routing, balance_counts(routing, "all"))) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize(
    ("gate", "counted", "choices"),
    [*((Adaptive(0.1), counted, None) for counted in KINDS), (NullExperts(2, 2), "first", None),
     (NullExperts(2, 2), "all", 2)],
)  # fmt: skip
def test_the_mean_over_workers_is_the_loss_of_their_tokens_together_and_so_is_its_gradient(
    gate: Gate, counted: str, choices: int | None
) -> None:
    logits = torch.randn(30, gate.width(4), requires_grad=True)
    routing = gate(logits)
    together = balance_loss(routing, balance_counts(routing, counted, choices=choices))
    (wanted,) = torch.autograd.grad(together, logits)
    parts = [gate(part) for part in logits.split([5, 25])]
    counts = torch.stack([balance_counts(part, counted, choices=choices) for part in parts]).sum(0)
    losses = [balance_loss(part, counts, 30 / 2) for part in parts]
    mean = (losses[0] + losses[1]) / 2
    (found,) = torch.autograd.grad(mean, logits)
    assert mean.item() == pytest.approx(together.item(), rel=1e-6)
    torch.testing.assert_close(found, wanted)


def test_null_experts_are_among_the_first_choices_that_are_counted() -> None:
    routing = NullExperts(1, 1)(LOGITS)  # of three, the last does nothing
    assert balance_counts(routing, "first").tolist() == [2, 1, 0]
    assert balance_counts(NullExperts(1, 1)(LOGITS.flip(1)), "first").tolist() == [1, 1, 1]


def test_over_all_choices_null_experts_count_for_alike() -> None:
    # Two true and two null ones; of four choices one is a true expert's, three are for null ones.
    routing = NullExperts(2, 2)(torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.4, 0.3]]).log())
    assert balance_counts(routing, "all", choices=2).tolist() == [1, 0, 1.5, 1.5]
    with pytest.raises(BadInputError, match="choices"):
        balance_counts(routing, "all")


def test_with_null_experts_it_is_lowest_where_all_are_taken_alike() -> None:
    even = torch.zeros(40, 4)
    even[torch.arange(40), torch.arange(40) % 4] = 5.0
    uneven = torch.zeros(40, 4)
    uneven[:, 0] = 5.0
    routings = [NullExperts(1, 2)(each) for each in (even, uneven)]
    low, high = (float(balance_loss(one, balance_counts(one, "all", choices=1))) for one in routings)
    assert low == pytest.approx(1.0)
    assert high > 3.0
