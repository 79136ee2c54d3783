"""The knob of models with experts: who asks for how many gets them, beside others who ask for something else."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_crew import ThreadCrew
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from served_sparse import SIZES, Asking, greedy, save, sparse, tuned
from tiny_checkpoints import build

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.serving.agents.front import AgentEngine
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.experts import EXPERTS_SCHEMA, PER_TOKEN, parse_experts
from quiltwork.serving.options import parse_options
from quiltwork.serving.sequence import Sequence
from quiltwork.zoo import Zoo

PROMPT = torch.randint(0, 448, (40,), generator=torch.Generator().manual_seed(3)).tolist()
OTHER = torch.randint(0, 448, (23,), generator=torch.Generator().manual_seed(4)).tolist()
KNOBS: list[Any] = [None, 1, 2, 3, "adaptive", {"threshold": 0.3, "most": 4}]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        "mix": sparse("mixtral", num_experts_per_tok=2),
        "fine": tuned("mixtral"),
        "qwen": sparse("qwen2_moe", seed=1),
        "olmoe": sparse("olmoe", seed=2),
        "dense": build("llama-tied", 3, **SIZES),
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experts")


@pytest.fixture(scope="module")
def zoo(models: dict[str, Any], path: Path) -> Zoo:
    opened = Zoo(path / "zoo")
    for name, model in models.items():
        opened.add(save(model, path / name))
    return opened


Told = list[tuple[int, float]]


@pytest.fixture(scope="module")
def alone(zoo: Zoo) -> Callable[..., Told]:
    """What a model says on PROMPT under a knob with nothing beside it and nothing before it; 8 tokens."""
    known: dict[str, Told] = {}

    def ask(name: str, knob: Any, prompt: list[int] = PROMPT) -> Told:
        key = repr((name, knob, len(prompt)))
        if key not in known:
            known[key] = Asking(zoo, name).alone(name, prompt, 8, knob)
        return known[key]

    return ask


def tokens(told: Told) -> list[int]:
    return [token for token, _ in told]


def mean(seq: Sequence) -> float:
    return seq.spent[PER_TOKEN].total / seq.spent[PER_TOKEN].count


def same(a: Told, b: Told) -> bool:
    return tokens(a) == tokens(b) and all(abs(x - y) < 1e-4 for (_, x), (_, y) in zip(a, b, strict=True))


# --- what may be asked -------------------------------------------------------------------------------------------


def test_every_way_to_ask_becomes_one() -> None:
    assert parse_experts(None) is None
    assert parse_experts(2) == parse_experts(2.0) == {"most": 2, "threshold": 1.0}
    assert parse_experts("adaptive") == parse_experts({}) == {"most": None, "threshold": None}
    assert parse_experts({"threshold": 0.1}) == {"most": None, "threshold": 0.1}
    assert parse_experts({"most": 3, "threshold": 1}) == parse_experts(3)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (0, "experts"), (-1, "experts"), (1.5, "experts"), (True, "experts"), ("two", "experts"), ([2], "experts"),
        (10**30, "experts"), (float("nan"), "experts"), ({"threshold": 2}, "experts.threshold"),
        ({"threshold": float("nan")}, "experts.threshold"), ({"threshold": "low"}, "experts.threshold"),
        ({"threshold": True}, "experts.threshold"), ({"most": 0}, "experts.most"), ({"most": 1.5}, "experts.most"),
        ({"least": 1}, "experts.least"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_the_field_that_says_it(value: Any, named: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_options({"experts": value}, vocab_size=10)
    assert caught.value.where == named
    assert "\n" not in str(caught.value)


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 5000) | st.floats(-2, 3) | st.text(max_size=9)
                    | st.just("adaptive"),
                    lambda inner: st.dictionaries(st.sampled_from(["most", "threshold", "x"]), inner) | st.lists(inner),
                    max_leaves=4)  # fmt: skip


@given(JSON)
def test_the_schema_takes_what_is_understood_and_nothing_else(value: Any) -> None:
    try:
        parse_experts(value)
    except BadInputError:
        assert not Draft202012Validator(EXPERTS_SCHEMA).is_valid(value)
    else:
        assert Draft202012Validator(EXPERTS_SCHEMA).is_valid(value)


# --- what is answered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mix", "fine", "qwen", "olmoe"])
def test_without_the_knob_a_model_answers_as_transformers_does(zoo: Zoo, models: dict[str, Any], name: str) -> None:
    told = Asking(zoo, name).alone(name, PROMPT, 12)
    assert tokens(told) == greedy(models[name], PROMPT, 12)


def test_models_with_experts_fine_tunes_and_dense_ones_share_the_steps(zoo: Zoo, models: dict[str, Any]) -> None:
    desk = Asking(zoo, *models)
    asked = {name: desk.ask(name, PROMPT, 12) for name in models}
    told = desk.finish()
    for name, seq in asked.items():
        assert tokens(told[seq.id]) == greedy(models[name], PROMPT, 12), name


def test_experts_that_models_have_in_common_are_in_memory_once(zoo: Zoo) -> None:
    def nbytes(*names: str) -> int:
        return Asking(zoo, *names).engine.stats().weight_bytes

    one, both = nbytes("mix"), nbytes("mix", "fine")
    head, matrix = 448 * 32 * 4, 32 * 48 * 4
    assert both - one == head + matrix


@pytest.mark.parametrize("name", ["mix", "qwen", "olmoe"])
def test_as_many_as_the_model_was_trained_with_is_what_it_answers_anyway(zoo: Zoo, name: str) -> None:
    trained = 2 if name == "mix" else 4
    desk = Asking(zoo, name, prefix_cache=False)
    assert same(desk.alone(name, PROMPT, 8), desk.alone(name, PROMPT, 8, trained))


def test_requests_that_ask_for_different_numbers_share_a_batch_and_each_gets_its_own(zoo: Zoo, alone: Any) -> None:
    desk = Asking(zoo, "mix")
    asks = [(knob, prompt) for knob in KNOBS for prompt in (PROMPT, OTHER)]
    asked = [desk.ask("mix", prompt, 8, knob) for knob, prompt in asks]
    together = desk.finish()
    assert desk.widest == len(asked), "one batch"
    for seq, (knob, prompt) in zip(asked, asks, strict=True):
        assert same(together[seq.id], alone("mix", knob, prompt)), knob
    different = {tuple(tokens(together[seq.id])) for seq in asked[::2]}
    assert len(different) >= 4, "the knob changes what is answered"


def test_what_was_taken_is_counted_over_layers_and_tokens(zoo: Zoo) -> None:
    desk = Asking(zoo, "mix", "dense")
    asked = {str(knob): desk.ask("mix", PROMPT, 6, knob) for knob in [*KNOBS, {"threshold": -1}]}
    dense = desk.ask("dense", PROMPT, 6)
    desk.finish()
    means = {knob: mean(seq) for knob, seq in asked.items()}
    assert {seq.spent[PER_TOKEN].count for seq in asked.values()} == {2 * (40 + 5)}, (
        "two layers, all but the last token"
    )
    assert (means["None"], means["1"], means["2"], means["3"]) == (2, 1, 2, 3)
    assert 1 < means["adaptive"] < 2
    assert means[str({"threshold": -1})] == 1
    assert dense.spent == {}


def test_adaptive_takes_what_the_gap_between_a_tokens_experts_asks_for(tmp_path: Path) -> None:
    """One layer, so that what transformers' router says does not depend on how many were taken below."""
    model = sparse("mixtral", num_hidden_layers=1)
    gaps: list[torch.Tensor] = []

    def look(module: Any, args: Any, output: Any) -> None:
        best = torch.softmax(output[0], -1).topk(2).values
        gaps.append(best[:, 0] - best[:, 1])

    model.model.layers[0].mlp.gate.register_forward_hook(look)
    zoo = Zoo(tmp_path / "zoo")
    zoo.add(save(model, tmp_path / "one"))
    with torch.no_grad():
        model(torch.tensor([PROMPT]))
    for threshold in (0.0, 0.05, 0.1, 0.4, 1.0):
        desk = Asking(zoo, "one")
        seq = desk.ask("one", PROMPT, 1, {"threshold": threshold})
        desk.finish()
        assert seq.spent[PER_TOKEN].total == 40 + int((gaps[0] <= threshold).sum())


