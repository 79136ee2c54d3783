"""Language models behind the one door: many of them, hot, in one engine."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, QuiltworkError, UnsupportedError
from quiltwork.core.names import ModelRef, visible_to
from quiltwork.core.servable import Caller, Hosted, Input, Json, Part, Sample, Stream, TaskSchema
from quiltwork.serving.admission import most_tokens, new_choices, prompt_ids
from quiltwork.serving.assembly import StandIns, allowance, choose, permitted
from quiltwork.serving.drafts import Drafts, unfit
from quiltwork.serving.engine import EngineStats
from quiltwork.serving.experts import PER_TOKEN, Spent, check_experts, experts_of
from quiltwork.serving.fairness import admits
from quiltwork.serving.hosting import Language, LanguageLoader, ModelSource
from quiltwork.serving.loop import EngineLoop
from quiltwork.serving.metrics import Metrics, residency_samples
from quiltwork.serving.on_demand import OnDemand
from quiltwork.serving.options import check_token_id, parse_options
from quiltwork.serving.picture import picture
from quiltwork.serving.policy.assembly import Outlook
from quiltwork.serving.request import Choice, Request, advance, empty_choice, failure, usage_part
from quiltwork.serving.residency import Crowded, Residency
from quiltwork.serving.sequence import Emission
from quiltwork.serving.sequence import Sequence as TokenSequence
from quiltwork.serving.spare import return_freed_memory
from quiltwork.serving.tasks import TASKS, check_fields
from quiltwork.zoo.explain import describe
from quiltwork.zoo.families import is_language
from quiltwork.zoo.types import Chain

PUBLISH_SECONDS = 0.25
"""How old the engine's figures may be while it is busy."""


class TokenEngine(Protocol):
    """The engine, as far as this room's face needs it."""

    config: Any

    def prepare(self, chain: Chain, read: Any) -> Any: ...
    def install(self, served: Any) -> None: ...
    def unload(self, ref: ModelRef) -> None: ...
    def draft_with(self, model: ModelRef, draft: ModelRef | None) -> None: ...
    def outlooks(self, seq: TokenSequence, chains: Mapping[ModelRef, Chain]) -> Mapping[ModelRef, Outlook]: ...
    def add(self, seq: TokenSequence) -> None: ...
    def cancel(self, sequence_id: int) -> None: ...
    def room(self, ref: ModelRef) -> int: ...
    def step(self) -> list[Emission]: ...
    @property
    def has_work(self) -> bool: ...
    @property
    def residency(self) -> Residency: ...
    def stats(self) -> EngineStats: ...


@dataclass(eq=False)
class _Host:
    """One version of a model that may be asked for, in memory or not."""

    language: Language
    chain: Chain
    max_len: int
    """Tokens of prompt and answer together."""
    vocab_size: int
    running: int = 0
    draining: bool = False


