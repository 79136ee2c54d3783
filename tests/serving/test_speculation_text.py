"""Real models and text: with a draft every reply is the same, wherever and by whatever it ends."""

from __future__ import annotations

import pytest

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.zoo import Zoo

pytestmark = pytest.mark.realdata

PROMPT = "Once upon a time there was a little"
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Tom", "Lily"]}, "age": {"enum": [1, 2, 3]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASKED = {
    "greedy": {"temperature": 0},
    "to the end": {"temperature": 0, "max_tokens": 300, "ignore_eos": False},
    "stop string": {"temperature": 0, "stop": ["was", "her ", "They"]},
    "many stop strings": {"temperature": 0.8, "seed": 4, "stop": [" the", "ing"]},
    "drawn": {"temperature": 1.0, "seed": 1, "top_p": 0.9, "logprobs": 2},
    "two choices": {"temperature": 1.0, "seed": 2, "n": 2},
    "penalties": {"temperature": 0.7, "seed": 3, "repetition_penalty": 1.2, "presence_penalty": 0.4},
    "biased": {"temperature": 0.9, "seed": 3, "logit_bias": {"300": 2.0}, "min_tokens": 10},
    "schema": {
        "temperature": 0.8, "seed": 5,
        "response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def hosts(data_dir, tmp_path_factory):
    stories = data_dir / "llm/weights/stories260K"
    path = tmp_path_factory.mktemp("zoo")
    with Zoo(path) as zoo:
        zoo.add(stories / "hf", name="base")
        for name in ("grimm-lora", "grimm-ff"):
            zoo.add(stories / "variants" / name, name=name)
    made = []
    for drafts in ({}, {"*": "base"}, {"*": "grimm-ff"}):
        host = language_servable({"zoo": str(path), "threads": 1, "seed": 0, "drafts": drafts, "draft_tokens": 5})
        for name in ("base", "grimm-lora"):
            host.load(ModelRef(name))
        made.append(host)
    yield made
    for host in made:
        host.close()


def replies(host):
    """Everything said to all that is asked at once, logprobs rounded; and what was drafted for it."""
    asked = {
        (name, model): host.submit(
            ModelRef(model), Input("completion", {"prompt": PROMPT}), {"max_tokens": 60, **options}, caller=Caller()
        )
        for name, options in ASKED.items()
        for model in ("base", "grimm-lora")
    }
    said, accepted, rejected = {}, 0, 0
    for key, stream in asked.items():
        choices = said.setdefault(key, {})
        for part in stream:
            fields = part.fields
            if part.last:
                accepted += fields["usage"]["accepted_prediction_tokens"]
                rejected += fields["usage"]["rejected_prediction_tokens"]
                choices["tokens"] = fields["usage"]["completion_tokens"]
                continue
            choice = choices.setdefault(fields["index"], ["", [], [], None, None])
            choice[0] += fields["text"]
            choice[1] += fields["token_ids"]
            choice[2] += [round(entry["logprob"], 3) for entry in fields["logprobs"] or ()]
            choice[3:] = fields["finish_reason"], fields["stop_reason"]
    return said, accepted, rejected


def test_every_kind_of_request_gets_the_same_reply_with_a_draft(hosts):
    plain, *speculating = hosts
    expected, accepted, rejected = replies(plain)
    assert (accepted, rejected) == (0, 0)
    assert expected["stop string", "base"][0][3] == "stop"
    for host in speculating:
        said, accepted, rejected = replies(host)
        for key, reply in expected.items():
            assert said[key] == reply, key
        assert accepted > 0
        assert rejected > 0
