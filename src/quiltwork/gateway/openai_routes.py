"""The routes that OpenAI's clients know: models, completions, chat completions."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quiltwork.core.errors import QuiltworkError, UnsupportedError
from quiltwork.core.servable import Caller, Explains, Input, Json, Part, Stream, TaskSchema
from quiltwork.gateway.body import read_object
from quiltwork.gateway.chunks import ChunkWriter, event
from quiltwork.gateway.directory import Found
from quiltwork.gateway.door import House, caller_of, house_of, visitor_of
from quiltwork.gateway.measure import Latency
from quiltwork.gateway.openai_replies import (
    ChatChoice,
    CompletionChoice,
    Echo,
    Usage,
    prompt_entries,
    prompt_report,
)
from quiltwork.gateway.openai_requests import Asked, read_chat, read_completion
from quiltwork.gateway.replies import EventStream, in_thread, merged, start_all, until_gone

router = APIRouter()


@router.get("/v1/models", tags=["OpenAI"], summary="The models that this key may use")
async def list_models(request: Request) -> JSONResponse:
    """Every model and adapter under its own id."""
    house, visitor = house_of(request), visitor_of(request)
    created = int(house.started)
    return JSONResponse(
        {"object": "list", "data": [_card(found, created) for found in house.directory.visible(visitor.tenant)]}
    )


@router.get("/v1/models/{model:path}", tags=["OpenAI"], summary="One model")
async def one_model(request: Request, model: str) -> JSONResponse:
    """What is known of a model."""
    house, visitor = house_of(request), visitor_of(request)
    return JSONResponse(_card(house.directory.find(model, visitor.tenant), int(house.started)))


@router.get("/v1/explain/{model:path}", tags=["Administration"], summary="How a model is made up")
async def explain_model(request: Request, model: str) -> JSONResponse:
    """Its parts, who shares them, where it is cut, what was substituted. Other tenants' models are only counted."""
    house, visitor = house_of(request), visitor_of(request)
    found = house.directory.find(model, visitor.tenant, everything=visitor.admin)
    servable = found.servable
    if not isinstance(servable, Explains):
        raise UnsupportedError(f"models of kind {servable.kind} are not explained", where="model")
    tenant = None if visitor.admin else visitor.tenant
    return JSONResponse(dict(await asyncio.to_thread(servable.explain, found.ref, tenant=tenant)))


def _card(found: Found, created: int) -> dict[str, Json]:
    ref, info = found.ref, found.hosted.info
    return {
        "id": ref.name,
        "object": "model",
        "created": created,
        "owned_by": ref.tenant,
        "root": info.get("alias_of", ref.name),
        "parent": info.get("parent"),
        "max_model_len": info.get("max_model_len"),
        "state": found.hosted.state,
        "tasks": sorted(found.servable.tasks()),
        "info": dict(info),
    }


@router.post("/v1/completions", tags=["OpenAI"], summary="Go on with a text")
async def completions(request: Request) -> Response:
    """OpenAI's completions; the prompt may be given as token ids."""
    return await _answer(request, "completion", read_completion)


