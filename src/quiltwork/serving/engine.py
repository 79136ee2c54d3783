"""One process, many models: schedule, run, finish. Each step advances sequences of any models in common batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS, Placement
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.execute import BatchRecord, Executor, Work, publish
from quiltwork.serving.kv import KVCache, KVCounters, PageRun
from quiltwork.serving.prefix import extend_hashes, missing_from, reusable_pages
from quiltwork.serving.route import Link, Served, kv_shape, lay_routes
from quiltwork.serving.sampling import Sampled, sample
from quiltwork.serving.schedule import Job, Limits, plan
from quiltwork.serving.sequence import Emission, Sequence
from quiltwork.serving.weights import Library, LoadedBlock, Read
from quiltwork.zoo.types import Chain

MAX_LEN_KEYS = ("max_position_embeddings", "n_positions", "n_ctx")


@dataclass(frozen=True)
class EngineStats:
    """How the engine stands and what it has done since its start."""

    running: int
    waiting: int
    kv_used_bytes: int
    kv_held_bytes: int
    kv_capacity_bytes: int
    weight_bytes: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    cached_prompt_tokens: int
    prefill_token_layers: int
    """Attention blocks run, summed over prompt tokens: what prefix reuse saves."""
    hops: int
    preemptions: int
    kv: KVCounters
    last_batches: tuple[BatchRecord, ...]
    routes: Mapping[ModelRef, tuple[tuple[str, ...], ...]]
    """Per model, the block ids of each segment."""


@dataclass
class _Counts:
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    last_batches: tuple[BatchRecord, ...] = field(default=())


def placement(config: EngineConfig) -> Placement:
    """Device and precision of an engine. Raises BadInputError where the device is not there."""
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise BadInputError(f"{config.device!r} is not a device", where="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("no CUDA device here", where="device", hint="use --device cpu")
    name = config.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return Placement(device, getattr(torch, name))


class Engine:
    """Loads chains, runs sequences. All methods but ``prepare`` belong to one thread."""

    def __init__(self, config: EngineConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self.clock = clock
        self.placement = placement(config)
        self.library = Library(self.placement)
        capacity = config.kv_bytes if config.memory_bytes is None else config.memory_bytes
        self.cache = KVCache(capacity, self.placement.dtype, self.placement.device, keep=config.prefix_cache)
        self.models: dict[ModelRef, Served] = {}
        self._limits = Limits(config.max_num_seqs, config.step_tokens, config.prefill_chunk)
        self._executor = Executor(self.cache)
        self._sequences: dict[int, Sequence] = {}
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._counts = _Counts()

    # --- models -------------------------------------------------------------------------------------------------

    def prepare(self, chain: Chain, read: Read) -> Served:
        """Load what a chain needs that is not loaded yet. Any thread; running sequences go on meanwhile.

        Raises UnsupportedError naming what cannot be executed; then nothing stays loaded.
        """
        loaded: list[LoadedBlock] = []
        links: list[Link] = []
        try:
            for part in chain.links:
                block = self.library.acquire(part.block, read)
                loaded.append(block)
                attached = self.library.attach(block, part.attachments, read)
                shape = kv_shape(part.block.arch)
                links.append(Link(part.name, part.block.kind, block.executor, attached, shape))
            served = self._describe(chain, tuple(loaded), tuple(links))
        except BaseException:
            for block, part in zip(loaded, chain.links[: len(links)], strict=False):
                self.library.detach(block, part.attachments)
            for block in loaded:
                self.library.release(block)
            raise
        return served

    def _describe(self, chain: Chain, loaded: tuple[LoadedBlock, ...], links: tuple[Link, ...]) -> Served:
        name = str(chain.model.ref)
        if not links or links[0].kind != "embed" or links[-1].kind != "head":
            raise UnsupportedError("a chain runs from an embed block to a head block", where=name)
        if len({link.kv_shape for link in links if link.kv_shape}) > 1:
            raise UnsupportedError("attention blocks with different KV shapes in one chain", where=name)
        virtual = [int(a.arch["num_virtual_tokens"]) for p in chain.links for a in p.attachments
                   if "num_virtual_tokens" in a.arch]  # fmt: skip
        copied = [bool(getattr(link.attached, "prefix", None)) for link in links if link.kv_shape]
        if any(copied) and not all(copied):
            raise UnsupportedError("prefix keys and values on some layers only", where=name)
        limit = next((int(chain.model.config[k]) for k in MAX_LEN_KEYS if chain.model.config.get(k)), 1 << 20)
        if self.config.max_model_len is not None:
            limit = min(limit, self.config.max_model_len)
        return Served(
            ref=chain.model.ref,
            chain=chain,
            loaded=loaded,
            links=links,
            max_len=limit,
            virtual_tokens=max(virtual, default=0),
            vocab_size=int(chain.links[-1].block.arch["vocab_size"]),
            copies_prefix=any(copied),
        )

    def install(self, served: Served) -> None:
        """Serve a prepared chain under its name from now on; running sequences of an old version finish on it."""
        if self.config.memory_bytes is not None:
            room = self.config.memory_bytes - self.library.nbytes
            if room < self.cache.held_bytes or room <= 0:
                weights = self.library.nbytes
                self._drop(served)
                raise CapacityError(
                    f"weights would take {weights} of {self.config.memory_bytes} bytes",
                    where=str(served.ref),
                    hint="raise --memory or serve fewer models",
                )
            self.cache.shrink_to(room)
        old = self.models.get(served.ref)
        self.models[served.ref] = served
        self._lay_routes()
        if old is not None:
            self._retire(old)

    def unload(self, ref: ModelRef) -> None:
        """Take no new sequences for a model; its weights go with its last running sequence."""
        served = self.models.pop(ref, None)
        if served is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        self._lay_routes()
        self._retire(served)

    def _lay_routes(self) -> None:
        for ref, route in lay_routes(self.models, self.cache).items():
            self.models[ref].route = route
            self.models[ref].page_bytes = sum(s.kv_blocks * s.pool.page_bytes for s in route if s.pool is not None)

    def _retire(self, served: Served) -> None:
        served.retired = True
        if served.running == 0:
            self._drop(served)

    def _drop(self, served: Served) -> None:
        for block, part in zip(served.loaded, served.chain.links, strict=True):
            self.library.detach(block, part.attachments)
            self.library.release(block)
        if self.config.memory_bytes is not None:
            self.cache.capacity = max(self.config.memory_bytes - self.library.nbytes, 0)

    # --- sequences ----------------------------------------------------------------------------------------------

    def add(self, seq: Sequence) -> None:
        """Queue a sequence. Raises NotFoundError, BadInputError (too long, foreign token) or CapacityError (could
        never fit the KV memory)."""
        served = self.models.get(seq.model)
        if served is None:
            raise NotFoundError(f"{seq.model} is not loaded", where="model")
        if not seq.prompt:
            raise BadInputError("the prompt has no tokens", where="prompt")
        if min(seq.prompt) < 0 or max(seq.prompt) >= served.vocab_size:
            raise BadInputError(f"token ids must be in [0, {served.vocab_size})", where="prompt")
        total = served.virtual_tokens + len(seq.prompt) + seq.max_tokens
        if total > served.max_len:
            raise BadInputError(
                f"{len(seq.prompt)} prompt tokens and max_tokens {seq.max_tokens} exceed the model's {served.max_len}",
                where="max_tokens",
            )
        if -(-total // PAGE_TOKENS) * served.page_bytes > self.cache.capacity:
            raise CapacityError(f"{total} tokens do not fit the KV memory", where="max_tokens", hint="raise --memory")
        seq.served = served
        served.running += 1
        seq.tokens = [-1 - i for i in range(served.virtual_tokens)] + list(seq.prompt)
        seq.prompt_len = len(seq.tokens)
        self._sequences[seq.id] = seq
        self._waiting.append(seq)
        self._counts.prompt_tokens += len(seq.prompt)

    def cancel(self, sequence_id: int) -> None:
        """Forget a sequence and free all it holds; harmless if it has ended."""
        seq = self._sequences.pop(sequence_id, None)
        if seq is None:
            return
        if seq in self._running:
            self._running.remove(seq)
        else:
            self._waiting.remove(seq)
        self._let_go(seq)
        assert seq.served is not None
        seq.served.running -= 1
        if seq.served.retired and seq.served.running == 0:
            self._drop(seq.served)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self._sequences)

    def step(self) -> list[Emission]:
        """Schedule, run, finish."""
        works = self._schedule()
        with torch.inference_mode():
            done = self._executor.run(works)
            emissions = self._finish(works, done)
        self._counts.steps += 1
        self._counts.last_batches = tuple(self._executor.records)
        return emissions

    # --- one step -----------------------------------------------------------------------------------------------

    def _job(self, seq: Sequence) -> Job:
        assert seq.served is not None
        return Job(seq.id, seq.pending, seq.computed, seq.served.page_bytes)

    def _schedule(self) -> list[Work]:
        decision = plan(
            [self._job(s) for s in self._running],
            [self._job(s) for s in self._waiting],
            self.cache.free_bytes,
            self._limits,
        )
        for sequence_id in decision.preempted:
            self._preempt(self._sequences[sequence_id])
        for sequence_id in decision.admitted:
            seq = self._sequences[sequence_id]
            self._waiting.remove(seq)
            self._running.append(seq)
            self._start(seq)
        works: list[Work] = []
        coming: set[bytes] = set()
        for sequence_id, tokens in decision.chunks:
            seq = self._sequences[sequence_id]
            if seq not in self._running:
                continue
            work = self._chunk(seq, tokens, coming)
            while work is None and self._running[-1] is not seq:
                # Shared pages made the plan's estimate too rosy: the youngest gives way after all.
                victim = self._running[-1]
                works = [w for w in works if w.seq is not victim]
                self._preempt(victim)
                work = self._chunk(seq, tokens, coming)
            if work is not None and work.count:
                works.append(work)
        return works

    def _start(self, seq: Sequence) -> None:
        """Give a sequence its way through the chain as it is now, and its copied prefix."""
        assert seq.served is not None
        seq.take_route(seq.served.route)
        extend_hashes(seq)

    def _chunk(self, seq: Sequence, tokens: int, coming: set[bytes]) -> Work | None:
        """The work for the next ``tokens`` tokens of a sequence; None where pages ran out, count 0 to wait a step.

        Takes whole pages from the cache first. ``coming`` holds the pages that others compute in this step: rather than
        computing them twice, the sequence waits for them.
        """
        hop = 0
        while seq.computed % PAGE_TOKENS == 0 and seq.computed // PAGE_TOKENS < reusable_pages(seq):
            page = seq.computed // PAGE_TOKENS
            self.cache.counters.queries += 1
            hop, found = missing_from(self.cache, seq, seq.route, page)
            if hop < len(seq.route):
                break
            self.cache.counters.hits += 1
            self._hold(seq, found)
            seq.computed += PAGE_TOKENS
            if seq.generated == 0:
                seq.cached_tokens += PAGE_TOKENS
        if seq.prefix_to_copy:
            if not self._copy_prefix(seq):
                return None
            hop = 0
        start = seq.computed
        count = min(tokens, seq.pending)
        pages = range(start // PAGE_TOKENS, -(-(start + count) // PAGE_TOKENS))
        if start % PAGE_TOKENS == 0 and pages.start < reusable_pages(seq) and self.config.prefix_cache:
            if seq.page_hashes[pages.start] in coming:
                return Work(seq, seq.route, start, 0, 0, None, 0)
            if 0 < hop < len(seq.route):
                return self._resume(seq, hop, pages)
            # A page that another model left half-way is resumed in a chunk of its own.
            for page in pages[1:]:
                if page < reusable_pages(seq) and missing_from(self.cache, seq, seq.route, page)[0]:
                    pages = range(pages.start, page)
                    count = page * PAGE_TOKENS - start
                    break
        if not self._allocate(seq, pages.stop, 0):
            return None
        for page in pages:
            if page < len(seq.page_hashes):
                coming.add(seq.page_hashes[page])
        return self._work(seq, start, count, 0, None)

    def _resume(self, seq: Sequence, hop: int, pages: range) -> Work | None:
        """Work on pages whose lower segments are cached, from the activations kept below segment ``hop``."""
        hidden: list[Tensor] = []
        for page in pages:
            if page >= reusable_pages(seq):
                break
            start, found = missing_from(self.cache, seq, seq.route, page)
            if start != hop:
                break
            held = found[hop - 1]
            assert held is not None
            assert held.activation is not None
            hidden.append(held.activation)
            if not self._allocate(seq, page + 1, hop):
                hidden.pop()
                break
            self._hold(seq, found)
        if not hidden:
            return None
        return self._work(seq, seq.computed, len(hidden) * PAGE_TOKENS, hop, torch.cat(hidden))

    def _work(self, seq: Sequence, start: int, count: int, hop: int, hidden: Tensor | None) -> Work:
        wants = 1 if start + count == len(seq.tokens) else 0
        if seq.prompt_logprobs is not None and not seq.reported:
            wants = count
        return Work(seq, seq.route, start, count, hop, hidden, wants)

    def _hold(self, seq: Sequence, found: list[PageRun | None]) -> None:
        """Hold runs found in the cache as the next page of the lowest segments."""
        for hop, run in enumerate(found):
            if run is not None:
                seq.append_run(hop, self.cache.hold(run))

    def _allocate(self, seq: Sequence, pages: int, first_hop: int) -> bool:
        """Make sure a sequence holds ``pages`` page runs at every segment from ``first_hop`` up."""
        for hop, segment in enumerate(seq.route):
            if hop < first_hop or segment.pool is None:
                continue
            while len(seq.runs[hop]) < pages:
                run = self.cache.allocate(segment.pool, segment.kv_blocks)
                if run is None:
                    return False
                seq.append_run(hop, run)
        return True

    def _copy_prefix(self, seq: Sequence) -> bool:
        """Write a prefix attachment's keys and values into the sequence's first pages. False where pages ran out."""
        assert seq.served is not None
        count = seq.served.virtual_tokens
        if not self._allocate(seq, -(-count // PAGE_TOKENS), 0):
            return False
        for hop, segment in enumerate(seq.route):
            layer = 0
            for link in segment.links:
                if link.kv_shape is None:
                    continue
                assert segment.pool is not None
                key, value = link.attached.prefix  # type: ignore[union-attr]
                for page in range(seq.computed // PAGE_TOKENS, -(-count // PAGE_TOKENS)):
                    rows = slice(page * PAGE_TOKENS, min((page + 1) * PAGE_TOKENS, count))
                    into = segment.pool.tensor[seq.runs[hop][page].pages[layer]]
                    into[0, :, : rows.stop - rows.start] = key[rows].transpose(0, 1)
                    into[1, :, : rows.stop - rows.start] = value[rows].transpose(0, 1)
                layer += 1
        seq.computed = count
        return True

    def _finish(self, works: list[Work], done: list[tuple[list[Work], Tensor]]) -> list[Emission]:
        for work in works:
            seq = work.seq
            seq.computed = work.start + work.count
            complete = seq.computed // PAGE_TOKENS
            if complete > seq.published and self.config.prefix_cache:
                extend_hashes(seq)
                for hop, segment in enumerate(seq.route):
                    publish(self.cache, seq, segment, hop, seq.published, complete)
                seq.published = complete
        emissions: list[Emission] = []
        for group, logits in done:
            logits = logits.float()
            rows: list[int] = []
            asking: list[Sequence] = []
            at = 0
            for work in group:
                if work.seq.prompt_logprobs is not None and not work.seq.reported:
                    report_prompt(work, logits[at : at + work.wants])
                at += work.wants
                if work.seq.computed == len(work.seq.tokens):
                    rows.append(at - 1)
                    asking.append(work.seq)
            if not asking:
                continue
            chosen = logits if len(rows) == logits.shape[0] else logits[torch.tensor(rows)]
            for seq, token in zip(asking, sample(chosen, [s.sampler for s in asking]), strict=True):
                emissions.append(self._emit(seq, token))
        return emissions

    def _emit(self, seq: Sequence, token: Sampled) -> Emission:
        assert seq.served is not None
        seq.tokens.append(token.token)
        self._counts.generated_tokens += 1
        reason = None
        if seq.sampler.error is not None:
            reason = "error"
        elif token.token in seq.stop_ids or seq.sampler.complete:
            reason = "stop"
        elif seq.generated >= seq.max_tokens or len(seq.tokens) >= seq.served.max_len:
            reason = "length"
        report = None
        if not seq.reported:
            seq.reported = True
            self._counts.cached_prompt_tokens += seq.cached_tokens
            if seq.prompt_logprobs is not None:
                report = tuple(seq.prompt_report)
        emission = Emission(seq.id, token, reason, seq.cached_tokens, report, seq.sampler.error)
        if reason is not None:
            self.cancel(seq.id)
        return emission

    def _preempt(self, seq: Sequence) -> None:
        """Give a sequence's pages back; it starts again before those that have not started."""
        self._running.remove(seq)
        self._let_go(seq)
        if not seq.reported:
            seq.cached_tokens = 0
            seq.prompt_report.clear()
        self._waiting.appendleft(seq)
        self._counts.preemptions += 1

    def _let_go(self, seq: Sequence) -> None:
        for runs in seq.runs:
            for run in reversed(runs):
                self.cache.release(run)
        seq.runs = []
        seq.computed = seq.published = 0

    def stats(self) -> EngineStats:
        """How it stands."""
        c = self._counts
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_used_bytes=self.cache.used_bytes,
            kv_held_bytes=self.cache.held_bytes,
            kv_capacity_bytes=self.cache.capacity,
            weight_bytes=self.library.nbytes,
            steps=c.steps,
            prompt_tokens=c.prompt_tokens,
            generated_tokens=c.generated_tokens,
            cached_prompt_tokens=c.cached_prompt_tokens,
            prefill_token_layers=self._executor.prefill_token_layers,
            hops=self._executor.hops,
            preemptions=c.preemptions,
            kv=self.cache.counters,
            last_batches=c.last_batches,
            routes={ref: tuple(s.key for s in served.route) for ref, served in self.models.items()},
        )


def report_prompt(work: Work, logits: Tensor) -> None:
    """Record each prompt token's log-probability from the row before it: logits (count, vocabulary)."""
    seq = work.seq
    assert seq.prompt_logprobs is not None
    first = seq.prompt_len - len(seq.prompt)
    if not seq.prompt_report and work.start >= first:
        seq.prompt_report.append(None)
    logprobs = torch.log_softmax(logits, dim=-1)
    for row, position in enumerate(range(work.start + 1, work.start + work.count + 1)):
        if not first <= position < seq.prompt_len:
            continue
        token = seq.tokens[position]
        values, ids = torch.topk(logprobs[row], min(seq.prompt_logprobs, logits.shape[-1]))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        seq.prompt_report.append(Sampled(token, float(logprobs[row, token]), top))