# --- caches and drafts --------------------------------------------------------------------------------------------


def test_what_was_computed_with_other_experts_is_not_taken_from_the_cache(zoo: Zoo, alone: Any) -> None:
    desk = Asking(zoo, "mix")
    for knob in KNOBS:
        for cached in (0, 32):
            seq = desk.ask("mix", PROMPT, 8, knob)
            assert same(desk.finish()[seq.id], alone("mix", knob)), knob
            assert desk.cached[seq.id] == cached, knob


def test_a_fine_tune_takes_over_what_its_base_computed_only_under_the_same_knob(zoo: Zoo, alone: Any) -> None:
    """Their chains part in the last layer's experts: all keys and values are the same below."""
    desk = Asking(zoo, "mix", "fine")
    first = desk.ask("mix", PROMPT, 8, 1)
    desk.finish()
    other, alike = desk.ask("fine", PROMPT, 8, 2), desk.ask("fine", PROMPT, 8, 1)
    told = desk.finish()
    assert desk.cached[first.id] == desk.cached[other.id] == 0
    assert same(told[other.id], alone("fine", 2))
    assert same(told[alike.id], alone("fine", 1))
    assert desk.cached[alike.id] == 32


def test_a_draft_changes_no_answer_whatever_the_knob(zoo: Zoo, alone: Any) -> None:
    """A draft thinks with its own gate; the verdict is that of the request's."""
    desk = Asking(zoo, "mix", "fine")
    desk.engine.draft_with(zoo.model("mix").ref, zoo.model("fine").ref)
    asked = {str(knob): desk.ask("mix", PROMPT, 8, knob) for knob in KNOBS}
    told = desk.finish()
    assert sum(seq.drafted for seq in asked.values()) > 0
    for knob in KNOBS:
        assert same(told[asked[str(knob)].id], alone("mix", knob)), knob


