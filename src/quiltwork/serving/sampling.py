"""Drawing the next token of many sequences at once, each by its own options.

The order is vLLM's: grammar mask, ``min_tokens``, ``logit_bias``, penalties, temperature, min-p, top-k, top-p.
Reported log-probabilities are the model's own: of the raw logits, before any of these.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quiltwork.core.errors import QuiltworkError
from quiltwork.serving.options import SamplingOptions

FIRST_CANDIDATES = 256
"""How many of the most likely tokens a nucleus is first looked for among."""
STRIDE = 128
"""Tokens whose weights are summed before the cumulated weight is looked at."""


class Sampled(NamedTuple):
    """A token, and what the model thought of it."""

    token: int
    logprob: float | None = None
    """None where no log-probabilities were asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens and their log-probabilities, best first."""
    relaxed: bool = False
    """Whether it is one that was offered, where the model itself drew another."""


class Offer(NamedTuple):
    """A token that may be taken in place of the drawn one where the model finds it nearly as likely as any."""

    token: int
    share: float
    """Of the most likely token's probability, that the offered one must have at least; in (0, 1]."""


class Grammar(Protocol):
    """What a sequence's output is held to, token by token."""

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, (vocab_size,)."""
        ...

    def accept(self, token: int) -> None:
        """Go on by one token."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether nothing more may follow."""
        ...

    @property
    def error(self) -> str:
        """Why the grammar gave up, or an empty string."""
        ...


class SamplerState:
    """One sequence's side of sampling: what it has generated, its random numbers, its grammar.

    Draws depend on the sequence's own seed and logits alone, never on what else is in the batch.

    Parameters
    ----------
    options : how to draw.
    prompt_ids : the prompt, which the repetition penalty also counts.
    grammar : what the output is held to.
    stop_ids : the end-of-sequence and stop tokens that ``min_tokens`` holds back.
    seed : used where the options have none.
    choice : which of ``n`` choices this is; siblings draw differently.
    """

    __slots__ = ("_ahead", "_bias", "_counts", "_ids", "_random", "_seen", "_stop", "error", "generated", "grammar",
                 "options", "plain")  # fmt: skip

    def __init__(
        self,
        options: SamplingOptions,
        prompt_ids: Sequence[int] = (),
        grammar: Grammar | None = None,
        *,
        stop_ids: frozenset[int] = frozenset(),
        seed: int = 0,
        choice: int = 0,
    ) -> None:
        self.options = options
        self.grammar = grammar
        self.generated = 0
        """Tokens sampled so far."""
        self.error: QuiltworkError | None = None
        """Set where no token could be drawn; the token given then means nothing and the sequence must end."""
        # random.Random takes the absolute value of a seed; the mask keeps -1 and 1 apart.
        self._random = random.Random(((options.seed if options.seed is not None else seed) + choice) & (2**64 - 1))
        self._ahead: list[float] = []
        self._stop = np.fromiter(sorted(stop_ids), np.int64) if options.min_tokens else _NO_IDS
        self._bias = (
            np.fromiter(options.logit_bias.keys(), np.int64),
            np.fromiter(options.logit_bias.values(), np.float32),
        )
        # Distinct tokens seen and how often each was generated, as growing arrays: rows of a batch are concatenated
        # into one gather and one scatter.
        self._seen: dict[int, int] | None = None
        self._ids, self._counts = _NO_IDS, np.empty(0, np.float32)
        if options.presence_penalty or options.frequency_penalty or options.repetition_penalty != 1.0:
            prompt = dict.fromkeys(prompt_ids) if options.repetition_penalty != 1.0 else {}
            self._seen = {token: at for at, token in enumerate(prompt)}
            self._ids = np.fromiter(self._seen, np.int64)
            self._counts = np.zeros(len(self._ids), np.float32)
        self.plain = not (grammar or options.min_tokens or options.logit_bias or self._seen is not None)
        """Whether the logits are used as they are."""

    @property
    def complete(self) -> bool:
        """Whether the grammar allows nothing more: the sequence is finished, reason ``stop``."""
        return self.grammar is not None and self.grammar.stopped

    def draw(self) -> float:
        """The next uniform number in [0, 1)."""
        return self._ahead.pop(0) if self._ahead else self._random.random()

    def peek(self, ahead: int) -> float:
        """The number that ``draw`` will give after ``ahead`` others; it is not used up."""
        while len(self._ahead) <= ahead:
            self._ahead.append(self._random.random())
        return self._ahead[ahead]

    def seen(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Tokens the penalties apply to and how often each was generated."""
        count = len(self._seen or ())
        return self._ids[:count], self._counts[:count]

    def bias(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Biased tokens and their biases."""
        return self._bias

    def held_back(self) -> npt.NDArray[np.int64]:
        """Stop tokens that may not be sampled yet."""
        return self._stop if self.generated < self.options.min_tokens else _NO_IDS

    def record(self, token: int) -> None:
        """Count a token that was sampled."""
        self.generated += 1
        if self.grammar is not None:
            self.grammar.accept(token)
            if self.grammar.error and self.error is None:
                self.error = QuiltworkError(self.grammar.error, where="response_format")
        if self._seen is None:
            return
        at = self._seen.get(token)
        if at is None:
            at = self._seen[token] = len(self._seen)
            if at == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros(at + 64, np.int64)])
                self._counts = np.concatenate([self._counts, np.zeros(at + 64, np.float32)])
            self._ids[at] = token
        self._counts[at] += 1