class LanguageModels:
    """Hosts language models of a zoo in one engine.

    Parameters
    ----------
    engine : used by a thread of its own from now on.
    open_source : opens the zoo; called with the first ``load``.
    max_queue : sequences that may wait beyond those the engine runs at once; more are refused, to the tenant that has
        more than its share of the room.
    chat_template : used for every model instead of its own, if given.
    aliases : further names -> models.
    drafts : models that speculate for others (see ``Drafts``).
    stand_ins : adapted models that may answer for exact ones (see ``assembly``).
    clock : seconds, for latencies. now : the time chat templates may ask for.
    seed : of requests that bring none.
    begin : called first in the engine's thread.
    end : called last, when it is closed. wake : called when the engine's thread is asked for something.
    samples : further metrics; called in any thread.
    """

    kind = "language"

    def __init__(
        self,
        engine: TokenEngine,
        open_source: Callable[[], ModelSource],
        *,
        max_queue: int = 256,
        chat_template: str | None = None,
        aliases: Mapping[ModelRef, ModelRef] | None = None,
        drafts: Drafts | None = None,
        stand_ins: StandIns | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], Any],
        seed: int = 0,
        begin: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
        samples: Callable[[], Sequence[Sample]] = lambda: (),
    ) -> None:
        self._engine = engine
        self._open_source = open_source
        self._chat_template = chat_template
        self._aliases = dict(aliases or {})
        self._drafts = drafts or Drafts()
        self._stand_ins = stand_ins or StandIns()
        self._clock, self._now = clock, now
        self._seeds = random.Random(seed)
        self._room = engine.config.max_num_seqs + max_queue
        self._ids = count(1)
        self._metrics = Metrics()
        self._lock = threading.Condition()
        """Guards what follows; notified when a request ends."""
        self._hosts: dict[ModelRef, _Host] = {}
        self._draining: list[_Host] = []
        self._draft_hosts: dict[ModelRef, _Host] = {}
        """Loaded to draft for others; tenants see of them what is in ``_hosts`` as well."""
        self._adapted: dict[ModelRef, set[ModelRef]] = {}
        """By exact model, those that may stand in for it; they need not be loaded any more."""
        self._loading: set[ModelRef] = set()
        self._outstanding = 0
        self._inside: dict[str, int] = {}
        """Sequences that run or wait, by tenant."""
        self._mean_seconds = 1.0
        self._closing = False
        self._load_lock = threading.Lock()
        self._source: ModelSource | None = None
        self._loader: LanguageLoader | None = None
        # Of the engine thread: sequence id -> whose it is.
        self._running: dict[int, tuple[Request, Choice]] = {}
        self._hosts_of: dict[Request, _Host] = {}
        self._stats = engine.stats()
        self._published = clock()
        self._end_with, self._further_samples = end, samples
        self._loop = EngineLoop(engine, self._deliver, self._fail_all, begin, wake)
        self._residency: Residency = engine.residency
        self._demand: OnDemand | None = None
        """From the first model that is offered without being loaded."""

    # --- models -------------------------------------------------------------------------------------------------

    def tasks(self) -> Mapping[str, TaskSchema]:
        """``completion``, ``chat``, ``tokenize``, ``detokenize``."""
        return TASKS

    def models(self) -> Sequence[Hosted]:
        """What is loaded, on its way in or out, and aliases of it."""
        with self._lock:
            hosts, draining, loading = dict(self._hosts), list(self._draining), set(self._loading)
            aliases = dict(self._aliases)
        shown = [Hosted(ref, self._state(ref, loading), self._told(host)) for ref, host in hosts.items()]
        shown += [Hosted(ref, "loading") for ref in loading - set(hosts)]
        known = set(hosts) | loading
        shown += [Hosted(h.language.ref, "draining", _info(h)) for h in draining if h.language.ref not in known]
        for alias, target in aliases.items():
            if target in hosts and alias not in hosts:
                told = {**self._told(hosts[target]), "alias_of": str(target)}
                shown.append(Hosted(alias, self._state(target, loading), told))
        return sorted(shown, key=lambda hosted: hosted.ref)

    def is_resident(self, ref: ModelRef) -> bool:
        """Whether a model is in memory, so that a request for it need not wait for a load. Any thread."""
        ref = self._aliases.get(ref, ref)
        with self._lock:
            if ref not in self._hosts:
                return False
        return self._is_in_memory(ref)

    def _is_in_memory(self, ref: ModelRef) -> bool:
        return self._demand is None or self._residency.is_resident(ref)

    def _state(self, ref: ModelRef, loading: Collection[ModelRef]) -> str:
        return "ready" if self.is_resident(ref) else "loading" if ref in loading else "absent"

    def _told(self, host: _Host) -> dict[str, Json]:
        if self._demand is None:
            return _info(host)
        return {**_info(host), "pinned": host.language.ref in self._residency.pinned}

    def offer(self, ref: ModelRef) -> None:
        """Take requests for a model without loading it: the first one has it loaded. From then on models that are idle
        may leave memory for others, those loaded before included.

        Raises what ``load`` raises.
        """
        with self._load_lock:
            self._open()
            assert self._source is not None
            residency = self._residency
            chain = self._source.chain(self._aliases.get(ref, ref))
            ref = self._named(ref, chain)
            with self._lock:
                hosts = dict(self._hosts)
            if ref in hosts and hosts[ref].chain.model.version == chain.model.version:
                return
            assert self._loader is not None
            self._stand_ins.check(chain.model)
            language = self._loader.load(chain.model)

            def offer() -> None:
                host = self._hosted(chain, language)
                if self._demand is None:
                    for loaded in hosts.values():
                        residency.offer(loaded.chain)
                if residency.is_resident(ref):
                    self._engine.unload(ref)  # its present version comes with the next request
                with self._lock:
                    if self._demand is None:
                        self._demand = OnDemand(
                            residency, self._loop.call, self._begin, self._fail, self._bring, self._clock
                        )
                    if ref in self._hosts:
                        self._retire(self._hosts[ref])
                    self._keep(host)
                self._publish()

            self._loop.call(offer)

    def pin(self, ref: ModelRef, pinned: bool = True) -> None:
        """Load a model and keep it in memory whatever else is asked for, or let it go again when room is needed.

        Raises what ``load`` raises.
        """
        ref = self._aliases.get(ref, ref)
        residency = self._residency
        if pinned:
            self._loop.call(lambda: residency.pin(ref))
            try:
                self.load(ref)
            except BaseException:
                self._loop.call(lambda: residency.unpin(ref))
                raise
        named = self._aliases.get(ref, ref)  # loading may have told that it is an alias
        if not pinned or named != ref:
            self._loop.call(lambda: residency.unpin(ref))
        if pinned:
            self._loop.call(lambda: residency.pin(named))

    def takes(self, ref: ModelRef) -> bool:
        """Whether a zoo model is of a family that is served block by block. Raises NotFoundError."""
        with self._load_lock:
            self._open()
            assert self._source is not None
            return is_language(self._source.model(self._aliases.get(ref, ref)))

    def load(self, ref: ModelRef) -> None:
        """Make a model ready, or bring it to the zoo's present version; blocks, while running requests go on.

        Raises NotFoundError, UnsupportedError, BadInputError (a malformed file of the model) or CapacityError.
        """
        ref = self._aliases.get(ref, ref)
        with self._lock:
            if self._closing:
                raise _shutting_down()
            self._loading.add(ref)
            new = self._demand is not None and ref not in self._hosts
        try:
            if new:
                self.offer(ref)  # so that requests may wait for it already
            self._until_there_is_room(lambda: self._load(ref))
        except BaseException:
            if new:
                with suppress(NotFoundError):
                    self.unload(ref)
            raise
        finally:
            with self._lock:
                self._loading.discard(ref)
            if self._demand is not None:
                self._demand.let_go_on()

    def _until_there_is_room(self, load: Callable[[], Crowded | None]) -> None:
        """Load, again and again until it is not crowded out by models that are running."""
        since = self._clock()
        while True:
            seen = self._demand.changes if self._demand is not None else 0
            with self._load_lock:
                crowded = load()
            if crowded is None:
                break
            assert self._demand is not None
            self._demand.wait_for_room(crowded, since, seen)

    def _open(self) -> None:
        if self._source is None or self._loader is None:
            self._source = self._open_source()
            self._loader = LanguageLoader(self._source, self._chat_template, self._now)

    def _named(self, asked: ModelRef, chain: Chain) -> ModelRef:
        """A chain's own name; the zoo may know it by the one that was asked for as well."""
        ref = chain.model.ref
        with self._lock:
            if asked != ref:
                self._aliases[asked] = ref
        return ref

    def _load(self, ref: ModelRef) -> Crowded | None:
        self._open()
        assert self._source is not None
        assert self._loader is not None
        chain = self._source.chain(ref)
        ref = self._named(ref, chain)
        with self._lock:
            present = self._hosts.get(ref)
        if present is not None and present.chain.model.version == chain.model.version:
            return None if self.is_resident(ref) else self._place(present)
        self._stand_ins.check(chain.model)
        language = self._loader.load(chain.model)
        if self._demand is not None:
            return self._place(self._loop.call(lambda: self._hosted(chain, language)))
        draft = self._draft_for(chain, language)
        host, served = self._prepare(chain, language)
        self._loop.call(lambda: self._install(host, served, draft))
        return None

    def _install(self, host: _Host, served: Any, draft: ModelRef | None) -> None:
        ref = host.language.ref
        self._engine.install(served)
        self._engine.draft_with(ref, draft)
        with self._lock:
            if ref in self._draft_hosts:
                self._draft_hosts[ref] = host
            old = self._hosts.get(ref)
            self._keep(host)
            if old is not None and old is not host:
                self._retire(old)
            # At once, so that nobody sees the new version with the old one's segments.
            self._publish()

    def _keep(self, host: _Host) -> None:
        """Take requests for a model, and where it may stand in for another for that one too."""
        ref = host.language.ref
        self._hosts[ref] = host
        if (exact := self._stand_ins.exact_of(host.chain.model)) is not None:
            self._adapted.setdefault(exact, set()).add(ref)

    # --- models on demand ---------------------------------------------------------------------------------------

    def _hosted(self, chain: Chain, language: Language) -> _Host:
        size = self._residency.offer(chain)
        return _Host(language, chain, size.max_len - size.virtual_tokens, size.vocab_size)

    def _bring(self, ref: ModelRef) -> None:
        """Bring an offered model into memory; blocks until there is room for it."""

        def place() -> Crowded | None:
            with self._lock:
                host = self._hosts.get(ref)
            if host is None:
                raise _not_loaded(ref)
            return None if self.is_resident(ref) else self._place(host)

        with self._lock:
            self._loading.add(ref)
        try:
            self._until_there_is_room(place)
        finally:
            with self._lock:
                self._loading.discard(ref)

    def _place(self, host: _Host) -> Crowded | None:
        """Load a host and serve it, if there is room now."""
        residency = self._residency
        assert self._source is not None
        began = self._clock()
        chains = [host.chain, *self._draft_chains(host.chain)]
        crowded = self._loop.call(lambda: residency.make_room(chains))
        if crowded is not None:
            return crowded
        try:
            return_freed_memory()
            draft = self._draft_for(host.chain, host.language)
            served = self._engine.prepare(host.chain, self._source.read)
        except BaseException:
            self._loop.call(residency.failed)
            raise
        seconds = self._clock() - began

        def install() -> None:
            residency.came()
            try:
                self._install(host, served, draft)
            except BaseException:
                residency.failed()
                raise
            residency.loaded(seconds)

        self._loop.call(install)
        return None

    def _draft_chains(self, chain: Chain) -> list[Chain]:
        """Of a draft that may have to be loaded with a model."""
        assert self._source is not None
        wanted = self._drafts.named_for(chain.model, self._source.model) or self._drafts.general
        small = self._source.chain(wanted) if wanted is not None else None
        return [small] if small is not None and small.model.ref not in self._draft_hosts else []

    def _prepare(self, chain: Chain, language: Language) -> tuple[_Host, Any]:
        """A chain loaded, and what the engine is to serve."""
        assert self._source is not None
        served = self._engine.prepare(chain, self._source.read)
        return _Host(language, chain, served.max_len - served.virtual_tokens, served.vocab_size), served

    def _draft_for(self, chain: Chain, language: Language) -> ModelRef | None:
        """The draft of a model that is about to be served, loaded; None where it has none.

        Raises BadInputError where one was named for this model that cannot draft for it.
        """
        assert self._source is not None
        assert self._loader is not None
        named = self._drafts.named_for(chain.model, self._source.model)
        wanted = named or self._drafts.general
        if wanted is None:
            return None
        small = self._source.chain(wanted)
        ref = small.model.ref
        if ref == language.ref:
            return None
        small_language = self._loader.load(small.model)
        why = unfit(small_language, small, language, chain)
        if why is not None and named is not None:
            raise BadInputError(f"{ref} cannot draft for {language.ref}: it {why}", where="drafts")
        if why is not None:
            return None
        with self._lock:
            present = self._draft_hosts.get(ref) or self._hosts.get(ref)
        stands = present is not None and present.chain.model.version == small.model.version
        if present is None or not stands or not self._is_in_memory(ref):
            present, served = self._prepare(small, small_language)
            self._loop.call(lambda: self._engine.install(served))
        self._loop.call(lambda: self._residency.drafts.add(ref))
        with self._lock:
            self._draft_hosts[ref] = present
        return ref

    def unload(self, ref: ModelRef) -> None:
        """Take no new requests for a model; its running ones finish. Raises NotFoundError."""
        ref = self._aliases.get(ref, ref)
        with self._load_lock:
            with self._lock:
                host = self._hosts.pop(ref, None)
                if host is None:
                    raise _not_loaded(ref)
                self._retire(host)

            def unload() -> None:
                if self._demand is not None:
                    self._demand.drop(ref, _not_loaded(ref))
                if ref in self._draft_hosts:
                    self._engine.draft_with(ref, None)  # others still draft with it
                elif self._demand is None:
                    self._engine.unload(ref)
                else:
                    if self._residency.is_resident(ref):
                        self._engine.unload(ref)
                    self._residency.withdraw(ref)
                self._publish()

            self._loop.call(unload)

    def _retire(self, host: _Host) -> None:
        host.draining = True
        if host.running:
            self._draining.append(host)

    # --- requests -----------------------------------------------------------------------------------------------

    def submit(self, model: ModelRef, input: Input, options: Mapping[str, Json], *, caller: Caller) -> Stream:
        """Start a request. Raises BadInputError naming the field, NotFoundError, CapacityError (too many wait)."""
        ref = self._aliases.get(model, model)
        with self._lock:
            if self._closing:
                raise _shutting_down()
            host = self._hosts.get(ref)
        if host is None or not visible_to(ref, caller.tenant):
            raise _not_loaded(model)
        check_fields(input)
        if input.task in ("tokenize", "detokenize"):
            return self._tokenize(host, input, options)
        language = host.language
        parsed = parse_options(options, vocab_size=host.vocab_size, defaults=language.defaults)
        check_experts(parsed.experts, host.chain)
        if parsed.relaxed_share is not None and not caller.relaxed_speculation:
            raise UnsupportedError(
                "relaxed changes answers and is not allowed for this caller",
                where="speculation",
                hint="exact does not change any",
            )
        if parsed.stop and language.codec is None:
            language.need_codec("stop")
        prompt = prompt_ids(language, input, limit=host.max_len, vocab_size=host.vocab_size)
        max_tokens = most_tokens(parsed, len(prompt), host.max_len)
        text = input.fields.get("prompt")
        request = Request(
            language, str(model), prompt, parsed, Stream(), self._clock(), text if isinstance(text, str) else None
        )
        if parsed.max_tokens == 0 and parsed.prompt_logprobs is None:
            for index in range(parsed.n):
                request.stream.put(empty_choice(index))
            request.stream.put(usage_part(request))
            return request.stream
        request.stream = Stream(on_cancel=lambda: self._cancelled(request))
        seed = self._seeds.getrandbits(63)
        request.choices = new_choices(request, ref, caller, max_tokens, seed, self._ids)
        if parsed.adapter_scale == 1.0 and parsed.experts is None:  # nobody was judged with others
            request.allowed = allowance(caller, parsed.quality_budget)
        self._admit(host, request, caller.tenant)
        try:
            self._loop.post(lambda: self._start(host, request))
        except QuiltworkError as error:
            self._give_back(host, request)
            raise _shutting_down() from error
        return request.stream

    def _tokenize(self, host: _Host, input: Input, options: Mapping[str, Json]) -> Stream:
        if options:
            raise BadInputError("is not an option of this task", where=sorted(options)[0])
        codec, fields = host.language.need_codec(input.task), input.fields
        result: dict[str, Json]
        if input.task == "detokenize":
            ids = [check_token_id(id, host.vocab_size, where="tokens") for id in fields["tokens"]]
            result = {"prompt": codec.decode(ids, skip_special_tokens=False)}
        else:
            if fields.get("messages") is not None:
                ids = host.language.render(fields["messages"])
            else:
                ids = codec.encode(fields["prompt"], add_special_tokens=fields.get("add_special_tokens", True))
            strings = [codec.token(id) for id in ids]
            result = {"tokens": ids, "token_strs": strings, "count": len(ids), "max_model_len": host.max_len}
        stream = Stream()
        stream.put(Part(result, last=True))
        return stream

    def _admit(self, host: _Host, request: Request, tenant: str) -> None:
        """Count a request in. Raises CapacityError where too many wait."""
        wanted = len(request.choices)
        payer, entitlements = self._payer(tenant), self._engine.config.entitlements
        with self._lock:
            if self._closing:
                raise _shutting_down()
            # A request for more choices than there is room for gets in when its tenant has nothing else here.
            if not admits(wanted, payer, self._inside, self._room, entitlements):
                self._metrics.refused(tenant)
                raise CapacityError(
                    f"{self._inside[payer]} sequences are running or waiting, as many as this server takes",
                    hint="try again later",
                    retry_after=min(max(self._mean_seconds, 1.0), 60.0),
                )
            self._outstanding += wanted
            self._inside[payer] = self._inside.get(payer, 0) + wanted
            host.running += 1
        self._metrics.started(request.model, len(request.prompt))

    # --- the engine's thread ------------------------------------------------------------------------------------

    def _start(self, host: _Host, request: Request) -> None:
        self._hosts_of[request] = host
        if request.stream.cancelled:
            self._end(request, "abort")
            return
        try:
            self._assemble(host, request)
        except Exception as error:  # noqa: BLE001  the reader is told
            self._fail(request, error)
            return
        if self._demand is None or self._demand.admits(self._hosts_of[request].language.ref, request):
            self._begin(request)

    def _begin(self, request: Request) -> None:
        try:
            for choice in request.choices:
                if request.options.max_tokens is None:
                    # What fits the model may be more than ever fits the memory.
                    fits = self._engine.room(choice.sequence.model) - len(request.prompt)
                    choice.sequence.max_tokens = max(min(choice.sequence.max_tokens, fits), 1)
                self._engine.add(choice.sequence)
                self._running[choice.sequence.id] = (request, choice)
        except Exception as error:  # noqa: BLE001  the reader is told
            self._fail(request, error)

    def _assemble(self, exact: _Host, request: Request) -> None:
        """Have an adapted model answer where that is allowed and pays: all choices, from first token to last."""
        if request.allowed.delta_loss <= 0 or not request.choices:
            return
        ref, first = exact.language.ref, request.choices[0].sequence
        with self._lock:
            # An upgrade may have come in between: the engine serves what is loaded now.
            now = self._hosts.get(ref, exact)
            others = [self._hosts[each] for each in self._adapted.get(ref, ()) if each in self._hosts]
            others = [host for host in others if self._is_in_memory(host.language.ref)]
        model = now.chain.model
        hosts = {
            host.language.ref: host
            for host in others
            if permitted(model, host.chain.model, first.tenant, request.allowed) and _interchangeable(exact, host)
        }
        if not hosts:
            return
        chains = {ref: now.chain, **{each: host.chain for each, host in hosts.items()}}
        request.assembled = choose(
            model,
            [host.chain.model for host in hosts.values()],
            request.allowed,
            self._engine.outlooks(first, chains),
            {ref: self._residency.load_seconds(ref)},
        )
        chosen = hosts.get(request.assembled.ref)
        if chosen is None:
            return
        with self._lock:
            chosen.running += 1
            self._leave(exact)
        self._hosts_of[request] = chosen
        for choice in request.choices:
            choice.sequence.model = chosen.language.ref
        self._metrics.assembled(request.model)

    def _deliver(self, emissions: Sequence[Emission]) -> None:
        now = self._clock()
        if now - self._published > PUBLISH_SECONDS or any(e.finish_reason is not None for e in emissions):
            self._publish()
        for emission in emissions:
            running = self._running.get(emission.sequence_id)
            if running is None:
                continue
            request, choice = running
            try:
                advance(request, choice, emission, now, self._metrics, self._engine.cancel)
            except Exception as error:  # noqa: BLE001  the reader is told; others go on
                self._fail(request, error)
                continue
            if choice.finish_reason is not None:
                del self._running[emission.sequence_id]
                if not request.unfinished:
                    self._end(request, choice.finish_reason)
                    request.stream.put(usage_part(request))

    def _cancelled(self, request: Request) -> None:
        """The reader has gone (any thread)."""
        # After the end nothing is held any more.
        with suppress(QuiltworkError):
            self._loop.post(lambda: self._drop(request, "abort"))

    def _drop(self, request: Request, reason: str) -> None:
        for choice in request.choices:
            if self._running.pop(choice.sequence.id, None) is not None:
                self._engine.cancel(choice.sequence.id)
        self._end(request, reason)

    def _fail(self, request: Request, error: Exception) -> None:
        try:
            self._drop(request, "error")
        finally:
            request.stream.fail(failure(error))

    def _fail_all(self, error: Exception) -> None:
        """A step went wrong: whoever was in it is told, and the engine starts afresh with the next request."""
        for request in {request for request, _ in self._running.values()}:
            try:
                self._fail(request, error)
            except Exception:  # noqa: BLE001  its reader has been told; the others must be as well
                continue

    def _end(self, request: Request, reason: str) -> None:
        """Give a request's room back, once."""
        host = self._hosts_of.pop(request, None)
        if request.ended or host is None:
            return
        request.ended = True
        if self._demand is not None:
            self._demand.ended(host.language.ref, request)
        seconds = self._clock() - request.arrived
        self._metrics.finished(request.model, reason, seconds)
        self._metrics.took(request.model, request.spent.get(PER_TOKEN, Spent()))
        with self._lock:
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self._give_back(host, request)

    def _give_back(self, host: _Host, request: Request) -> None:
        with self._lock:
            self._outstanding -= len(request.choices)
            payer = self._payer(request.choices[0].sequence.tenant)
            self._inside[payer] -= len(request.choices)
            if not self._inside[payer]:
                del self._inside[payer]
            self._leave(host)
            self._lock.notify_all()

    def _leave(self, host: _Host) -> None:
        """A request is no longer a version's; called with the lock held."""
        host.running -= 1
        if host.draining and not host.running and host in self._draining:
            self._draining.remove(host)

    def _payer(self, tenant: str) -> str:
        return tenant if self._engine.config.tenant_fairness else ""

    def _publish(self) -> None:
        self._stats = self._engine.stats()
        self._published = self._clock()

    # --- how it stands ------------------------------------------------------------------------------------------

    def samples(self) -> Sequence[Sample]:
        """Metrics under vLLM's names beside our own."""
        samples = [*self._metrics.samples(self._stats), *self._further_samples()]
        if self._demand is not None:
            with self._lock:
                refs = list(self._hosts)
            resident = sum(map(self._residency.is_resident, refs))
            samples += residency_samples(self._residency, offered=len(refs), resident=resident)
        return samples

    def status(self) -> Mapping[str, Json]:
        """Models and who shares their blocks, the queue, the last batches, memory."""
        with self._lock:
            chains = {ref: host.chain for ref, host in self._hosts.items()}
            outstanding = self._outstanding
        return picture(chains, self._stats, outstanding=outstanding, room=self._room, pinned=self._residency.pinned)

    def explain(self, model: ModelRef, *, tenant: str | None) -> Mapping[str, Json]:
        """A loaded model's parts and segments as they are now, and which loaded models share them. Reads no weights.

        Raises NotFoundError where it is not loaded, or not ``tenant``'s to see.
        """
        ref = self._aliases.get(model, model)
        with self._lock:
            chains = {ref: host.chain for ref, host in self._hosts.items()}
            # A draft runs through segments too, but is not served.
            routes = {ref: route for ref, route in self._stats.routes.items() if ref in chains}
        if ref not in chains or (tenant is not None and not visible_to(ref, tenant)):
            raise _not_loaded(model)
        chain = chains[ref]
        models = [other.model for other in chains.values()]
        return describe(chain.model, chain.links, models, routes, tenant=tenant).to_json()

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Refuse new requests, let running ones finish for a while, cancel the rest, end the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._lock.wait_for(lambda: self._outstanding == 0, timeout=drain_seconds)
        if self._demand is not None:
            demand = self._demand
            self._loop.call(lambda: demand.fail_all(_shutting_down()))
        self._loop.call(lambda: self._fail_all(_shutting_down()))
        self._loop.stop()
        if self._demand is not None:
            self._demand.close()
            self._demand.fail_all(_shutting_down())
        # The thread has ended: whatever slipped in after the last look is told here.
        self._fail_all(_shutting_down())
        closing = getattr(self._source, "close", None)
        if closing is not None:
            closing()
        self._end_with()


def _info(host: _Host) -> dict[str, Json]:
    model, language = host.chain.model, host.language
    return {
        "family": model.family,
        "parent": str(model.base) if model.base is not None else None,
        "max_model_len": host.max_len,
        "version": model.version,
        "tokenizer": str(language.tokenizer_from) if language.tokenizer_from is not None else None,
        "chat": language.template_source is not None,
        "defaults": dict(language.defaults),
        "blocks": len({part.block.id for part in host.chain.links}),
        "experts": experts_of(host.chain),
        "lossy": bool(model.lossy),
        "notes": list(model.notes),
    }


def _interchangeable(exact: _Host, other: _Host) -> bool:
    """Whether a request that was understood for one model means the same for the other: text, end tokens, lengths."""
    a, b = exact.language, other.language
    return (
        (exact.max_len, exact.vocab_size) == (other.max_len, other.vocab_size)
        and a.codec is b.codec
        and a.eos_ids == b.eos_ids
        and a.defaults == b.defaults
        and a.template_source == b.template_source
    )


def _not_loaded(ref: ModelRef) -> NotFoundError:
    return NotFoundError(f"{ref} is not loaded", where="model")


def _shutting_down() -> CapacityError:
    return CapacityError("the server is shutting down", retry_after=5.0)
