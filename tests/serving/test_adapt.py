"""An adapted model is a new one: within its budget, told of wherever it shows, the exact one untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_kin import VALUE, make_kin, noisy
from tiny_trained import story
from transformers import AutoModelForCausalLM

from quiltwork.core.errors import BadInputError, ConflictError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.core.progress import ignore
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.serving.adapt import Asked, adapt
from quiltwork.serving.assembly import judged, permitted
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.policy.assembly import Outlook
from quiltwork.serving.stitching.chains import read_chain
from quiltwork.serving.stitching.forward import run
from quiltwork.zoo import Zoo
from quiltwork.zoo.equivalence import UNCHANGED, Budget

ASKED = Asked(story(200, seed=9), "story.txt", window=24, tokens=480)
PROMPT = torch.tensor([[1, 4, 5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kin(tmp_path_factory.mktemp("kin"))


@pytest.fixture
def zoo(kin: Path, tmp_path: Path) -> Zoo:
    shutil.copytree(kin, tmp_path / "zoo")
    return Zoo(tmp_path / "zoo")


def adapting(zoo: Zoo, ref="tuned", budget=0.01, agreement=0.9, **options):
    settings = {"asked": ASKED, "config": EngineConfig(), "say": ignore, "progress": ignore, "per_part": 1}
    return adapt(zoo, ref, budget=Budget(budget, agreement), **(settings | options))


def test_what_fits_is_substituted_and_told(zoo: Zoo):
    before = zoo.model("tuned")
    report = adapting(zoo)
    model = report.model
    assert model is not None
    assert model.ref == ModelRef("tuned-adapted")
    assert zoo.model("tuned") == before
    assert model.base == before.ref
    taken = {one.part: one for one in model.substitutions}
    assert "layers.1.ffn" in taken
    one = taken["layers.1.ffn"]
    blocks = {name: {p.name: p.block.id for p in zoo.model(name).parts} for name in ("base", "tuned", "tuned-adapted")}
    assert one.source == ModelRef("base")
    assert one.original == (blocks["tuned"]["layers.1.ffn"],)
    assert one.serving == (blocks["base"]["layers.1.ffn"],) == (blocks["tuned-adapted"]["layers.1.ffn"],)
    assert one.total_delta_loss <= one.budget == 0.01
    assert len(one.text) == 64
    assert report.deciding.quality == report.decision.quality
    assert report.decision.quality.delta_loss <= 0.01
    assert model.measured["judging"]["delta_loss"] == report.judging.quality.delta_loss
    assert model.measured["text_sha256"] == one.text
    assert model.measured["parent_versions"] == {"tuned": before.version}
    assert Zoo(zoo.path).model("tuned-adapted") == model
    assert zoo.fsck() == []


def test_a_budget_that_nothing_fits_registers_nothing(zoo: Zoo):
    names = zoo.models()
    report = adapting(zoo, "far", budget=0.01, agreement=0.999)
    assert (report.model, report.decision.taken, report.decision.quality) == (None, (), UNCHANGED)
    assert len(report.decision.singles) > 0
    assert zoo.models() == names


def test_without_a_budget_only_equal_functions_serve(zoo: Zoo):
    assert adapting(zoo, budget=0.0).model is None
    report = adapting(zoo, "wide", budget=0.0, asked=None)
    assert {one.source for one in report.model.substitutions} == {ModelRef("halved")}
    assert len(report.model.substitutions) == len(report.model.parts)
    ours, theirs = (run(read_chain(zoo, zoo.chain(n), torch.device("cpu")).links, PROMPT) for n in ("wide", "halved"))
    assert torch.equal(ours, theirs)


def test_its_export_says_that_it_is_adapted(zoo: Zoo, tmp_path: Path):
    report = adapting(zoo, budget=10.0, agreement=0.0)
    done = zoo.export("tuned-adapted", tmp_path / "out")
    assert (done.exact, done.substitutions) == (False, len(report.model.substitutions))
    told = json.loads((tmp_path / "out" / "substitutions.json").read_text())
    assert told["adapted_from"] == "tuned"
    assert [one["part"] for one in told["substitutions"]] == [one.part for one in report.model.substitutions]
    assert zoo.export("tuned", tmp_path / "exact").substitutions == 0
    assert not (tmp_path / "exact" / "substitutions.json").exists()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(PROMPT).logits
    ours = run(read_chain(zoo, zoo.chain("tuned-adapted"), torch.device("cpu")).links, PROMPT)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_reply_lists_what_served_it(zoo: Zoo):
    report = adapting(zoo)
    host = language_servable({"zoo": str(zoo.path)})
    try:
        served = {}
        for name in ("tuned", "tuned-adapted"):
            host.load(ModelRef(name))
            stream = host.submit(
                ModelRef(name), Input("completion", {"prompt": "the old king"}), {"max_tokens": 2}, caller=Caller()
            )
            served[name] = list(stream)[-1].fields["served"]["substitutions"]
    finally:
        host.close()
    assert served["tuned"] == []
    assert [one["part"] for one in served["tuned-adapted"]] == [one.part for one in report.model.substitutions]
    first, known = served["tuned-adapted"][0], report.model.substitutions[0]
    assert first["model"] == "base"
    assert (first["block"], first["instead_of"]) == (known.serving[0], known.original[0])
    assert (first["delta_loss"], first["agreement"]) == (known.total_delta_loss, known.total_agreement)


def test_it_is_served_though_those_it_was_made_from_are_gone(zoo: Zoo):
    adapting(zoo)
    for name in ("tuned", "base"):
        zoo.remove(name)
    zoo.gc()
    assert zoo.fsck() == []
    host = language_servable({"zoo": str(zoo.path)})
    try:
        host.load(ModelRef("tuned-adapted"))
        stream = host.submit(
            ModelRef("tuned-adapted"), Input("completion", {"prompt": "the old"}), {"max_tokens": 2}, caller=Caller()
        )
        assert list(stream)[-1].fields["usage"]["completion_tokens"] == 2
    finally:
        host.close()


def test_what_was_adapted_may_answer_for_the_exact_model_within_what_it_was_judged_to_lose(zoo: Zoo):
    report = adapting(zoo)
    exact, model = zoo.model("tuned"), report.model
    assert judged(model) == report.judging.quality
    lost = max(report.judging.quality.delta_loss, 0.0)
    assert permitted(exact, model, "anybody", Budget(lost + 1e-6, 0.9))
    assert not permitted(exact, model, "anybody", Budget(lost + 1e-6, 1.0))
    assert not permitted(exact, model, "anybody", Budget(0.0, 0.9))
    assert not permitted(zoo.model("base"), model, "anybody", Budget(10.0, 0.0))
    mine = adapting(zoo, tenant="alice", name="mine").model
    assert permitted(exact, mine, "alice", Budget(10.0, 0.0))
    assert not permitted(exact, mine, "bob", Budget(10.0, 0.0))
    equal = adapting(zoo, "wide", budget=0.0, asked=None).model
    assert judged(equal) == UNCHANGED
    assert permitted(zoo.model("wide"), equal, "anybody", Budget(0.001))


def test_an_answer_assembled_from_a_zoo_is_that_of_the_adapted_model(zoo: Zoo):
    adapting(zoo)
    host = language_servable({"zoo": str(zoo.path), "assemble": ["tuned-adapted"]})
    looks = {"tuned": Outlook(prompt_s=1.0), "tuned-adapted": Outlook(prompt_s=0.5)}
    host._engine.outlooks = lambda seq, chains: {ref: looks[ref.name] for ref in chains}
    budget = {"quality_budget": 10.0, "least_agreement": 0.0}
    answers = []
    try:
        for name in looks:
            host.load(ModelRef(name))
        for name, caller in (("tuned", Caller(**budget)), ("tuned-adapted", Caller())):
            parts = list(
                host.submit(
                    ModelRef(name), Input("completion", {"prompt": "the old king"}), {"max_tokens": 8, "seed": 3},
                    caller=caller,
                )
            )  # fmt: skip
            served = parts[-1].fields["served"]
            assert served["model"] == "tuned-adapted"
            answers.append(([part.fields["text"] for part in parts[:-1]], served["substitutions"]))
    finally:
        host.close()
    assert answers[0] == answers[1]
    assert answers[0][1] != []


def test_an_adapted_model_belongs_to_who_adapts(zoo: Zoo):
    report = adapting(zoo, tenant="alice", name="mine")
    assert report.model.ref == ModelRef("mine", "alice")
    assert zoo.model("tuned").ref.tenant == "public"
    with pytest.raises(NotFoundError, match="no such model"):
        adapting(zoo, ModelRef("mine", "alice"), tenant="bob")


def test_the_same_again_is_the_same(zoo: Zoo):
    first, second = adapting(zoo).model, adapting(zoo, replace_model=True).model
    assert first.version == second.version


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"asked": None}, BadInputError, "--text: is needed where the budget is above 0"),
        ({"name": "base"}, ConflictError, "base: the name is taken"),
        ({"name": "tuned", "replace_model": True}, BadInputError, "exact model's own name"),
        ({"ref": "nobody"}, NotFoundError, "nobody: no such model"),
        ({"asked": Asked("", "empty.txt")}, BadInputError, r"empty\.txt: is empty"),
        ({"asked": Asked("the king", "short.txt")}, BadInputError, r"short\.txt: has 2 tokens: too short"),
        ({"asked": Asked(story(200), window=500, tokens=500)}, BadInputError, "window: 501 tokens are more than"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(zoo: Zoo, options, error, message):
    names = zoo.models()
    with pytest.raises(error, match=message) as raised:
        adapting(zoo, **options)
    assert "\n" not in str(raised.value)
    assert zoo.models() == names


def test_a_model_whose_loss_is_no_number_is_refused(zoo: Zoo, tmp_path: Path):
    zoo.export("tuned", tmp_path / "tuned")
    zoo.add(noisy(tmp_path / "tuned", tmp_path / "broken", {VALUE: float("nan")}))
    with pytest.raises(BadInputError, match="broken: its loss on the text is not a number"):
        adapting(zoo, "broken", say=pytest.fail)


@pytest.mark.parametrize("options", [{"name": "base"}, {"asked": Asked("the king", window=1)}, {"asked": Asked("")}])
def test_what_is_wrong_is_said_before_candidates_are_looked_for(zoo: Zoo, monkeypatch, options):
    monkeypatch.setattr("quiltwork.serving.adapt.find_candidates", pytest.fail)
    with pytest.raises((BadInputError, ConflictError)):
        adapting(zoo, **options)


def test_an_adapted_model_is_not_adapted_again(zoo: Zoo):
    adapting(zoo)
    with pytest.raises(BadInputError, match="is adapted already: adapt tuned"):
        adapting(zoo, "tuned-adapted")
