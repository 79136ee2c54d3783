"""What a model brings besides weights: its tokenizer, chat template, end tokens and sampling defaults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from quiltwork.core.errors import BadInputError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Json
from quiltwork.serving.chat import ChatTemplate, no_template
from quiltwork.serving.grammar import GrammarCompiler, TokenGrammar, schema_of
from quiltwork.serving.options import parse_options
from quiltwork.serving.text import CODEC_FILES, TOKENIZER_FILES, TextCodec, load_codec
from quiltwork.zoo.types import Chain, Model, RawTensor, TensorRef

DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's generation_config.json decides where the request does not."""


class ModelSource(Protocol):
    """The part of a zoo that serving reads."""

    def chain(self, ref: ModelRef) -> Chain:
        """The model as a chain; raises NotFoundError or UnsupportedError."""
        ...

    def model(self, ref: ModelRef) -> Model:
        """The model's manifest; raises NotFoundError."""
        ...

    def read(self, ref: TensorRef) -> RawTensor:
        """A tensor's bytes."""
        ...

    def read_file(self, model: Model, name: str) -> bytes:
        """A small file's bytes."""
        ...


@dataclass(frozen=True, eq=False)
class Language:
    """One version of a model, as text goes in and out of it."""

    model: Model
    codec: TextCodec | None
    no_codec: str
    """Why there is no codec."""
    tokenizer_from: ModelRef | None
    """Whose tokenizer it is: the model's own, or that of the model it was made from."""
    eos_ids: frozenset[int]
    defaults: Mapping[str, Json]
    template_source: str | None
    now: Callable[[], datetime]
    compilers: MutableMapping[frozenset[int], GrammarCompiler]
    """Grammar compilers by end tokens, shared by all models with this codec."""

    @property
    def ref(self) -> ModelRef:
        """The model."""
        return self.model.ref

    def need_codec(self, where: str) -> TextCodec:
        """The codec; raises BadInputError naming ``where`` if there is none."""
        if self.codec is None:
            raise BadInputError(
                f"{self.ref} has no tokenizer{self.no_codec}",
                where=where,
                hint="send token ids, or add the model with its tokenizer",
            )
        return self.codec

    @cached_property
    def _template(self) -> ChatTemplate:
        if self.template_source is None:
            raise no_template(str(self.ref))
        named = self.codec.named if self.codec is not None else {}
        return ChatTemplate(self.template_source, named, self.now)

    def render(self, messages: Json) -> list[int]:
        """Token ids of a chat's prompt. Raises BadInputError naming what is wrong, or ``--chat-template``."""
        codec = self.need_codec("messages")
        # A template writes its own beginning-of-sequence token.
        return codec.encode(self._template.render(messages), add_special_tokens=False, where="messages")

    def grammar(self, response_format: Mapping[str, Json] | None) -> TokenGrammar | None:
        """What a response format holds the output to; None for plain text. Raises BadInputError."""
        if response_format is None or schema_of(response_format) is None:
            return None
        compiler = self.compilers.get(self.eos_ids)
        if compiler is None:
            compiler = GrammarCompiler(self.need_codec("response_format").to_json(), self.eos_ids)
            self.compilers[self.eos_ids] = compiler
        return compiler.compile(response_format)


