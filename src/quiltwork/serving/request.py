"""One request being answered: tokens in, parts of text out, until every choice has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.servable import Json, Part, Stream
from quiltwork.serving.assembly import Assembled
from quiltwork.serving.detokenize import Detokenizer
from quiltwork.serving.experts import PER_TOKEN, Spent, spent_together
from quiltwork.serving.hosting import Language
from quiltwork.serving.metrics import Metrics
from quiltwork.serving.options import RequestOptions
from quiltwork.serving.sampling import Sampled
from quiltwork.serving.sequence import Emission
from quiltwork.serving.sequence import Sequence as TokenSequence
from quiltwork.serving.stop import StopScanner, StopStrings
from quiltwork.zoo.equivalence import Budget
from quiltwork.zoo.types import Substitution

EXACT = Budget()
"""Nothing may be lost."""
LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON does not have."""


@dataclass(eq=False)
class Choice:
    """One of a request's ``n`` answers."""

    index: int
    sequence: TokenSequence
    detokenizer: Detokenizer | None
    """None where the model has no tokenizer."""
    scanner: StopScanner | None
    finish_reason: str | None = None
    tokens: int = 0
    last_token_at: float | None = None
    held: list[int] = field(default_factory=list)
    """Tokens that have come, for which no part has been put yet."""


@dataclass(eq=False)
class Request:
    """A request with its choices. Everything but ``stream`` belongs to the engine thread once it is running."""

    language: Language
    model: str
    """The name it was asked under, for metrics."""
    prompt: Sequence[int]
    options: RequestOptions
    stream: Stream
    arrived: float
    """Clock time."""
    prompt_text: str | None = None
    """As it was given; None where it was given as token ids or messages."""
    choices: list[Choice] = field(default_factory=list)
    cached_tokens: int = 0
    ended: bool = False
    """Whether its room has been given back."""
    allowed: Budget = EXACT
    """What its answer may lose where an adapted model stands in."""
    assembled: Assembled | None = None
    """Which chain was chosen for it; None where there was no choice."""

    @property
    def spent(self) -> dict[str, Spent]:
        """What all its choices took together."""
        return spent_together(choice.sequence.spent for choice in self.choices)

    @property
    def unfinished(self) -> list[Choice]:
        """Choices that still run."""
        return [choice for choice in self.choices if choice.finish_reason is None]


def new_choice(language: Language, index: int, sequence: TokenSequence, stops: StopStrings | None) -> Choice:
    """A choice at its start."""
    codec = language.codec
    return Choice(
        index=index,
        sequence=sequence,
        detokenizer=codec.detokenizer(sequence.prompt) if codec is not None else None,
        scanner=StopScanner(stops) if stops is not None else None,
    )


def advance(
    request: Request, choice: Choice, emission: Emission, now: float, metrics: Metrics, cancel: Callable[[int], None]
) -> None:
    """Take one step's result for a choice and hand its text to the reader.

    ``cancel`` ends a sequence that the engine would go on with: no token is computed beyond a stop string.
    """
    if emission.error is not None:
        raise emission.error
    if choice.index == 0 and choice.last_token_at is None:
        request.cached_tokens = emission.cached_tokens
        if emission.prompt_logprobs is not None:
            request.stream.put(Part(_prompt_part(request, emission.prompt_logprobs)))
    if emission.token is None:
        return
    since = request.arrived if choice.last_token_at is None else choice.last_token_at
    metrics.token(request.model, now - since, first=choice.last_token_at is None)
    choice.last_token_at = now
    sampled, reason = emission.token, emission.finish_reason
    if request.options.max_tokens == 0:
        # Only the prompt's log-probabilities were asked for.
        _finish(request, choice, "", [], None, "length", None)
        return
    choice.tokens += 1
    choice.held.append(sampled.token)
    asks_logprobs = request.options.sampling.logprobs is not None
    if reason is None and request.stream.patient and choice.scanner is None and not asks_logprobs:
        return
    tokens, choice.held = choice.held, []
    text, matched = _text(choice, tokens, reason, request.options.sampling.min_tokens)
    stop_reason: Json = matched
    if matched is not None:
        if reason is None:
            cancel(choice.sequence.id)
        reason = "stop"
    elif reason == "stop" and sampled.token in request.options.stop_token_ids:
        stop_reason = sampled.token
    logprobs = [_entry(request.language, sampled)] if asks_logprobs else None
    if reason is not None:
        _finish(request, choice, text, tokens, logprobs, reason, stop_reason)
    else:
        request.stream.put(_part(choice.index, text, tokens, logprobs, None, None))


