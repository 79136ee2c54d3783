"""``quiltwork chat``: talk with a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from openai.types.chat import ChatCompletionMessageParam

from quiltwork.cli.client import (
    EXPERTS_HELP,
    check_ended,
    check_models,
    check_text,
    connect,
    experts_of,
    naming_errors,
)
from quiltwork.cli.explained import explained, show_explained
from quiltwork.core.errors import BadInputError


def chat(
    model: Annotated[str, typer.Argument(help="Which model.")],
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    experts: Annotated[str | None, typer.Option(help=EXPERTS_HELP)] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell what each answer went through.")] = False,
    url: Annotated[str, typer.Option(envvar="QUILTWORK_URL", help="The server.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(envvar="QUILTWORK_API_KEY", help="An API key.")] = None,
) -> None:
    """Talk with a model of a running server. An empty line or Ctrl-D ends it; Ctrl-C stops an answer."""
    messages: list[ChatCompletionMessageParam] = []
    if system is not None:
        messages.append({"role": "system", "content": check_text(system, "--system")})
    options: dict[str, object] = {"max_tokens": max_tokens, "temperature": temperature, "explain": explain or None}
    options["experts"] = None if experts is None else experts_of(experts)
    extra = {name: value for name, value in options.items() if value is not None}
    asking = sys.stdin.isatty()
    with naming_errors(url), connect(url, key) as client:
        check_models(client, [model])
        while said := _said(asking):
            messages.append({"role": "user", "content": said})
            answer, reason, told, stopped = "", None, None, False
            with client.chat.completions.create(
                model=model, messages=messages, stream=True, extra_body=extra
            ) as chunks:
                try:
                    for chunk in chunks:
                        for choice in chunk.choices:
                            text = choice.delta.content or ""
                            answer += text
                            print(text, end="", flush=True)
                            reason = choice.finish_reason or reason
                        told = explained(chunk, url) or told
                except KeyboardInterrupt:
                    print(" [stopped]", end="")
                    reason, stopped = "stop", True
                finally:
                    print()
            check_ended(reason, url)
            if explain and not stopped:
                show_explained(told, url)
            messages.append({"role": "assistant", "content": answer})


def _said(asking: bool) -> str:
    """The next line of standard input; empty where there is nothing more to say."""
    try:
        said = check_text(input("> " if asking else ""), "standard input")
    except (EOFError, KeyboardInterrupt):
        return ""
    except UnicodeDecodeError as error:
        raise BadInputError(f"is not UTF-8 at byte {error.start}", where="standard input") from error
    return said if said.strip() else ""
