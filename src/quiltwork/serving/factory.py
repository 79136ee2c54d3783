"""From settings to a running host of language models."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import parse_ref
from quiltwork.core.servable import Json
from quiltwork.core.settings import references, setting
from quiltwork.serving.assembly import StandIns
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.chat import ChatTemplate
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.drafts import Drafts
from quiltwork.serving.engine import Engine
from quiltwork.serving.hosting import ModelSource
from quiltwork.serving.servable import LanguageModels

if TYPE_CHECKING:
    from quiltwork.serving.agents.front import AgentEngine

SETTINGS = ("zoo", "max_model_len", "max_num_seqs", "memory_bytes", "kv_bytes", "dtype", "device", "threads",
            "chat_template", "prefill_chunk", "step_tokens", "prefix_cache", "max_queue", "aliases",
            "seed", "agents", "ray", "log_batches", "tenant_kv_share", "tenant_weights", "tenant_fairness", "drafts",
            "draft_tokens", "assemble")  # fmt: skip
_ENGINE = ("max_model_len", "max_num_seqs", "memory_bytes", "kv_bytes", "dtype", "device", "prefill_chunk",
           "step_tokens", "prefix_cache", "tenant_kv_share", "tenant_weights", "tenant_fairness",
           "draft_tokens")  # fmt: skip

_KINDS: dict[str, type] = {"dtype": str, "device": str, "prefix_cache": bool, "tenant_fairness": bool,
                           "tenant_kv_share": float, "tenant_weights": Mapping}  # fmt: skip
"""What a setting of the engine must be, where it is no int."""

ALL = "*"
"""In ``drafts``: every model that the draft fits; in ``assemble``: every adapted one."""


def language_servable(settings: Mapping[str, Json]) -> LanguageModels:
    """A host of the language models of a zoo, with none of them loaded yet.

    Settings: ``zoo`` (its folder; required), those of EngineConfig (``max_model_len``, ``max_num_seqs``,
    ``memory_bytes``, ``kv_bytes``, ``dtype``, ``device``, ``prefill_chunk``, ``step_tokens``, ``prefix_cache``,
    ``tenant_kv_share``, ``tenant_weights``, ``tenant_fairness``, ``draft_tokens``), ``threads`` (compute threads of the
    engine), ``chat_template`` (the text of a template used for every model), ``max_queue`` (sequences that may wait),
    ``aliases`` (name -> model), ``seed`` (of requests that bring none; drawn by the system where absent),
    ``log_batches`` (a file that gets a JSON line for every batch), ``drafts`` (model, or model that others were made
    from, -> the small model that drafts for it; ``*`` for all that it fits), ``assemble`` (adapted models that may
    answer for the exact ones where a tenant's quality budget allows it; ``*`` for all), ``agents`` (processes that hold
    the blocks between them; one engine in this process where absent), ``ray`` (the Ray cluster to run those on). A
    setting that is None is as if absent. Raises BadInputError naming the setting.
    """
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise BadInputError("is not a setting of language models", where=unknown[0])
    given = {name: value for name, value in settings.items() if value is not None}
    path = setting(given, "zoo", str, "")
    if not path:
        raise BadInputError("is missing: the folder of the zoo", where="zoo")
    threads = setting(given, "threads", int, 0)
    if threads < 0:
        raise BadInputError(f"{threads} is not positive", where="threads")
    max_queue = setting(given, "max_queue", int, 256)
    if max_queue < 0:
        raise BadInputError(f"{max_queue} is negative", where="max_queue")
    template = given.get("chat_template")
    if template is not None:
        ChatTemplate(setting(given, "chat_template", str, ""), {}, datetime.now)
    batches = setting(given, "log_batches", str, "")
    config = _engine_config({name: given[name] for name in _ENGINE if name in given})

    def open_source() -> ModelSource:
        from quiltwork.zoo import Zoo

        return Zoo(path)

    def begin() -> None:
        if threads:
            torch.set_num_threads(threads)

    common: dict[str, Any] = {
        "max_queue": max_queue,
        "chat_template": template,
        "aliases": references(given.get("aliases", {}), "aliases"),
        "stand_ins": _stand_ins(given.get("assemble", [])),
        "drafts": _drafts(given.get("drafts", {})),
        "now": datetime.now,
        "seed": setting(given, "seed", int, 0) if "seed" in given else random.SystemRandom().getrandbits(63),
    }
    ray, agents = setting(given, "ray", str, ""), setting(given, "agents", int, 0)
    if agents < 0:
        raise BadInputError(f"{agents} is not positive", where="agents")
    log = BatchLog(Path(batches), time.time) if batches else None

    def end() -> None:
        if log is not None:
            log.close()

    if agents or ray:
        front = _front(path, config, agents or 2, threads, ray, log)

        def close() -> None:
            front.close()
            end()

        return LanguageModels(front, open_source, **common, wake=front.wake, end=close, samples=front.samples)
    return LanguageModels(
        Engine(config, time.monotonic, log),
        open_source,
        **common,
        begin=begin,
        end=end,
    )


def _front(zoo: str, config: EngineConfig, agents: int, threads: int, ray: str, log: BatchLog | None) -> AgentEngine:
    """Agents that share this machine's memory and cores evenly, or those of a Ray cluster, and the front of them.

    On a cluster the memory is each agent's own.
    """
    from quiltwork.serving.agents.contact import Crew
    from quiltwork.serving.agents.front import AgentEngine
    from quiltwork.serving.agents.local import LocalCrew
    from quiltwork.serving.agents.settings import AgentSettings

    crew: Crew
    memory = config.memory_bytes
    settings = AgentSettings(log_batches=log is not None)
    if ray:
        from quiltwork.serving.agents.ray_crew import RayCrew

        crew = RayCrew(ray, agents, zoo, config, settings, threads=threads or 1)
        together = None if memory is None else memory * agents
        return AgentEngine(replace(config, memory_bytes=together), crew, time.monotonic, settings, log=log)
    share = replace(
        config,
        kv_bytes=max(config.kv_bytes // agents, 1),
        memory_bytes=None if memory is None else max(memory // agents, 1),
    )
    each = max((threads or os.cpu_count() or 1) // agents, 1)
    crew = LocalCrew(agents, zoo, share, settings, threads=each)
    return AgentEngine(config, crew, time.monotonic, settings, log=log)


def _engine_config(values: Mapping[str, Json]) -> EngineConfig:
    defaults = EngineConfig()
    for name, value in values.items():
        if not (name == "tenant_kv_share" and type(value) is int):
            setting({name: value}, name, _KINDS.get(name, int), getattr(defaults, name))
    for tenant, weight in values.get("tenant_weights", {}).items():
        if not isinstance(tenant, str) or isinstance(weight, bool) or not isinstance(weight, int | float):
            raise BadInputError("must map tenants to numbers", where="tenant_weights")
    return EngineConfig(**values)


def _stand_ins(values: Json) -> StandIns:
    if not isinstance(values, list | tuple) or not all(isinstance(name, str) for name in values):
        raise BadInputError("must list adapted models", where="assemble")
    return StandIns(frozenset(parse_ref(name) for name in values if name != ALL), every=ALL in values)


def _drafts(values: Json) -> Drafts:
    named = references(
        {key: draft for key, draft in values.items() if key != ALL} if isinstance(values, Mapping) else values, "drafts"
    )
    general = references({"all": values[ALL]}, "drafts") if ALL in values else {}
    return Drafts(next(iter(general.values()), None), named)