def usage_part(request: Request) -> Part:
    """The last part: what was used, what served it and, where that was asked, what each choice went through."""
    served = request.choices[0].sequence.version if request.choices else None
    model = served.chain.model if served is not None else request.language.model
    accepted = sum(choice.sequence.accepted for choice in request.choices)
    fields: dict[str, Json] = {
        "usage": {
            "prompt_tokens": len(request.prompt),
            "completion_tokens": sum(choice.tokens for choice in request.choices),
            "cached_tokens": request.cached_tokens,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": sum(choice.sequence.drafted for choice in request.choices) - accepted,
            "relaxed_prediction_tokens": sum(choice.sequence.relaxed_tokens for choice in request.choices),
            **_experts(request.spent.get(PER_TOKEN)),
        },
        "served": {
            "model": str(model.ref),
            "version": model.version,
            "family": model.family,
            "segments": len(served.route) if served is not None else 0,
            "substitutions": [_substitution(one) for one in model.substitutions],
        },
    }
    assembled = request.assembled
    if assembled is not None and assembled.adaptively:
        fields["served"]["assembled"] = assembled.served()
    if request.options.explain:
        told = {} if assembled is None else {"assembly": assembled.explained()}
        fields["explain"] = {
            "choices": [
                {**_explained(choice), **told} for choice in request.choices if choice.sequence.trace is not None
            ]
        }
    return Part(fields, last=True)


def _experts(spent: Spent | None) -> dict[str, Json]:
    """Experts that tokens took, over all layers with any, and how often one took some; nothing for other models."""
    return {} if spent is None else {"experts_taken": round(spent.total), "expert_layer_tokens": spent.count}


def _explained(choice: Choice) -> dict[str, Json]:
    sequence = choice.sequence
    assert sequence.trace is not None
    told = {"index": choice.index, **sequence.trace.to_json()}
    if sequence.drafted:
        told["speculation"] = {"drafted": sequence.drafted, "accepted": sequence.accepted}
        if sequence.relaxed is not None:
            told["speculation"]["relaxed"] = sequence.relaxed_tokens
    return told


def _substitution(one: Substitution) -> dict[str, Json]:
    """What a reply says of a block that served in another's place; its cost is with all listed before it."""
    return {
        "part": one.part,
        "block": one.serving[0],
        "instead_of": one.original[0],
        "model": str(one.source),
        "delta_loss": one.total_delta_loss,
        "agreement": one.total_agreement,
    }


def empty_choice(index: int) -> Part:
    """An answer of no tokens."""
    return _part(index, "", [], None, "length", None)


def _text(choice: Choice, tokens: Sequence[int], reason: str | None, min_tokens: int) -> tuple[str, str | None]:
    """What of the tokens' text may be shown now, and the stop string it completed."""
    if choice.detokenizer is None:
        return "", None
    ended_by_token = reason == "stop" and tokens[-1] in choice.sequence.stop_ids
    text = choice.detokenizer.push(tokens[:-1] if ended_by_token else tokens)
    if reason is not None:
        text += choice.detokenizer.flush()
    if choice.scanner is None or (choice.tokens <= min_tokens and reason is None):
        return text, None
    shown, matched = choice.scanner.push(text)
    if matched is None and reason is not None:
        shown += choice.scanner.flush()
    return shown, matched


def _finish(
    request: Request,
    choice: Choice,
    text: str,
    token_ids: list[int],
    logprobs: list[Json] | None,
    reason: str,
    stop_reason: Json,
) -> None:
    choice.finish_reason = reason
    request.stream.put(_part(choice.index, text, token_ids, logprobs, reason, stop_reason))
    if choice.sequence.trace is not None:
        choice.sequence.trace.enter(None)


def _part(
    index: int,
    text: str,
    token_ids: list[int],
    logprobs: list[Json] | None,
    finish_reason: str | None,
    stop_reason: Json,
) -> Part:
    return Part(
        {
            "index": index,
            "text": text,
            "token_ids": token_ids,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
        }
    )


def _prompt_part(request: Request, logprobs: Sequence[Sampled | None]) -> dict[str, Json]:
    language = request.language
    text = request.prompt_text or ""
    if request.prompt_text is None and language.codec is not None:
        text = language.codec.decode(request.prompt, skip_special_tokens=False)
    return {
        "index": 0,
        "prompt_logprobs": [_entry(language, item) if item is not None else None for item in logprobs],
        "prompt_token_ids": list(request.prompt),
        "prompt_text": text,
    }


def _entry(language: Language, sampled: Sampled) -> dict[str, Json]:
    top = [_token(language, id, logprob) for id, logprob in sampled.top]
    assert sampled.logprob is not None, "asked for, so it is there"
    return {**_token(language, sampled.token, sampled.logprob), "top": top}


def _token(language: Language, id: int, logprob: float) -> dict[str, Json]:
    logprob = max(logprob, LEAST_LOGPROB)
    if language.codec is None:
        return {"id": id, "token": "", "bytes": [], "logprob": logprob}
    shown = language.codec.shown(id)
    return {"id": id, "token": shown.text, "bytes": list(shown.data), "logprob": logprob}


def failure(error: Exception) -> QuiltworkError:
    """What a reader is told of an error that is not one of ours."""
    if isinstance(error, QuiltworkError):
        return error
    wrapped = QuiltworkError(f"the engine failed: {type(error).__name__}: {str(error)[:200]}")
    wrapped.__cause__ = error
    return wrapped