_NO_IDS: npt.NDArray[np.int64] = np.empty(0, np.int64)


def sample(logits: Tensor, states: Sequence[SamplerState], offers: Sequence[Offer | None] = ()) -> list[Sampled]:
    """Draw one token per row and record it in the row's state.

    Parameters
    ----------
    logits : (n, V) float, left as they are.
    states : n states. A row whose logits leave nothing to draw from (NaN, or all masked) gets ``error`` set on its
        state; the other rows are not touched by it.
    offers : n tokens that may be taken instead, or nothing. The drawn token's number is used up either way.
    """
    if logits.dtype != torch.float32:
        logits = logits.float()
    shown = [row for row, state in enumerate(states) if state.options.logprobs is not None]
    best, greedy_tokens = logits.max(dim=-1)
    tokens: list[int] = greedy_tokens.tolist()
    for row, value in enumerate(best.tolist()):
        if value != value or value in (float("inf"), float("-inf")):
            states[row].error = _no_numbers()
    special = [
        row for row, state in enumerate(states) if not (state.plain and state.options.greedy) and state.error is None
    ]
    work = logits
    if special:
        chosen = [states[row] for row in special]
        every = len(special) == len(states) and all(state.plain for state in chosen)
        work = logits if every else logits[special]
        for row, token in zip(special, _draw(work, chosen), strict=True):
            tokens[row] = token
    taken: set[int] = set()
    if any(offers):
        # Of rows that are drawn from, what they are drawn from: masked, biased and penalised.
        place = {row: at for at, row in enumerate(special)}
        rows = [work[place[row]] if row in place else logits[row] for row in range(len(states))]
        taken = _take_offers(rows, states, offers, tokens)
    for state, token in zip(states, tokens, strict=True):
        state.record(token)
    result = [Sampled(token, relaxed=row in taken) for row, token in enumerate(tokens)]
    if not shown:
        return result
    asked = [states[row].options.logprobs for row in shown]
    reported = logprobs_of(logits[shown], [tokens[row] for row in shown], [count or 0 for count in asked])
    for row, item in zip(shown, reported, strict=True):
        result[row] = item._replace(relaxed=row in taken)
    return result


def _take_offers(
    rows: Sequence[Tensor], states: Sequence[SamplerState], offers: Sequence[Offer | None], tokens: list[int]
) -> set[int]:
    """Put offered tokens in the place of drawn ones where they are likely enough; returns where.

    What counts is the distribution that the request draws from; for a greedy one, the model's own at temperature 1.
    A token that is masked or truncated away has no probability and is never taken.
    """
    asked = [
        (row, offer)
        for row, offer in enumerate(offers)
        if offer is not None and offer.token != tokens[row] and states[row].error is None
    ]
    if not asked:
        return set()
    options = [SamplingOptions() if states[row].options.greedy else states[row].options for row, _ in asked]
    weights = _weights(torch.stack([rows[row] for row, _ in asked]), options)
    taken: set[int] = set()
    for at, (row, offer) in enumerate(asked):
        if float(weights[at, offer.token]) >= offer.share:
            tokens[row] = offer.token
            taken.add(row)
    return taken


