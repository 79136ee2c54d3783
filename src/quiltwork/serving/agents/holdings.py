"""Which models are served and who holds their segments: cut, placed, loaded, replicated and forgotten."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import count, pairwise

import torch

from quiltwork.core.errors import CapacityError, NotFoundError, QuiltworkError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.asked import Asked
from quiltwork.serving.agents.contact import AgentLost, Contact, Crew
from quiltwork.serving.agents.layout import Cut, cut_of
from quiltwork.serving.agents.message import Beat, Forget, Lay
from quiltwork.serving.agents.placing import Cuts, Expected, Plan, Planned, arrange, held_bytes, segment_bytes, split
from quiltwork.serving.agents.scaling import Lately, between, changed, changes
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.policy.placement import Place
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.policy.settling import Lengths
from quiltwork.serving.roster import MAX_LEN_KEYS, placement
from quiltwork.serving.weights import Content
from quiltwork.zoo.segments import segments
from quiltwork.zoo.types import Chain

WEIGHTS_PART = 0.9
"""Of an agent's memory that weights may take; the rest is for keys and values."""
LOAD_TRIES = 3
"""How often a model is loaded anew where an agent is lost meanwhile: it may be the load that ends it."""


@dataclass(frozen=True, eq=False)
class Laying:
    """One version of a model, cut and held one way. A sequence stays with the one it started on."""

    id: int
    chain: Chain
    plan: Plan
    cut: Cut


