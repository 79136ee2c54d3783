"""Real models through the zoo, the engine and the one door, against transformers' own answers."""

import json

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.zoo import Zoo

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def stories(data_dir):
    return data_dir / "llm/weights/stories260K"


@pytest.fixture(scope="module")
def served(stories, tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo")
    with Zoo(path) as zoo:
        zoo.add(stories / "hf", name="base")
        for variant in sorted((stories / "variants").iterdir()):
            zoo.add(variant, name=variant.name)
        names = [ref.name for ref in zoo.models()]
    servable = language_servable({"zoo": str(path), "threads": 1, "seed": 0, "max_num_seqs": 64})
    for name in names:
        servable.load(ModelRef(name))
    yield servable
    servable.close()


def submit(served, model, prompt, **options):
    options = {"temperature": 0, **options}
    return served.submit(ModelRef(model), Input("completion", {"prompt": prompt}), options, caller=Caller())


def tokens_and_text(stream):
    tokens, text = [], ""
    for part in stream:
        if not part.last:
            tokens += part.fields["token_ids"]
            text += part.fields["text"]
    return tokens, text


def test_the_base_and_its_variants_mixed_answer_as_transformers_does(served, stories):
    golden = json.loads((stories / "golden_greedy.json").read_text())
    asked = []
    for chain, answers in golden["chains"].items():
        model = "base" if chain == "hf" else chain.rsplit("/", 1)[1]
        for prompt, answer in answers.items():
            stream = submit(served, model, prompt, max_tokens=len(answer["ids"]), ignore_eos=True)
            asked.append((stream, answer))
    assert len(asked) >= 45
    for stream, answer in asked:
        tokens, text = tokens_and_text(stream)
        pairs = enumerate(zip(tokens, answer["ids"], strict=True))
        differs = next((at for at, (ours, theirs) in pairs if ours != theirs), None)
        if differs is None:
            assert text.removeprefix(" ") == answer["text"].removeprefix(" ")
        else:
            assert answer["margins"][differs] < 1e-3


def test_a_seeded_answer_does_not_depend_on_what_runs_beside_it(served):
    wish = {"temperature": 0.8, "top_p": 0.9, "seed": 11, "max_tokens": 40}
    alone, _ = tokens_and_text(submit(served, "grimm-lora", "Once upon a time", **wish))
    crowd = [submit(served, name, "The king said", max_tokens=60) for name in ("base", "grimm-ln", "sherlock-ff")]
    beside, _ = tokens_and_text(submit(served, "grimm-lora", "Once upon a time", **wish))
    for stream in crowd:
        tokens_and_text(stream)
    assert beside == alone


def test_an_adapter_scaled_to_nothing_is_its_base(served):
    base, _ = tokens_and_text(submit(served, "base", "The king said", max_tokens=30))
    scaled, _ = tokens_and_text(submit(served, "sherlock-lora", "The king said", max_tokens=30, adapter_scale=0))
    whole, _ = tokens_and_text(submit(served, "sherlock-lora", "The king said", max_tokens=30))
    assert scaled == base != whole


def test_prompt_log_probabilities_agree_with_those_of_generated_tokens(served):
    first = submit(served, "base", "Once upon a time", max_tokens=12, logprobs=1)
    made = [entry for part in first if not part.last for entry in part.fields["logprobs"]]
    prompt = served.submit(ModelRef("base"), Input("tokenize", {"prompt": "Once upon a time"}), {}, caller=Caller())
    ids = next(iter(prompt)).fields["tokens"] + [entry["id"] for entry in made]
    scored = next(iter(submit(served, "base", ids, max_tokens=0, prompt_logprobs=1))).fields
    for ours, theirs in zip(made, scored["prompt_logprobs"][-len(made) :], strict=True):
        assert ours["id"] == theirs["id"]
        assert ours["logprob"] == pytest.approx(theirs["logprob"], abs=1e-4)


def test_json_comes_out_of_a_model_that_never_saw_any(served):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    wish = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    _, text = tokens_and_text(submit(served, "base", "Once", response_format=wish, max_tokens=100))
    assert isinstance(json.loads(text)["ok"], bool)


def test_nonsense_leaves_the_server_serving(served):
    for options in ({"max_tokens": 10**9}, {"stop": ["x"] * 10_001}, {"temperature": float("nan")}, {"n": 10**9}):
        with pytest.raises(BadInputError):
            submit(served, "base", "Once", **options)
    many = [f"stop{at}" for at in range(9_999)] + ["there was"]
    _, text = tokens_and_text(submit(served, "base", "Once upon a time", stop=many, max_tokens=40))
    assert text == ", "
    assert served.status()["queue"]["outstanding"] == 0
