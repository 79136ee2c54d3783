"""A side in its own process: calls, errors, memory. Sides of one comparison are started alike, and say how."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import fleet_load
import llama_server
import parameter_sharing
import per_model
import single_model
import work.http
from quiltwork.core.errors import QuiltworkError
from work.continuous import ContinuousFleet
from work.fleet import SMALL_BODY, sixteen_loras
from work.generate import GenerateFleet
from work.hf import HfModels, PeftMixed
from work.http import CONTEXT, LlamaServers, OurServer
from work.mixed import PeftFleet
from work.ours import OurModels
from work.replay import Request
from work.rounds import Rounds, per_step
from work.settings import BatchSettings, ContinuousSettings, GenerateSettings, HfSettings, LlamaSettings
from work.side import BENCHMARKS, Side
from work.stock import stock

CLIENTS = {"work.http:LlamaServers", "work.pair:Trainer"}
"""The first is a client, whose servers have threads of their own; the second is measured against nothing."""


def test_a_side_answers_calls_and_reports_errors_with_their_text() -> None:
    with Side("fractions:Fraction", threads=1, numerator=3, denominator=4) as side:
        assert side.call("limit_denominator", 2) == pytest.approx(1.0)
        assert side.floor_pss > 1 << 20
        with side.peak_pss() as peak, pytest.raises(QuiltworkError, match="no attribute 'fly'"):
            side.call("fly")
        assert peak.bytes > 1 << 20


def test_a_side_that_cannot_be_built_says_why() -> None:
    with pytest.raises(QuiltworkError, match="ZeroDivisionError"):
        Side("fractions:Fraction", threads=1, numerator=1, denominator=0)


def test_every_arm_is_asked_the_same_and_every_round_something_new() -> None:
    rounds = Rounds(["a", "b"], length=4, vocab=50, seed=0)
    heard: dict[str, list[list[list[int]]]] = {"x": [], "y": []}

    def ask(side: str):  # type: ignore[no-untyped-def]
        def answer(requests: list[tuple[str, list[int]]], new_tokens: int) -> list[list[int]]:
            heard[side].append([prompt for _, prompt in requests])
            return [[0] * new_tokens for _ in requests]

        return answer

    for side in ("x", "y"):
        for kind in ("long", "short"):
            arm = rounds.arm(side, ask(side), 2, kind)
            arm()
            arm()
    assert heard["x"] == heard["y"]
    prompts = [tuple(prompt) for turn in heard["x"] for prompt in turn]
    assert len(set(prompts)) == len(prompts)


def test_a_step_costs_the_difference_of_long_and_short_answers() -> None:
    assert per_step([10.0, 12.0], [2.0, 4.0], 8) == [1.0, 1.0]


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_no_side_of_a_benchmark_is_started_with_fewer_threads_than_another(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    sides = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Side"]
    threads = {
        ast.unparse(word.value)
        for call in sides
        for word in call.keywords
        if word.arg == "threads" and ast.unparse(call.args[0]).strip("'") not in CLIENTS
    }
    assert len(threads) <= 1


def test_every_baseline_is_tried_on_all_cores_in_one_batch_and_on_one_core_for_each_of_several() -> None:
    tried = [
        *per_model.candidates(2, False).values(),
        parameter_sharing.candidates(2, False),
        fleet_load.candidates(2, False),
        llama_server.candidates(2, 4, False),
    ]
    for candidates in tried:
        assert {settings.threads for settings in candidates} == {1, 2}, candidates
    assert {settings.threads for settings in single_model.candidates(False)} >= {1}
    assert any(settings.attention == "eager" for settings in tried[0])
    assert {settings.resident for settings in tried[-1]} == {None, 4}, "multi-LoRA, and the router"


def test_sides_of_one_comparison_compute_in_one_precision_and_say_with_how_many_threads(tmp_path: Path) -> None:
    fleet = sixteen_loras(tmp_path / "fleet", seed=0, shape=SMALL_BODY, count=2)
    stock(tmp_path / "zoo", fleet)
    base, *loras = fleet.apps
    whole = {base.name: base.path}
    adapters = {app.name: app.path for app in loras}
    tuned = {
        HfModels(whole): HfSettings("eager"),
        PeftMixed(base.path, adapters): HfSettings("eager", "static"),
        GenerateFleet(whole, 1): GenerateSettings("eager"),
        ContinuousFleet(whole, 1): ContinuousSettings("eager"),
        PeftFleet((base.name, base.path), adapters, {}): BatchSettings(4),
    }
    before = torch.get_num_threads()
    ours = OurModels(tmp_path / "zoo", [base.name], max_num_seqs=4)
    try:
        told = [ours.conditions()]
        for side, settings in tuned.items():
            side.configure(settings)
            told.append(side.conditions())
            assert told[-1]["settings"] == settings.label()
            assert told[-1]["threads"] == torch.get_num_threads()
    finally:
        ours.close()
        torch.set_num_threads(before)
    assert {one["dtype"] for one in told} == {"torch.float32"}
    assert told[0] == {"dtype": "torch.float32", "threads": before, "settings": {"max_num_seqs": 4}}


def test_no_end_token_shortens_an_answer_on_any_side(tmp_path: Path) -> None:
    """Of a model whose every token ends an answer, all sides make as many tokens as were asked for, and the same."""
    fleet = sixteen_loras(tmp_path / "fleet", seed=0, shape=SMALL_BODY, count=1)
    base, lora = fleet.apps
    ends = {"eos_token_id": list(range(fleet.shape.vocab))}
    (base.path / "generation_config.json").write_text(json.dumps(ends))
    config = json.loads((base.path / "config.json").read_text())
    (base.path / "config.json").write_text(json.dumps(config | ends))
    stock(tmp_path / "zoo", fleet)
    whole, prompt, threads = {"base": base.path}, list(range(3, 20)), torch.get_num_threads()
    request = Request("r", "base", 0.0, prompt, 9)
    ours = OurModels(tmp_path / "zoo", ["base"])
    try:
        made = {
            "ours": ours.generate([("base", prompt)], 9)[0],
            "generate": HfModels(whole).generate("base", [prompt], 9)[0],
            "mixed": PeftMixed(base.path, {"a": lora.path}).generate(["__base__"], [prompt], 9)[0],
        }
        shared = PeftFleet(("base", base.path), {"a": lora.path}, {})
        for side in (GenerateFleet(whole, 1), ContinuousFleet(whole, 1), shared):
            made[type(side).__name__] = side.replay([request]).replies["r"].tokens
    finally:
        ours.close()
        torch.set_num_threads(threads)
    assert {name: len(tokens) for name, tokens in made.items()} == dict.fromkeys(made, 9)
    assert len(set(map(tuple, made.values()))) == 1, made
    with pytest.raises(QuiltworkError, match="8 tokens instead of 9"):
        work.http._llama_tokens({"tokens": list(range(8))}, request)


class Unstarted:
    """What a Server is, but nothing runs."""

    url = "http://127.0.0.1:9"
    started: list[tuple[list[str], int]]

    def __init__(self, command: list[str], health: str, log: Path, threads: int) -> None:
        self.command = list(command)
        self.started.append((self.command, threads))

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_both_servers_get_the_same_threads_work_and_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Unstarted.started = []
    monkeypatch.setattr(work.http, "Server", Unstarted)
    files = {app: tmp_path / f"{app}.gguf" for app in ("base", "lora", "full")}
    llama = LlamaServers(Path("llama-server"), "base", files, {"lora": tmp_path / "lora-adapter.gguf"}, tmp_path)
    ours = OurServer(tmp_path / "zoo", list(files), compute_threads=2, memory_bytes=1 << 20, logs=tmp_path)
    settings = LlamaSettings(slots=8, threads=2)
    request = Request("r", "full", 0.0, [1, 2, 3], 7)
    for setting, processes in ((settings, 2), (replace(settings, resident=2), 1)):
        llama.configure(setting)
        commands = llama.conditions()["commands"]
        assert len(commands) == processes
        for command in commands.values():
            flags = dict(pairwise(command))
            assert {flags[name] for name in ("-t", "-tb")} == {"2"}
            assert {flags[name] for name in ("-ctk", "-ctv")} == {"f32"}
            assert "--cont-batching" in command
            assert int(flags["-c"]) == int(flags["-np"]) * CONTEXT
        theirs, mine = llama._ask(request)[1], ours._ask(request)[1]
        assert (theirs["prompt"], theirs["n_predict"]) == (mine["prompt"], mine["max_tokens"])
        assert theirs["ignore_eos"] is mine["ignore_eos"] is True
        assert theirs["temperature"] == mine["temperature"] == 0
    up = ours.conditions()
    (command,) = up["commands"].values()
    flags = dict(pairwise(command))
    assert (flags["--threads"], flags["--memory"]) == ("2", f"{1 << 20}B")
    assert up["dtype"] == llama.conditions()["dtype"] == "torch.float32"
    assert {threads for _, threads in Unstarted.started} == {2}
