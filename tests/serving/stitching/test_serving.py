"""A model made here is a model like any other to a server: text in, text out, beside those it was made from."""

import dataclasses

import torch
from tiny_trained import story

from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Caller, Input
from quiltwork.serving import language_servable
from quiltwork.serving.stitching import DISTILLATION, Recipe, Smaller, prune, stitch
from quiltwork.serving.stitching.chains import read_chain
from quiltwork.serving.stitching.forward import run
from quiltwork.serving.stitching.text import codec_of

QUICK = {"steps": 10, "window": 24, "batch": 16}
PROMPT = "the red king saw the dog said the"
NAMES = ("small", "large", "both", "draft")


def test_stitched_and_pruned_models_complete_text_beside_their_parents(zoo):
    options = {"text": story(), "say": lambda phrase: None}
    stitch(zoo, "small", "large", at="1", recipe=Recipe(**QUICK), name="both", **options)
    prune(zoo, "large", Smaller((0, 2, 3)), recipe=dataclasses.replace(DISTILLATION, **QUICK), name="draft", **options)
    host = language_servable({"zoo": str(zoo.path), "seed": 1, "dtype": "float32"})
    asked = Input("completion", {"prompt": PROMPT})
    try:
        for name in NAMES:
            host.load(ModelRef(name))
        streams = {
            name: host.submit(ModelRef(name), asked, {"max_tokens": 1, "temperature": 0}, caller=Caller())
            for name in NAMES
        }
        said = {name: "".join(p.fields.get("text", "") for p in stream).strip() for name, stream in streams.items()}
    finally:
        host.close()
    codec = codec_of(zoo, zoo.model("both"))
    ids = torch.tensor([codec.encode(PROMPT)])
    for name in NAMES:
        logits = run(read_chain(zoo, zoo.chain(name), torch.device("cpu")).links, ids)[0, -1]
        assert said[name] == codec.token(int(logits.argmax()))