@router.post("/v1/chat/completions", tags=["OpenAI"], summary="Answer in a conversation")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions."""
    return await _answer(request, "chat", read_chat)


async def _answer(request: Request, task: str, read: Callable[[Mapping[str, Json], TaskSchema], Asked]) -> Response:
    house, visitor = house_of(request), visitor_of(request)
    with ExitStack() as inside:
        inside.enter_context(house.turnstile.enter(visitor.tenant))
        body = await read_object(request, house.limits.body_bytes)
        found = house.directory.find(body.get("model"), visitor.tenant, task)
        # Thousands of stop strings take a while to check.
        asked = await asyncio.to_thread(read, body, found.servable.tasks()[task])
        request.state.access = {"tenant": visitor.tenant, "model": asked.model, "user": asked.user}
        chat = task == "chat"
        reply = _Reply(house, asked, found, caller_of(request, visitor), chat, int(house.wall_clock()))
        if not asked.stream:
            return JSONResponse(await until_gone(request, reply.whole()))
        streams = await until_gone(request, reply.start())
        return EventStream(reply.chunks(streams), inside.pop_all())


@dataclass
class _Reply:
    """One request being answered: several prompts, several choices of each."""

    house: House
    asked: Asked
    found: Found
    caller: Caller
    chat: bool
    created: int
    usage: Usage = field(default_factory=Usage)
    choices: dict[int, ChatChoice | CompletionChoice] = field(default_factory=dict)
    reports: dict[int, Json] = field(default_factory=dict)
    """Prompt log-probabilities by prompt, where they were asked for."""
    id: str = ""

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex
        self.started = self.house.clock()
        self.first: float | None = None

    async def start(self) -> list[Stream]:
        """Hand every prompt to the Servable."""
        submit = functools.partial(self.found.servable.submit, self.found.ref)
        return await start_all(
            [functools.partial(submit, item, self.asked.options, caller=self.caller) for item in self.asked.inputs]
        )

    async def whole(self) -> dict[str, Json]:
        """The reply that is not streamed."""
        async for _ in self._deltas(await self.start(), patient=True):
            continue
        shown = []
        for index, choice in sorted(self.choices.items()):
            whole = choice.whole()
            if self._shows_report and index % self.asked.n == 0:
                whole["prompt_logprobs"] = self.reports.get(index // self.asked.n)
            shown.append(whole)
        return {
            **self._head(streamed=False),
            "choices": shown,
            "usage": self.usage.shown(),
            **self.usage.about(),
        }

    async def chunks(self, streams: list[Stream]) -> AsyncIterator[bytes]:
        """The reply as server-sent events."""
        head = self._head(streamed=True)
        usage: dict[str, Json] = {"usage": None} if self.asked.include_usage else {}
        writer = ChunkWriter({**head, **usage})
        async for deltas in self._deltas(streams):
            yield b"".join([writer.event(delta) for delta in deltas])
        if self.asked.include_usage or self.usage.explained is not None:
            if self.asked.include_usage:
                usage = {"usage": self.usage.shown()}
            yield event({**head, "choices": [], **usage, **self.usage.about()})

    def _head(self, *, streamed: bool) -> dict[str, Json]:
        kind = "text_completion" if not self.chat else "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model}

    @property
    def _shows_report(self) -> bool:
        return self.asked.wants_prompt_report and not self.asked.echo

    async def _deltas(self, streams: list[Stream], *, patient: bool = False) -> AsyncIterator[list[Json]]:
        """Choices of chunks as they come; those that wait come together."""
        waiting: dict[int, list[Mapping[str, Json]]] = {}
        if self.asked.echo and not self.asked.wants_prompt_report:
            try:
                echoes = [Echo(await self._prompt_text(item)) for item in self.asked.inputs]
            except BaseException:
                for stream in streams:
                    stream.cancel()
                raise
            yield [delta for at, echo in enumerate(echoes) for delta in self._open(at, echo)]
        elif self.asked.echo:
            waiting = {at: [] for at in range(len(streams))}
        elif opened := [delta for at in range(len(streams)) for delta in self._open(at, None)]:
            yield opened
        batches = merged(streams, patient=patient)
        try:
            async for parts in batches:
                deltas: list[Json] = []
                for at, part in parts:
                    fields = self._note(at, part)
                    if "prompt_logprobs" in fields:
                        echo = await self._reported(at, fields)
                        if at in waiting:
                            deltas += self._open(at, echo)
                            deltas += [self._take(at, held) for held in waiting.pop(at)]
                    elif "index" in fields:
                        if at in waiting:
                            waiting[at].append(fields)
                        else:
                            deltas.append(self._take(at, fields))
                if deltas:
                    yield deltas
        finally:
            await batches.aclose()  # type: ignore[attr-defined]
        self._finished()

    def _open(self, at: int, echo: Echo | None) -> list[Json]:
        """Make a prompt's choices. Returns their first deltas."""
        deltas: list[Json] = []
        for index in range(at * self.asked.n, (at + 1) * self.asked.n):
            if self.chat:
                chat = ChatChoice(index)
                self.choices[index] = chat
                deltas.append(chat.opening())
            else:
                choice = CompletionChoice(index)
                self.choices[index] = choice
                if echo is not None:
                    deltas.append(choice.begin(echo))
        return deltas

    def _take(self, at: int, fields: Mapping[str, Json]) -> Json:
        return self.choices[at * self.asked.n + fields["index"]].take(fields)

    def _note(self, at: int, part: Part) -> Mapping[str, Json]:
        if self.first is None:
            self.first = self.house.clock() - self.started
        if part.last:
            self.usage.add(part.fields, at * self.asked.n)
        return part.fields

    async def _reported(self, at: int, fields: Mapping[str, Json]) -> Echo:
        self.reports[at] = prompt_report(fields)
        if not self.asked.echo:
            return Echo()
        ids = fields["prompt_token_ids"]
        first = await self._detokenized(ids[:1]) if ids else ""
        return Echo(fields["prompt_text"], prompt_entries(fields, first))

    async def _prompt_text(self, item: Input) -> str:
        prompt = item.fields["prompt"]
        return prompt if isinstance(prompt, str) else await self._detokenized(prompt)

    async def _detokenized(self, ids: list[int]) -> str:
        if "detokenize" not in self.found.servable.tasks():
            raise UnsupportedError("needs a model that can detokenize", where="echo")
        fields = {"tokens": ids}
        start = functools.partial(
            self.found.servable.submit, self.found.ref, Input("detokenize", fields), {}, caller=self.caller
        )
        async for part in await in_thread(start):
            return str(part.fields["prompt"])
        raise QuiltworkError("gave no text", where="detokenize")

    def _finished(self) -> None:
        total = self.house.clock() - self.started
        first = self.first if self.asked.stream else None
        self.house.traffic.served(Latency(self.asked.model, self.caller.tenant, first, total, self.usage.completion))
