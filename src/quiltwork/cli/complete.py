"""``quiltwork complete``: one text, gone on with."""

from __future__ import annotations

import json as jsonlib
import sys
from typing import Annotated

import typer
from openai.types import Completion

from quiltwork.cli.client import (
    EXPERTS_HELP,
    check_ended,
    check_text,
    connect,
    experts_of,
    naming_errors,
    pick_model,
)
from quiltwork.cli.explained import explained, show_explained
from quiltwork.core.errors import BadInputError, QuiltworkError


def complete(
    prompt: Annotated[str | None, typer.Argument(help="The text; standard input where absent or '-'.")] = None,
    model: Annotated[str | None, typer.Option(help="Which one; may be left out where there is one.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 128,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    experts: Annotated[str | None, typer.Option(help=EXPERTS_HELP)] = None,
    url: Annotated[str, typer.Option(envvar="QUILTWORK_URL", help="The server.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(envvar="QUILTWORK_API_KEY", help="An API key.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell what the request went through.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON.")] = False,
) -> None:
    """Complete a text with a running server, and print what comes as it comes."""
    if prompt is None or prompt == "-":
        try:
            prompt = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise BadInputError(f"is not UTF-8 at byte {error.start}", where="standard input") from error
    check_text(prompt, "prompt")
    if model is not None:
        check_text(model, "--model")
    with naming_errors(url), connect(url, key) as client:
        model = pick_model(client) if model is None else model
        fixed: dict[str, object] = {} if temperature is None else {"temperature": temperature}
        if explain:
            fixed["explain"] = True
        if experts is not None:
            fixed["experts"] = experts_of(experts)
        if json:
            whole = client.completions.create(model=model, prompt=prompt, max_tokens=max_tokens, extra_body=fixed)
            if not isinstance(whole, Completion):
                raise QuiltworkError("is not a server of OpenAI's shape", where=url)
            print(jsonlib.dumps(whole.model_dump(mode="json"), ensure_ascii=False))
            return
        reason, told = None, None
        with client.completions.create(
            model=model, prompt=prompt, max_tokens=max_tokens, stream=True, extra_body=fixed
        ) as chunks:
            try:
                for chunk in chunks:
                    for choice in chunk.choices:
                        print(choice.text, end="", flush=True)
                        reason = choice.finish_reason or reason
                    told = explained(chunk, url) or told
            finally:
                print()
        check_ended(reason, url)
        if explain:
            show_explained(told, url)
