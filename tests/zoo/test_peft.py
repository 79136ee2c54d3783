"""Adapter configurations: targets as PEFT finds them, nonsense refused by its field or tensor."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.zoo.config import Fields
from quiltwork.zoo.formats.peft import Base, understand
from quiltwork.zoo.formats.peft_targets import is_target, pattern_value
from quiltwork.zoo.formats.weights import Slice

PATHS = [f"model.layers.{i}.self_attn.{p}" for i in (0, 1, 11) for p in ("q_proj", "o_proj")] + [
    "model.layers.1.mlp.down_proj", "model.embed_tokens", "lm_head", "model.norm",
]  # fmt: skip
names = st.sampled_from(["q_proj", "proj", "lm_head", "self_attn.o_proj", "model.layers.1.mlp.down_proj", "norm"])
configs = st.fixed_dictionaries(
    {
        "target_modules": st.lists(names, min_size=1, max_size=3)
        | st.sampled_from([r".*\.1\..*", r".*q_proj", "q_proj"])
    },
    optional={
        "exclude_modules": st.lists(names, max_size=2) | st.sampled_from([r".*\.11\..*"]),
        "layers_to_transform": st.sampled_from([0, 1, [1, 11], []]),
        "layers_pattern": st.sampled_from(["layers", ["layers"], "h", []]),
        "modules_to_save": st.lists(st.sampled_from(["lm_head", "norm"]), max_size=1),
    },
)


@settings(deadline=None)
@given(config=configs, path=st.sampled_from(PATHS))
def test_targets_are_those_that_peft_finds(config: dict[str, Any], path: str) -> None:
    from types import SimpleNamespace

    from peft.tuners.tuners_utils import check_target_module_exists

    theirs = check_target_module_exists(SimpleNamespace(**config), path)
    assert is_target(Fields(config, {}, "x"), path, linear=True, output=False) == bool(theirs)


@settings(deadline=None)
@given(keys=st.lists(st.sampled_from(["q_proj", "proj", r".*\.1\..*", "self_attn.q_proj"]), max_size=3, unique=True))
def test_patterns_are_looked_up_as_in_peft(keys: list[str]) -> None:
    from peft.utils.other import get_pattern_key

    patterns = {key: i + 1 for i, key in enumerate(keys)}
    for path in PATHS:
        theirs = patterns.get(get_pattern_key(patterns.keys(), path), 99)
        assert pattern_value(Fields({"rank_pattern": patterns}, {}, "x"), "rank_pattern", path, 99) == theirs


BASE = Base(
    modules={"m.q_proj": ("layers.0.attn", "q_proj")},
    shapes={("layers.0.attn", "q_proj.weight"): (6, 4), ("embed", "tokens.weight"): (9, 4)},
    conv1d=False,
    num_layers=1,
    num_kv_heads=1,
    head_dim=2,
)
A, B = "base_model.model.m.q_proj.lora_A.weight", "base_model.model.m.q_proj.lora_B.weight"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def tensors(**shapes: tuple[int, ...]) -> dict[str, Slice]:
    given_shapes = {A: (2, 4), B: (6, 2)} | shapes
    return {name: Slice(name, "F32", shape, 0, 4) for name, shape in given_shapes.items() if shape}


def test_a_plain_adapter_is_understood() -> None:
    (made,) = understand(LORA, tensors(), BASE, where="x").attachments
    assert (made.part, made.kind, made.arch) == (
        "layers.0.attn", "lora", {"targets": {"q_proj": {"r": 2, "scale": 2.0, "dora": False}}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "shapes", "message"),
    [
        ({}, {A: (2, 5)}, "lora_A.*shape"),
        ({}, {B: ()}, "lora_B.*missing"),
        ({"r": 3}, {}, "lora_A.*shape"),
        ({"r": 0}, {}, "adapter_config.json: r"),
        ({"r": 10**12}, {}, "absurd"),
        ({"lora_alpha": "x"}, {}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, {}, "lora_alpha"),
        ({"bias": "some"}, {}, "bias"),
        ({"target_modules": "("}, {}, "target_modules.*regular expression"),
        ({"target_modules": [3]}, {}, "target_modules"),
        ({"rank_pattern": ["q_proj"]}, {}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": "two"}}, {}, "rank_pattern"),
        ({"use_dora": True}, {}, "lora_magnitude_vector.*missing"),
        ({}, {"base_model.model.m.k_proj.lora_A.weight": (2, 4)}, "k_proj.*does not have"),
        ({}, {"strange": (2, 4)}, "strange.*not a tensor"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": -1}, {}, "num_virtual_tokens"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, {}, "not a tensor"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "num_attention_heads": 8}, {}, "num_attention_heads"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        understand(LORA | changes, tensors(**shapes), BASE, where="x")


@pytest.mark.parametrize("kind", ["VERA", "LOHA", None, 3, ["LORA"]])
def test_other_methods_are_stored_and_named(kind: Any) -> None:
    adapter = understand({"peft_type": kind}, tensors(), BASE, where="x")
    assert adapter.attachments == ()
    assert "peft_type" in adapter.unservable[0]


nonsense = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3))
keys = st.sampled_from(
    ["peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "bias",
     "alpha_pattern", "layers_to_transform", "layers_pattern", "use_dora", "use_rslora", "lora_bias",
     "feedforward_modules", "num_virtual_tokens", "num_attention_heads", "prefix_projection"]
)  # fmt: skip
methods = st.sampled_from(["LORA", "IA3", "LN_TUNING", "PROMPT_TUNING", "PREFIX_TUNING"])


@settings(deadline=None)
@given(method=methods, changes=st.dictionaries(keys, nonsense, max_size=3))
def test_any_configuration_is_understood_or_refused(method: str, changes: dict[str, Any]) -> None:
    try:
        understand(LORA | {"peft_type": method} | changes, tensors(), BASE, where="x")
    except BadInputError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
