"""What a request becomes before anything runs: its prompt's tokens, how many may follow, one sequence per choice."""

from __future__ import annotations

from collections.abc import Iterator

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving.experts import OPTION
from quiltwork.serving.hosting import Language
from quiltwork.serving.options import RequestOptions, check_token_id
from quiltwork.serving.request import Choice, Request, new_choice
from quiltwork.serving.sampling import SamplerState
from quiltwork.serving.sequence import Sequence
from quiltwork.serving.stop import StopStrings


def prompt_ids(language: Language, input: Input, *, limit: int, vocab_size: int) -> list[int]:
    """Token ids of a completion's or chat's prompt.

    Parameters
    ----------
    limit : tokens of prompt and answer together.
    vocab_size : ids the model has rows for.

    Raises BadInputError naming ``prompt`` or ``messages`` where it is malformed, empty or too long.
    """
    where = "messages" if input.task == "chat" else "prompt"
    if input.task == "chat":
        prompt = language.render(input.fields["messages"])
    elif isinstance(input.fields["prompt"], str):
        codec, text = language.need_codec("prompt"), input.fields["prompt"]
        if codec.at_least(text) > limit:
            raise _too_long(f"at least {codec.at_least(text)}", limit, where)
        prompt = codec.encode(text)
    else:
        if len(input.fields["prompt"]) > limit:
            raise _too_long(str(len(input.fields["prompt"])), limit, where)
        prompt = [check_token_id(id, vocab_size, where=where) for id in input.fields["prompt"]]
    if not prompt:
        raise BadInputError("has no tokens", where=where)
    if max(prompt) >= vocab_size:
        raise BadInputError(f"has the token {max(prompt)}, which the model does not know", where=where)
    if len(prompt) >= limit:
        raise _too_long(str(len(prompt)), limit, where)
    return prompt


def most_tokens(options: RequestOptions, prompt: int, limit: int) -> int:
    """Tokens to generate at most after ``prompt`` tokens; at least 1.

    Raises BadInputError where prompt and answer do not fit the model's ``limit``.
    """
    wanted = options.max_tokens
    if wanted is not None and prompt + wanted > limit:
        raise BadInputError(
            f"{wanted} and a prompt of {prompt} tokens are more than the model's {limit}",
            where="max_tokens",
            hint=f"at most {limit - prompt} fit",
        )
    if wanted is None and options.sampling.min_tokens > limit - prompt:
        raise BadInputError(
            f"{options.sampling.min_tokens} and a prompt of {prompt} tokens are more than the model's {limit}",
            where="min_tokens",
        )
    return limit - prompt if wanted is None else max(wanted, 1)


def new_choices(
    request: Request, model: ModelRef, caller: Caller, max_tokens: int, seed: int, ids: Iterator[int]
) -> list[Choice]:
    """The request's ``n`` choices as sibling sequences; they share the prompt's cached state and draw differently.

    Raises BadInputError where the response format cannot be compiled.
    """
    language, options, prompt = request.language, request.options, list(request.prompt)
    grammar = language.grammar(options.response_format)
    stops = StopStrings(options.stop) if options.stop else None
    end_ids = frozenset() if options.ignore_eos else language.eos_ids
    choices: list[Choice] = []
    for index in range(options.n):
        sampler = SamplerState(
            options.sampling,
            prompt,
            grammar.copy() if grammar is not None else None,
            stop_ids=end_ids | options.stop_token_ids,
            seed=seed,
            choice=index,
        )
        sequence = Sequence(
            id=next(ids),
            model=model,
            prompt=prompt,
            sampler=sampler,
            max_tokens=max_tokens,
            stop_ids=end_ids | options.stop_token_ids,
            tenant=caller.tenant,
            public_prefix=options.public_prefix,
            adapter_scale=options.adapter_scale,
            state_options={} if options.experts is None else {OPTION: options.experts},
            prompt_logprobs=options.prompt_logprobs if index == 0 else None,
            explain=options.explain,
            speculation=options.speculation,
            relaxed=options.relaxed_share,
        )
        choices.append(new_choice(language, index, sequence, stops))
    return choices


def _too_long(tokens: str, limit: int, where: str) -> BadInputError:
    return BadInputError(
        f"has {tokens} tokens; the model takes {limit}, of which the answer needs at least one", where=where
    )