def guess(logits: Tensor, states: Sequence[SamplerState], ahead: Sequence[int]) -> list[int | None]:
    """What each state would draw if a draft's logits were the true ones; nothing is recorded or used up.

    The guess is made with the very number that the true draw will use: where draft and truth agree on the
    distribution, they agree on the token. Penalties count what was generated before the draft, and a grammar is
    looked at for the next token only: beyond, the guess is merely worse.

    Parameters
    ----------
    logits : (n, V) float32 of the draft chain; changed in place.
    states : n states of the true sequences.
    ahead : n numbers of tokens drafted already.

    Returns None where there is nothing to guess from.
    """
    if not all(state.plain for state in states):
        first = [row for row, depth in enumerate(ahead) if depth == 0]
        _mask(logits, [(row, states[row]) for row in first])
        _process(logits, states)
    best, greedy = logits.max(dim=-1)
    tokens: list[int | None] = list(greedy.tolist())
    usable = torch.isfinite(best).tolist()
    drawing = [row for row, state in enumerate(states) if usable[row] and not state.options.greedy]
    if drawing:
        weights = _weights(logits[drawing], [states[row].options for row in drawing])
        draws = [states[row].peek(ahead[row]) for row in drawing]
        for row, token in zip(drawing, _invert(weights, draws), strict=True):
            tokens[row] = token
    return [token if good else None for token, good in zip(tokens, usable, strict=True)]