class LanguageLoader:
    """Reads models' text files; models with the same tokenizer files share one codec.

    Parameters
    ----------
    source : the zoo.
    chat_template : the template of every model, whatever it brings; None for its own.
    now : the time chat templates may ask for.
    """

    def __init__(self, source: ModelSource, chat_template: str | None, now: Callable[[], datetime]) -> None:
        self._source = source
        self._chat_template = chat_template
        self._now = now
        # Held by the models that use them: what nobody serves any more is freed.
        self._codecs: WeakValueDictionary[tuple[tuple[str, str], ...], TextCodec] = WeakValueDictionary()
        self._compilers: WeakKeyDictionary[TextCodec, dict[frozenset[int], GrammarCompiler]] = WeakKeyDictionary()

    def load(self, model: Model) -> Language:
        """Everything about a model's text. Raises BadInputError or UnsupportedError naming the file at fault."""
        owner = self._tokenizer_owner(model)
        codec, no_codec = None, ""
        if owner is not None:
            try:
                codec = self._codec(owner)
            except UnsupportedError as error:
                # Token ids work all the same.
                no_codec = f" that can be used: {error}"
        settings = self._generation_settings(model)
        template = self._chat_template or (codec.chat_template if codec is not None else None)
        if self._chat_template is None and "chat_template.jinja" in model.files and model is not owner:
            template = self._source.read_file(model, "chat_template.jinja").decode(errors="replace")
        return Language(
            model=model,
            codec=codec,
            no_codec=no_codec,
            tokenizer_from=owner.ref if owner is not None and codec is not None else None,
            eos_ids=_eos_ids(model, settings, codec),
            defaults=_defaults(settings),
            template_source=template,
            now=self._now,
            compilers=self._compilers.setdefault(codec, {}) if codec is not None else {},
        )

    def _tokenizer_owner(self, model: Model) -> Model | None:
        """The model itself, or the nearest one it was made from that has a tokenizer."""
        seen: set[ModelRef] = set()
        at: Model | None = model
        while at is not None and at.ref not in seen:
            if any(name in at.files for name in TOKENIZER_FILES):
                return self._first_with(at)
            seen.add(at.ref)
            at = self._source.model(at.base) if at.base is not None else None
        return None

    def _base(self, model: Model) -> Model | None:
        """What a model was made from, where that is still there; a model with files of its own goes without."""
        try:
            return None if model.base is None else self._source.model(model.base)
        except NotFoundError:
            return None

    def _first_with(self, model: Model) -> Model:
        """Where a model's tokenizer came from: its base if that has the very same files."""
        if model.base is None:
            return model
        base = self._base(model)
        if base is None:
            return model
        same = all(base.files.get(name) == model.files.get(name) for name in CODEC_FILES)
        return base if same else model

    def _codec(self, owner: Model) -> TextCodec | None:
        names = CODEC_FILES if "tokenizer.json" in owner.files else (*CODEC_FILES, "config.json")
        key = tuple((name, owner.files[name]) for name in names if name in owner.files)
        codec = self._codecs.get(key)
        if codec is None:

            def read(name: str) -> bytes | None:
                if name == "config.json" and name not in owner.files:
                    return json.dumps(dict(owner.config)).encode()
                return self._source.read_file(owner, name) if name in owner.files else None

            codec = load_codec(read)
            if codec is not None:
                self._codecs[key] = codec
        return codec

    def _generation_settings(self, model: Model) -> Mapping[str, Json]:
        """The model's generation_config.json, else its base's."""
        name = "generation_config.json"
        if name not in model.files and (base := self._base(model)) is not None:
            model = base if name in base.files else model
        if name not in model.files:
            return {}
        try:
            settings = json.loads(self._source.read_file(model, name))
        except (ValueError, RecursionError) as error:
            raise BadInputError("is not JSON", where=f"{model.ref}: {name}") from error
        if not isinstance(settings, dict):
            raise BadInputError("is not a JSON object", where=f"{model.ref}: {name}")
        return settings


def _eos_ids(model: Model, settings: Mapping[str, Json], codec: TextCodec | None) -> frozenset[int]:
    """End tokens: of generation_config.json, else config.json; and the tokenizer's."""
    value = settings.get("eos_token_id", model.config.get("eos_token_id"))
    values = value if isinstance(value, list) else [value]
    ids = {item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0}
    if codec is not None and (name := codec.named.get("eos_token")) is not None:
        found = codec.id_of(name)
        ids |= {found} if found is not None else set()
    return frozenset(ids)


def _defaults(settings: Mapping[str, Json]) -> Mapping[str, Json]:
    """Sampling defaults of generation_config.json; a value this server has no use for is left out."""
    chosen = {name: settings[name] for name in DEFAULTED if settings.get(name) is not None}
    if settings.get("do_sample") is False:
        # transformers warns and ignores sampling values there; the request's own temperature still counts.
        chosen = {name: value for name, value in chosen.items() if name == "repetition_penalty"}
    good: dict[str, Json] = {}
    for name, value in chosen.items():
        try:
            parse_options({name: value}, vocab_size=1)
        except BadInputError as error:
            raise UnsupportedError(f"{name} {error.what}", where="generation_config.json") from error
        good[name] = value
    return good
