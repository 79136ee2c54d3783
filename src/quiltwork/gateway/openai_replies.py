"""A language Servable's parts in the shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.core.servable import Json


@dataclass
class Usage:
    """Tokens, summed over the prompts of a request."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    accepted: int = 0
    rejected: int = 0
    relaxed: int = 0
    experts: int = 0
    """Experts that tokens took, over all layers with any."""
    expert_tokens: int = 0
    """How often a token took some."""
    served: dict[int, Json] = field(default_factory=dict)
    """What served each prompt, by the reply's index of its first choice."""
    explained: dict[str, Json] | None = None
    """What each choice went through, where that was asked for."""

    def add(self, fields: Mapping[str, Json], first: int) -> None:
        """Take in a stream's last part; ``first`` is the reply's index of its first choice."""
        usage = fields.get("usage", {})
        self.prompt += usage.get("prompt_tokens", 0)
        self.completion += usage.get("completion_tokens", 0)
        self.cached += usage.get("cached_tokens", 0)
        self.accepted += usage.get("accepted_prediction_tokens", 0)
        self.rejected += usage.get("rejected_prediction_tokens", 0)
        self.relaxed += usage.get("relaxed_prediction_tokens", 0)
        self.experts += usage.get("experts_taken", 0)
        self.expert_tokens += usage.get("expert_layer_tokens", 0)
        if "served" in fields:
            self.served[first] = fields["served"]
        if "explain" in fields:
            told = fields["explain"]
            before = self.explained["choices"] if self.explained is not None else []
            renumbered = [{**choice, "index": first + choice["index"]} for choice in told["choices"]]
            choices = sorted([*before, *renumbered], key=lambda choice: int(choice["index"]))
            self.explained = {**told, "choices": choices}

    def about(self) -> dict[str, Json]:
        """What stands in a reply beside OpenAI's own fields: what served it and, where it was asked, what happened.

        Where prompts were served by different models, ``served_each`` has a row for each of them.
        """
        told: dict[str, Json] = {} if self.explained is None else {"explain": self.explained}
        each = [self.served[at] for at in sorted(self.served)]
        if any(one != each[0] for one in each):
            told["served_each"] = each
        return {"served": each[0] if each else None, **told}

    def shown(self) -> dict[str, Json]:
        """OpenAI's ``usage``."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.rejected,
                # Not one of OpenAI's, so it is there only where there is something to say.
                **({"relaxed_prediction_tokens": self.relaxed} if self.relaxed else {}),
            },
            # Neither is this: the mean over all tokens that were computed and all layers with experts.
            **({"experts_per_token": round(self.experts / self.expert_tokens, 4)} if self.expert_tokens else {}),
        }


@dataclass
class Echo:
    """A prompt to be given back before what follows it."""

    text: str = ""
    logprobs: Sequence[Json] | None = None


@dataclass
class _Choice:
    """What the choices of both kinds of reply gather."""

    index: int
    text: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    has_logprobs: bool = False
    finish_reason: str | None = None
    stop_reason: Json = None

    def gather(self, fields: Mapping[str, Json]) -> None:
        """Take in a part's text and how it ended."""
        self.text.append(fields["text"])
        self.finish_reason = fields.get("finish_reason")
        self.stop_reason = fields.get("stop_reason")


@dataclass
class CompletionChoice(_Choice):
    """One choice of /v1/completions, as it grows."""

    offset: int = 0
    """Characters given so far, for ``text_offset``."""

    def begin(self, echo: Echo) -> dict[str, Json]:
        """Put the prompt first. Returns the delta."""
        self.text.append(echo.text)
        return self._shown(echo.text, echo.logprobs)

    def take(self, fields: Mapping[str, Json]) -> dict[str, Json]:
        """Take in a part of this choice. Returns the delta, a choice of a stream's chunk."""
        self.gather(fields)
        return self._shown(fields["text"], fields.get("logprobs"))

    def _shown(self, text: str, logprobs: Sequence[Json] | None) -> dict[str, Json]:
        shown = None
        if logprobs is not None:
            self.has_logprobs = True
            entries = list(logprobs)
            shown = completion_logprobs(entries, self.offset)
            self.logprobs += entries
            self.offset += sum(len(entry["token"]) for entry in entries)
        return {
            "index": self.index,
            "text": text,
            "logprobs": shown,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
        }

    def whole(self) -> dict[str, Json]:
        """All of it, a choice of a reply that is not streamed."""
        return {
            "index": self.index,
            "text": "".join(self.text),
            "logprobs": completion_logprobs(self.logprobs, 0) if self.has_logprobs else None,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
        }


@dataclass
class ChatChoice(_Choice):
    """One choice of /v1/chat/completions, as it grows."""

    def opening(self) -> dict[str, Json]:
        """The first delta: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def take(self, fields: Mapping[str, Json]) -> dict[str, Json]:
        """Take in a part of this choice. Returns the delta, a choice of a stream's chunk."""
        self.gather(fields)
        entries, shown = fields.get("logprobs"), None
        if entries is not None:
            self.has_logprobs = True
            self.logprobs += entries
            shown = {"content": [chat_logprob(entry) for entry in entries], "refusal": None}
        return {
            "index": self.index,
            "delta": {"content": fields["text"]} if fields["text"] or self.finish_reason is None else {},
            "logprobs": shown,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
        }

    def whole(self) -> dict[str, Json]:
        """All of it, a choice of a reply that is not streamed."""
        content = [chat_logprob(entry) for entry in self.logprobs]
        return {
            "index": self.index,
            "message": {"role": "assistant", "content": "".join(self.text), "refusal": None},
            "logprobs": {"content": content, "refusal": None} if self.has_logprobs else None,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
        }


def completion_logprobs(entries: Sequence[Json], offset: int) -> dict[str, Json]:
    """The legacy form: four lists side by side. None stands for a prompt's first token, which nothing predicts."""
    tokens: list[str] = []
    offsets: list[int] = []
    for entry in entries:
        tokens.append(entry["token"])
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": tokens,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [_top(entry) for entry in entries],
        "text_offset": offsets,
    }


def _top(entry: Json) -> dict[str, float] | None:
    if entry["logprob"] is None:
        return None
    # OpenAI: the sampled token is always among them.
    return {item["token"]: item["logprob"] for item in [*entry.get("top", ()), entry]}


def chat_logprob(entry: Json) -> dict[str, Json]:
    """A token in the form of chat completions."""
    return {**_token(entry), "top_logprobs": [_token(item) for item in entry.get("top", ())]}


def _token(item: Json) -> dict[str, Json]:
    return {"token": item["token"], "logprob": item["logprob"], "bytes": item.get("bytes")}


def prompt_entries(fields: Mapping[str, Json], first_token: str) -> list[Json]:
    """A prompt report's tokens; the first one has no log-probability, so its text is handed in."""
    return [
        entry if entry is not None else {"token": first_token, "logprob": None, "top": []}
        for entry in fields["prompt_logprobs"]
    ]


def prompt_report(fields: Mapping[str, Json]) -> list[Json]:
    """``prompt_logprobs`` in vLLM's form: per token a map of id to log-probability, None for the first."""
    rows: list[Json] = []
    for entry in fields["prompt_logprobs"]:
        if entry is None:
            rows.append(None)
            continue
        items = [*entry.get("top", ()), entry]
        rows.append({str(i["id"]): {"logprob": i["logprob"], "decoded_token": i["token"]} for i in items})
    return rows