# --- over agents --------------------------------------------------------------------------------------------------


class ZooSource:
    """Chains of a zoo, for agents."""

    def __init__(self, zoo: Zoo) -> None:
        self.chain, self.read = zoo.chain, zoo.read


def test_agents_that_each_hold_a_part_answer_and_count_the_same(zoo: Zoo, alone: Any) -> None:
    crew = ThreadCrew(ZooSource(zoo))
    engine = AgentEngine(EngineConfig(), crew, time.monotonic)
    try:
        for name in ("mix", "fine"):
            engine.install(engine.prepare(zoo.chain(name), zoo.read))
            ref = zoo.model(name).ref
            turns = itertools.cycle(crew.names)
            engine.holdings.lay_out(ref, tuple((next(turns),) for _ in engine.holdings.models[ref].now.plan.holders))
        desk = Asking.__new__(Asking)
        desk.engine, desk.zoo, desk._ids, desk.cached, desk.widest = engine, zoo, itertools.count(1), {}, 0
        asked = [(name, knob, desk.ask(name, PROMPT, 8, knob)) for name in ("mix", "fine") for knob in KNOBS]
        told = desk.finish()
        for name, knob, seq in asked:
            assert same(told[seq.id], alone(name, knob)), (name, knob)
            assert seq.spent[PER_TOKEN].count > 0
            if knob is None or isinstance(knob, int):
                assert mean(seq) == (knob or 2)
            elif knob == "adaptive":
                assert 1 < mean(seq) < 2
    finally:
        engine.close()


# --- through the servable -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servable(zoo: Zoo, path: Path) -> Any:
    made = language_servable({"zoo": str(path / "zoo"), "threads": 1, "seed": 0})
    for name in ("mix", "dense"):
        made.load(ModelRef(name))
    yield made
    made.close()


def usage(servable: Any, model: str, **options: Any) -> dict[str, Any]:
    options = {"temperature": 0, "max_tokens": 5, "ignore_eos": True, **options}
    stream = servable.submit(ModelRef(model), Input("completion", {"prompt": PROMPT}), options, caller=Caller())
    return dict(stream.wait()[-1].fields["usage"])


def test_usage_and_metrics_tell_what_was_taken(servable: Any) -> None:
    def total(name: str) -> float:
        found = [s.value for s in servable.samples() if s.name == name and s.labels.get("model_name") == "mix"]
        return sum(found)

    before = total("quiltwork:experts_taken_total"), total("quiltwork:expert_layer_tokens_total")
    used = usage(servable, "mix", experts=3, n=2)
    assert used["experts_taken"] == 3 * used["expert_layer_tokens"] > 0
    assert total("quiltwork:experts_taken_total") - before[0] == used["experts_taken"]
    assert total("quiltwork:expert_layer_tokens_total") - before[1] == used["expert_layer_tokens"]
    assert "experts_taken" not in usage(servable, "dense")
    assert not [s for s in servable.samples() if "expert" in s.name and s.labels["model_name"] == "dense"]


@pytest.mark.parametrize(
    ("model", "value", "says"),
    [("dense", 1, "has no experts to choose from"), ("mix", 5, "5 of 4 experts cannot be taken"),
     ("mix", {"most": 9}, "9 of 4 experts"), ("dense", "adaptive", "has no experts")],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused_before_anything_runs(
    servable: Any, model: str, value: Any, says: str
) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        usage(servable, model, experts=value)
    assert caught.value.where == "experts"


def test_models_say_how_many_experts_they_have(servable: Any) -> None:
    assert {str(hosted.ref): hosted.info["experts"] for hosted in servable.models()} == {"mix": 4, "dense": 0}


def test_the_option_is_declared_as_one_that_changes_what_is_cached(servable: Any) -> None:
    for task in ("completion", "chat"):
        assert "experts" in servable.tasks()[task].state_options()