def logprobs_of(logits: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[Sampled]:
    """What the model thought of given tokens, for example those of a prompt.

    Parameters
    ----------
    logits : (n, V) raw logits of the positions before the tokens.
    tokens : n ids.
    counts : n numbers of most likely tokens to report.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    own = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1).tolist()
    most = min(max(counts, default=0), logits.shape[1])
    if not most:
        return [Sampled(token, logprob) for token, logprob in zip(tokens, own, strict=True)]
    values, ids = logprobs.topk(most, dim=-1)
    rows = zip(tokens, own, counts, ids.tolist(), values.tolist(), strict=True)
    return [
        Sampled(token, logprob, tuple(zip(top_ids[:count], top_values[:count], strict=True)))
        for token, logprob, count, top_ids, top_values in rows
    ]


def _draw(logits: Tensor, states: Sequence[SamplerState]) -> list[int]:
    """One token per row; (n, V) ``logits`` are changed in place where a state is not plain."""
    if not all(state.plain for state in states):
        _mask(logits, list(enumerate(states)))
        _process(logits, states)
        usable = torch.isfinite(logits.max(dim=-1).values).tolist()
        for row, good in enumerate(usable):
            if not good:
                states[row].error = _no_numbers()
                logits[row] = 0.0
    greedy = [row for row, state in enumerate(states) if state.options.greedy]
    if len(greedy) == len(states):
        return [int(token) for token in logits.argmax(dim=-1).tolist()]
    tokens = [0] * len(states)
    if greedy:
        for row, token in zip(greedy, logits[greedy].argmax(dim=-1).tolist(), strict=True):
            tokens[row] = token
    random_rows = [row for row, state in enumerate(states) if not state.options.greedy]
    chosen = [states[row] for row in random_rows]
    weights = _weights(logits[random_rows] if greedy else logits, [state.options for state in chosen])
    draws = [state.draw() for state in chosen]
    for row, token in zip(random_rows, _invert(weights, draws), strict=True):
        tokens[row] = token
    return tokens


def _mask(logits: Tensor, rows: Sequence[tuple[int, SamplerState]]) -> None:
    """Grammar masks of the given rows, in place."""
    vocab = logits.shape[1]
    for row, state in rows:
        if state.grammar is not None:
            allowed = torch.from_numpy(state.grammar.allowed(vocab)).to(logits.device)
            logits[row].masked_fill_(~allowed, float("-inf"))


def _process(logits: Tensor, states: Sequence[SamplerState]) -> None:
    """``min_tokens``, ``logit_bias`` and penalties, in place."""
    rows, columns = _flat([state.held_back() for state in states], logits.device)
    if len(rows):
        logits[rows, columns] = float("-inf")
    biases = [state.bias() for state in states]
    rows, columns = _flat([ids for ids, _ in biases], logits.device)
    if len(rows):
        added = torch.from_numpy(np.concatenate([values for _, values in biases])).to(logits.device)
        logits[rows, columns] += added
    seen = [state.seen() for state in states]
    rows, columns = _flat([ids for ids, _ in seen], logits.device)
    if len(rows):
        counts = torch.from_numpy(np.concatenate([values for _, values in seen])).to(logits.device)
        values = logits[rows, columns]
        repetition = _column([s.options.repetition_penalty for s in states], logits.device)[rows]
        frequency = _column([s.options.frequency_penalty for s in states], logits.device)[rows]
        presence = _column([s.options.presence_penalty for s in states], logits.device)[rows]
        values = torch.where(values > 0, values / repetition, values * repetition)
        logits[rows, columns] = values - frequency * counts - presence * (counts > 0)


def _weights(logits: Tensor, options: Sequence[SamplingOptions]) -> Tensor:
    """Unnormalised probabilities (n, V) after temperature, min-p, top-k and top-p; the largest is 1."""
    device = logits.device
    weights = logits - logits.max(dim=-1, keepdim=True).values
    if any(o.temperature != 1.0 for o in options):
        weights /= _column([o.temperature for o in options], device).unsqueeze(1)
    weights.exp_()
    if any(o.min_p for o in options):
        # The most likely token weighs 1, so that min_p is the threshold itself.
        weights.masked_fill_(weights < _column([o.min_p for o in options], device).unsqueeze(1), 0.0)
    vocab = logits.shape[1]
    filtered = [row for row, o in enumerate(options) if 0 < o.top_k < vocab or o.top_p < 1.0]
    if len(filtered) == len(options):
        _keep_nucleus(weights, options)
    elif filtered:
        part = weights[filtered]
        _keep_nucleus(part, [options[row] for row in filtered])
        weights[filtered] = part
    return weights


def _keep_nucleus(weights: Tensor, options: Sequence[SamplingOptions]) -> None:
    """Zero all but each row's ``top_k`` largest, of these all but the smallest set that holds ``top_p`` of their mass.

    Among equal weights the lower ids are kept, so that the result depends on the row alone.
    """
    vocab, device = weights.shape[1], weights.device
    top_k = [o.top_k if 0 < o.top_k < vocab else vocab for o in options]
    limit = torch.tensor(top_k, device=device).unsqueeze(1)
    top_p = _column([o.top_p for o in options], device).double().unsqueeze(1)
    # A row with top-k is settled by its k largest; for the others the nucleus is mostly far smaller than V.
    width = min(vocab, max(k if k < vocab else FIRST_CANDIDATES for k in top_k))
    while True:
        largest = weights.topk(width, dim=-1).values.double()
        largest.masked_fill_(torch.arange(width, device=device) >= limit, 0.0)
        mass = largest.cumsum(dim=-1)
        whole = torch.where(limit <= width, mass[:, -1:], weights.sum(dim=-1, keepdim=True, dtype=torch.float64))
        if width == vocab or bool(((mass[:, -1:] >= top_p * whole) | (limit <= width)).all()):
            break
        width = min(vocab, width * 8)
    before = mass - largest
    # Without top-p all mass is wanted, whatever rounding says of the last few tokens.
    kept = ((before < top_p * whole) | (top_p >= 1.0)) & (torch.arange(width, device=device) < limit)
    count = kept.sum(dim=-1, keepdim=True).clamp_(min=1)
    last = largest.gather(1, count - 1)
    equals = ((largest == last) & kept).sum(dim=-1, keepdim=True)
    threshold = last.float()
    tied = weights == threshold
    if bool((tied.sum(dim=-1, keepdim=True) > equals).any()):
        tied &= tied.cumsum(dim=-1) <= equals
    weights.masked_fill_(~(tied | (weights > threshold)), 0.0)


def _invert(weights: Tensor, draws: Sequence[float]) -> list[int]:
    """The token at which the cumulated weight passes each row's draw.

    In vocabulary order, not in order of likelihood: rounding that swaps two nearly equal logits then moves the
    result by that rounding's mass only.
    """
    rows, vocab = weights.shape
    spare = -vocab % STRIDE
    strides = (torch.nn.functional.pad(weights, (0, spare)) if spare else weights).view(rows, -1, STRIDE)
    # Two levels: sums of strides first, then one stride of each row.
    draw = torch.tensor(draws, dtype=torch.float64, device=weights.device).unsqueeze(1)
    sums = strides.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    stride, rest = _passes(sums, draw * sums[:, -1:])
    inner = strides.gather(1, stride.unsqueeze(2).expand(-1, 1, STRIDE)).squeeze(1).cumsum(dim=-1, dtype=torch.float64)
    token, _ = _passes(inner, rest)
    return [int(found) for found in (stride * STRIDE + token).squeeze(1).tolist()]


def _passes(mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where cumulated ``mass`` (n, m) first passes ``target`` (n, 1), and what of the target is left there."""
    # Strictly below the total, so that something passes it and nothing of weight 0 is ever found.
    total = mass[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    at = torch.searchsorted(mass, target, right=True)
    before = torch.where(at > 0, mass.gather(1, (at - 1).clamp(min=0)), 0.0)
    return at, target - before


def _flat(per_row: Sequence[npt.NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column indices of the given columns of each row."""
    rows = np.repeat(np.arange(len(per_row)), [len(ids) for ids in per_row])
    return torch.from_numpy(rows).to(device), torch.from_numpy(np.concatenate(per_row)).to(device)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _no_numbers() -> QuiltworkError:
    return QuiltworkError(
        "no token can be drawn: the model's logits are not finite, or every token is masked",
        hint="a weight may be broken, or min_tokens, logit_bias and response_format contradict each other",
    )
