"""``quiltwork chat``: talk with a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from openai.types.chat import ChatCompletionMessageParam

from quiltwork.cli.client import connect, naming_errors
from quiltwork.core.errors import QuiltworkError


def chat(
    model: Annotated[str, typer.Argument(help="Which model.")],
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    url: Annotated[str, typer.Option(envvar="QUILTWORK_URL", help="The server.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(envvar="QUILTWORK_API_KEY", help="An API key.")] = None,
) -> None:
    """Talk with a model of a running server. An empty line or Ctrl-D ends it; Ctrl-C stops an answer."""
    messages: list[ChatCompletionMessageParam] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    options = {"max_tokens": max_tokens, "temperature": temperature}
    extra = {name: value for name, value in options.items() if value is not None}
    asking = sys.stdin.isatty()
    with naming_errors(url), connect(url, key) as client:
        client.models.retrieve(model)
        while True:
            try:
                said = input("> " if asking else "")
            except (EOFError, KeyboardInterrupt):
                return
            except UnicodeDecodeError as error:
                raise QuiltworkError(f"is not UTF-8 at byte {error.start}", where="standard input") from error
            if not said.strip():
                return
            messages.append({"role": "user", "content": said})
            answer = ""
            with client.chat.completions.create(
                model=model, messages=messages, stream=True, extra_body=extra
            ) as chunks:
                try:
                    for chunk in chunks:
                        for choice in chunk.choices:
                            text = choice.delta.content or ""
                            answer += text
                            print(text, end="", flush=True)
                except KeyboardInterrupt:
                    print(" [stopped]", end="")
            print()
            messages.append({"role": "assistant", "content": answer})