@dataclass(eq=False)
class Placed:
    """One version of a model on the agents. Replaced, never changed, by an upgrade."""

    ref: ModelRef
    chain: Chain
    max_len: int
    virtual_tokens: int
    vocab_size: int
    weight_bytes: int
    copies_prefix: bool
    laying: Laying | None = None

    @property
    def route(self) -> tuple[Instance, ...]:
        """Its segments."""
        return self.laying.plan.keys if self.laying is not None else ()

    @property
    def now(self) -> Laying:
        """How it is laid now; only a prepared model is."""
        assert self.laying is not None
        return self.laying

    @property
    def kv_at(self) -> dict[str, int]:
        """Bytes of keys and values of a token, at the first holder of each segment."""
        found: dict[str, int] = {}
        for holders, nbytes in zip(self.now.cut.holders, self.now.cut.kv_bytes, strict=True):
            found[holders[0]] = found.get(holders[0], 0) + nbytes
        return found

    def needs(self, tokens: int) -> dict[str, int]:
        """Bytes of pages for so many tokens, at the first holder of each segment."""
        pages = -(-tokens // PAGE_TOKENS)
        return {agent: pages * PAGE_TOKENS * nbytes for agent, nbytes in self.kv_at.items()}


class Holdings:
    """The models of a front and their segments on its agents. Any thread may load; the rest belongs to the engine's.

    crew : the agents; closed with this. timing : what segments cost, as far as is known.
    restart : whether agents that died are started anew. log : of their batches.
    in_use : the layouts that sequences run on, those that wait included; called in any thread.
    kv_needs : bytes of keys and values, by agent, that sequences at hand need; called in any thread.
    """

    def __init__(
        self,
        config: EngineConfig,
        settings: AgentSettings,
        crew: Crew,
        clock: Callable[[], float],
        timing: Timing,
        *,
        restart: bool,
        in_use: Callable[[], Collection[Laying]],
        kv_needs: Callable[[], Mapping[str, int]],
        log: BatchLog | None = None,
    ) -> None:
        self.models: dict[ModelRef, Placed] = {}
        self.offered: dict[ModelRef, Chain] = {}
        """Chains that others are cut with, held or not, so that cuts, and with them the keys and values kept, stay what
        they are when a model comes or goes."""
        self.set_apart: dict[ModelRef, Planned] = {}
        """What is to stand where once models are there that room was made for."""
        self.contact = Contact(crew, clock, reload=self._reload, restart=restart, look=self._look_at_loads, log=log)
        self.asked = Asked(settings.output_tokens)
        self._config, self._settings, self._clock, self._timing = config, settings, clock, timing
        self.restarts, self._in_use, self._kv_needs = restart, in_use, kv_needs
        self.width = torch.empty((), dtype=placement(config).dtype).element_size()
        """Bytes of a number."""
        self._lock = threading.RLock()
        """One change of layouts at a time: as long as loading takes."""
        self._books = threading.Lock()
        """Guards what follows, and ``models``; never held for long."""
        self._layings: dict[int, Laying] = {}
        self._prepared: dict[ModelRef, Placed] = {}
        """Loaded, and not in service yet."""
        self._held: dict[str, dict[Content, int]] | None = None
        self._ids = count(1)
        self._looked: tuple[float, dict[str, Beat]] = (clock(), {})
        self._rebalancing = threading.Event()
        self.contact.open()

    def find(self, ref: ModelRef) -> Placed:
        """The version in service. Raises NotFoundError."""
        placed = self.models.get(ref)
        if placed is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        return placed

    # --- models in and out --------------------------------------------------------------------------------------

    def prepare(self, chain: Chain) -> Placed:
        """Have the agents load what a chain needs, and cut and place all models anew with it.

        An agent that is lost meanwhile is waited for where it is started anew. Raises CapacityError where the chain
        fits nowhere, UnsupportedError naming what cannot be executed.
        """
        placed = describe(chain, self._config.max_model_len)
        for last in (*(False,) * (LOAD_TRIES - 1), True):
            try:
                with self._lock:
                    self._bring(placed)
                break
            except AgentLost:
                if last or not self.restarts:
                    raise
            self.contact.wait_for_all()
        return placed

    def _bring(self, placed: Placed) -> None:
        with self._books:
            others = {ref: other for ref, other in self.models.items() if ref != placed.ref}
        plans = self._plans(placed, others)
        self._lay_out({other: plans[ref] for ref, other in others.items() if other.now.plan != plans[ref]})
        self.forget(self._in_use())  # what those that moved have left
        self._lay_out({placed: plans[placed.ref]})

    def _plans(self, placed: Placed, others: Mapping[ModelRef, Placed]) -> Mapping[ModelRef, Plan]:
        wanted = {placed.ref: placed.chain, **{ref: other.chain for ref, other in others.items()}}
        apart = {
            ref: planned.plan
            for ref, planned in self.set_apart.items()
            if ref in wanted and planned.chain.model.version == wanted[ref].model.version
        }
        if apart.keys() >= wanted.keys():
            return apart
        staying = {ref: other.now for ref, other in others.items()}
        coming = {placed.ref: placed.chain}
        found = arrange(
            staying, coming, self._in_use(), self.places(), self.cuts(coming), self.width, self.expected(wanted)
        )
        if found is None:
            raise CapacityError(
                "a segment fits no agent's memory", where=str(placed.ref), hint="raise --memory or serve fewer models"
            )
        return {ref: planned.plan for ref, planned in found.items()}

    def cuts(self, coming: Mapping[ModelRef, Chain]) -> Cuts:
        """Where chains are cut, when these are among them: where they part ways, and so that each piece fits."""
        with self._books:
            now = {ref: placed.chain for ref, placed in self.models.items()}
        chains = {**self.offered, **now, **coming}
        cuts = segments({ref: chain.links for ref, chain in chains.items()})
        return cuts if self.share is None else split(cuts, chains, WEIGHTS_PART * self.share, self.width)

    def expected(self, models: Collection[ModelRef]) -> Expected | None:
        """What chains are settled by; None where segments are placed one by one."""
        if self._settings.provisioning == "segments":
            return None
        return Expected(
            profile=self._timing.known,
            rates=self.asked.rates(models, self._clock()),
            lengths=Lengths(self.asked.prompt_tokens, self.asked.output_tokens, self._config.prefill_chunk),
            power=self._settings.power,
        )

    def install(self, placed: Placed) -> None:
        """Serve a prepared chain under its name from now on."""
        with self._books:
            self.models[placed.ref] = placed
            self._prepared.pop(placed.ref, None)

    def abandon(self) -> None:
        """What was prepared and never installed will not be."""
        with self._books:
            self._prepared.clear()

    def remove(self, ref: ModelRef) -> None:
        """Serve a model no longer. Raises NotFoundError."""
        self.find(ref)
        with self._books:
            del self.models[ref]

    def forget(self, in_use: Collection[Laying]) -> None:
        """Let agents forget layouts that neither a model nor ``in_use`` needs any more."""
        with self._books:
            current = {placed.laying for placed in (*self.models.values(), *self._prepared.values())} | set(in_use)
            left = [id for id, laying in self._layings.items() if laying not in current]
            for id in left:
                del self._layings[id]
            self._held = None if left else self._held
        for id in left:
            self.contact.broadcast(Forget(id))

    @property
    def held(self) -> Mapping[str, Mapping[Content, int]]:
        """Bytes of what agents hold, by agent and by what is loaded as one. Any thread."""
        with self._books:
            if self._held is None:
                self._held = held_bytes(self._layings.values(), self.width)
            return self._held

    @property
    def surplus(self) -> bool:
        """Whether there are more layouts than models."""
        return len(self._layings) > len(self.models)

    def lay_out(self, ref: ModelRef, holders: tuple[tuple[str, ...], ...]) -> None:
        """Have a model's segments held by these agents, whatever placement would say.

        Raises NotFoundError, CapacityError where an agent cannot load its part.
        """
        with self._lock:
            placed = self.find(ref)
            self._lay_out({placed: replace(placed.now.plan, holders=holders)})

    def _lay_out(self, changed: Mapping[Placed, Plan]) -> None:
        """Give models new layouts, loaded before they are used; sequences that run finish on the old ones."""
        ids: list[int] = []
        try:
            for placed, planned in changed.items():
                ids.append(next(self._ids))
                asked = sorted({agent for holders in planned.holders for agent in holders})
                if lost := self.contact.gone & set(asked):
                    raise AgentLost(f"agent {min(lost)} is gone", where=str(placed.ref))
                self.contact.lay(_order(ids[-1], placed.chain, planned), asked)
        except BaseException:
            for id in ids:
                self.contact.broadcast(Forget(id))
            raise
        with self._books:
            for id, (placed, planned) in zip(ids, changed.items(), strict=True):
                cut = cut_of(placed.chain, planned.bounds, planned.holders, self.width)
                self._layings[id] = placed.laying = Laying(id, placed.chain, planned, cut)
                if self.models.get(placed.ref) is not placed:
                    self._prepared[placed.ref] = placed
            self._held = None
        self.contact.wake()

    def _reload(self, name: str) -> None:
        """Have an agent load all that it is to hold."""
        with self._lock:
            for laying in list(self._layings.values()):
                if any(name in holders for holders in laying.plan.holders):
                    self.contact.lay(_order(laying.id, laying.chain, laying.plan), [name])
                    if laying.id not in self._layings:  # forgotten meanwhile, maybe before it was laid
                        self.contact.send(name, Forget(laying.id))

    @property
    def share(self) -> int | None:
        """Bytes of each agent's memory, weights, keys and values together; None where it is not limited."""
        memory = self._config.memory_bytes
        return None if memory is None else max(memory // len(self.contact.names), 1)

    def places(self, awaited: Mapping[str, int] | None = None) -> list[Place]:
        """Agents that are there, and what of their memory weights may take: their part, or what keys and values leave.

        awaited : bytes of keys and values, by agent, that a sequence needs which is not at hand yet.
        """
        names = [name for name in self.contact.names if name not in self.contact.gone]
        if self.share is None:
            return [Place(name, float("inf")) for name in names]
        kv = Counter(self._kv_needs()) | Counter(awaited or {})
        return [Place(name, min(WEIGHTS_PART * self.share, self.share - kv[name])) for name in names]

    # --- replicas -----------------------------------------------------------------------------------------------

    def _look_at_loads(self) -> None:
        """Now and then: add replicas of segments that are too busy, retire those that are not needed any more."""
        since, before = self._looked
        now = self._clock()
        period = self._settings.rebalance_s
        if not period or now - since < period or self._rebalancing.is_set():
            return
        beats = dict(self.contact.beats)
        self._looked = (now, beats)
        lately = {
            name: between(before[name], beat, now - since)
            for name, beat in beats.items()
            if name in before and beat.steps >= before[name].steps
        }
        if len(self.contact.names) > 1 and lately:
            self._rebalancing.set()
            threading.Thread(target=self._rebalance_apart, args=(lately,), daemon=True).start()

    def _rebalance_apart(self, lately: Mapping[str, Lately]) -> None:
        try:
            self.rebalance(lately)
        except QuiltworkError as error:
            self.contact.complaints.append(f"replicas: {error}")
        finally:
            self._rebalancing.clear()

    def rebalance(self, lately: Mapping[str, Lately]) -> None:
        """Add and retire replicas by what agents did lately. Raises CapacityError where one cannot be loaded."""
        with self._lock:
            if self.set_apart:
                return  # the room is for others
            with self._books:
                current = {placed: placed.now.plan for placed in self.models.values()}
            wanted = changes(
                list(current.values()), self._nbytes(), lately, self._free_bytes(),
                wait_limit_s=self._settings.wait_limit_s,
            )  # fmt: skip
            moved = {placed: changed(plan, wanted) for placed, plan in current.items()}
            self._lay_out(
                {
                    placed: replace(current[placed], holders=holders)
                    for placed, holders in moved.items()
                    if holders != current[placed].holders
                }
            )

    def _nbytes(self) -> dict[Instance, float]:
        """Bytes of every segment in use, attachments of all its models included."""
        found: dict[Instance, float] = {}
        for placed in self.models.values():
            for key, (a, b) in zip(placed.route, pairwise(placed.now.plan.bounds), strict=True):
                bare, attached = segment_bytes(placed.chain.links[a:b], self.width)
                found[key] = max(found.get(key, 0.0), bare) + attached
        return found

    def _free_bytes(self) -> dict[str, float]:
        """Bytes of weights that an agent could still take."""
        free: dict[str, float] = {}
        for place in self.places():
            beat = self.contact.beats.get(place.agent)
            if beat is not None:
                held = sum(self.held.get(place.agent, {}).values())
                free[place.agent] = place.memory_bytes - max(beat.weight_bytes, held)
        return free


def _order(id: int, chain: Chain, planned: Plan) -> Lay:
    return Lay(id, str(chain.model.ref), chain.model.version, planned.bounds, planned.holders)


def describe(chain: Chain, max_model_len: int | None) -> Placed:
    """What the front needs to know of a model. Raises UnsupportedError where it is no chain from embed to head."""
    kinds = [part.block.kind for part in chain.links]
    if not kinds or kinds[0] != "embed" or kinds[-1] != "head":
        raise UnsupportedError("a chain runs from an embed block to a head block", where=str(chain.model.ref))
    attached = [a for part in chain.links for a in part.attachments]
    limit = next((int(chain.model.config[k]) for k in MAX_LEN_KEYS if chain.model.config.get(k)), 1 << 20)
    return Placed(
        ref=chain.model.ref,
        chain=chain,
        max_len=min(limit, max_model_len or limit),
        virtual_tokens=max(
            (int(a.arch["num_virtual_tokens"]) for a in attached if "num_virtual_tokens" in a.arch), default=0
        ),
        vocab_size=int(chain.links[-1].block.arch["vocab_size"]),
        weight_bytes=sum(part.block.nbytes for part in chain.links),
        copies_prefix=any(a.kind == "prefix" for a in attached),
    )
