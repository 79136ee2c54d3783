"""The weights of BERT's relatives under one set of names: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet, DistilBERT.

All of them are the same network: a table of words and one of positions, then layers of attention and of two matrices,
each with a LayerNorm behind its sum. They differ in names, in where positions begin to count, and MPNet adds to an
attention score what hangs on the distance of the two tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiltwork.text.encoder.weights import Floats, Weights
from quiltwork.zoo.config import Fields

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert")
"""``model_type`` of the families that are computed here; all others go through transformers."""
ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish")
_BUCKETS, _REACH = 32, 128
"""MPNet's buckets of distance, whatever its configuration says, and from how many tokens on they are the same."""


@dataclass(frozen=True)
class Layer:
    """One layer: matrices (out, in), biases and norms (out,)."""

    qkv: Floats
    """(3 d, d) queries, keys and values, queries divided by the root of a head's width."""
    qkv_bias: Floats
    out: Floats
    out_bias: Floats
    norm: tuple[Floats, Floats]
    up: Floats
    up_bias: Floats
    down: Floats
    down_bias: Floats
    last_norm: tuple[Floats, Floats]


@dataclass(frozen=True)
class Network:
    """An encoder of the family, ready to be computed."""

    words: Floats
    """(vocabulary, d)."""
    positions: Floats
    """(positions, d), the one row of token types that is ever used added; row 0 is a sentence's first token's."""
    norm: tuple[Floats, Floats]
    layers: tuple[Layer, ...]
    heads: int
    activation: str
    eps: float
    near: Floats | None
    """(heads, 2 m - 1) what is added to a score by the distance key - query, from -(m - 1) to m - 1."""
    padding: int | None
    """The id at which positions stand still (``<pad>`` written out in a text), where there is such a rule."""
    padding_position: Floats | None
    """(d,) the position of such a token."""

    @property
    def width(self) -> int:
        return int(self.words.shape[1])

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return len(self.positions)


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a network that is computed here."""
    absolute = config.get("position_embedding_type", "absolute") == "absolute"
    activation = config.get("activation", config.get("hidden_act", "gelu"))
    plain = not config.get("is_decoder") and not config.get("add_cross_attention")
    narrow = config.get("embedding_size", config.get("hidden_size")) == config.get("hidden_size")
    return config.get("model_type") in FAMILIES and absolute and plain and narrow and activation in ACTIVATIONS


def read_network(config: Mapping[str, Any], arrays: Mapping[str, Floats], where: str, files: str) -> Network:
    """Take a network out of a checkpoint. where : what errors call ``config.json``; files : and the weights.

    Raises BadInputError naming a setting, or an array that is missing or of a wrong shape.
    """
    family = config["model_type"]
    fields = Fields(config, _DEFAULTS | (_MPNET if family == "mpnet" else {}), where)
    names = _DISTILBERT if family == "distilbert" else _MPNET_NAMES if family == "mpnet" else _BERT
    setting = _DISTILBERT_SETTINGS if family == "distilbert" else {}
    size = {one: fields.size(setting.get(one, one)) for one in _SIZES}
    d, heads = size["hidden_size"], size["num_attention_heads"]
    if d % heads:
        raise fields.error(setting.get("num_attention_heads", "num_attention_heads"), f"{heads} does not divide {d}")
    weights = Weights(_without_prefix(arrays, names["words"]), files)
    words = weights.get(names["words"], (size["vocab_size"], d))
    table = weights.get(names["positions"], (size["max_position_embeddings"], d))
    first, padding = 0, None
    if family not in ("bert", "distilbert"):
        padding = 1 if family == "mpnet" else _padding(fields)
        first = padding + 1
    if first >= len(table):
        raise fields.error("max_position_embeddings", f"{len(table)} leave no position for a token")
    types = np.zeros(d, np.float32)
    if family not in ("distilbert", "mpnet"):
        types = weights.get("embeddings.token_type_embeddings.weight", (fields.size("type_vocab_size"), d))[0]
    eps = 1e-12 if family == "distilbert" else fields.number("layer_norm_eps")
    near = None
    if family == "mpnet":
        buckets = fields.size("relative_attention_num_buckets")
        if buckets < _BUCKETS:
            raise fields.error(
                "relative_attention_num_buckets", f"{buckets} are less than the {_BUCKETS} that are used"
            )
        table_near = weights.get("encoder.relative_attention_bias.weight", (buckets, heads))
        near = _by_distance(table_near, len(table) - first)
    return Network(
        words=words,
        positions=table[first:] + types,
        norm=_norm(weights, names["norm"], d),
        layers=tuple(_layer(weights, names, i, size) for i in range(size["num_hidden_layers"])),
        heads=heads,
        activation=fields.text(setting.get("hidden_act", "hidden_act")),
        eps=eps,
        near=near,
        padding=padding,
        padding_position=None if padding is None else table[padding] + types,
    )


_SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    "dim": 768, "n_heads": 12, "n_layers": 6, "hidden_dim": 3072, "activation": "gelu", "vocab_size": 30522,
}  # fmt: skip
"""What transformers' configurations have where a field is absent; a saved one seldom leaves a size out."""
_MPNET: dict[str, Any] = {"relative_attention_num_buckets": 32, "layer_norm_eps": 1e-12}
_DISTILBERT_SETTINGS = {
    "hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
    "intermediate_size": "hidden_dim", "hidden_act": "activation",
}  # fmt: skip
_TABLES = {
    "words": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "norm": "embeddings.LayerNorm",
}
_BERT = _TABLES | {
    "layer": "encoder.layer", "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "last_norm": "output.LayerNorm",
}  # fmt: skip
_MPNET_NAMES = _BERT | {
    "q": "attention.attn.q", "k": "attention.attn.k", "v": "attention.attn.v", "out": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}  # fmt: skip
_DISTILBERT = _TABLES | {
    "layer": "transformer.layer", "q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin",
    "out": "attention.out_lin", "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1", "down": "ffn.lin2", "last_norm": "output_layer_norm",
}  # fmt: skip


def _layer(weights: Weights, names: Mapping[str, str], index: int, size: Mapping[str, int]) -> Layer:
    d, wide = size["hidden_size"], size["intermediate_size"]

    def linear(part: str, rows: int, columns: int) -> tuple[Floats, Floats]:
        name = f"{names['layer']}.{index}.{names[part]}"
        return weights.get(f"{name}.weight", (rows, columns)), weights.get(f"{name}.bias", (rows,))

    scale = np.float32(1 / math.sqrt(d // size["num_attention_heads"]))
    (q, q_bias), (k, k_bias), (v, v_bias) = (linear(part, d, d) for part in "qkv")
    (out, out_bias), (up, up_bias), (down, down_bias) = (
        linear("out", d, d),
        linear("up", wide, d),
        linear("down", d, wide),
    )
    return Layer(
        qkv=np.concatenate([q * scale, k, v]),
        qkv_bias=np.concatenate([q_bias * scale, k_bias, v_bias]),
        out=out,
        out_bias=out_bias,
        norm=_norm(weights, f"{names['layer']}.{index}.{names['attention_norm']}", d),
        up=up,
        up_bias=up_bias,
        down=down,
        down_bias=down_bias,
        last_norm=_norm(weights, f"{names['layer']}.{index}.{names['last_norm']}", d),
    )


def _norm(weights: Weights, name: str, d: int) -> tuple[Floats, Floats]:
    return weights.get(f"{name}.weight", (d,)), weights.get(f"{name}.bias", (d,))


def _without_prefix(arrays: Mapping[str, Floats], known: str) -> dict[str, Floats]:
    """Names as the bare encoder has them: a checkpoint of a model with a head calls it ``bert.``, or ``roberta.``, and
    one of TensorFlow's time calls a norm's arrays gamma and beta."""
    prefix = next((name[: -len(known)] for name in arrays if name.endswith(known)), "")
    bare = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    ends = ((".gamma", ".weight"), (".beta", ".bias"))
    renamed = {}
    for name, array in bare.items():
        for old, new in ends:
            name = name.removesuffix(old) + new if name.endswith(old) else name
        renamed[name] = array
    return renamed


def _padding(fields: Fields) -> int:
    value = fields.get("pad_token_id")
    if value is None:
        return 1
    if type(value) is not int or value < 0:
        raise fields.error("pad_token_id", f"must be a token's id, not {str(value)[:40]}")
    return value


def _by_distance(table: Floats, longest: int) -> Floats:
    """MPNet's buckets spread out: half of them for either direction, one each for near ones, then logarithmic ones.

    table : (buckets, heads) -> (heads, 2 longest - 1).
    """
    import torch

    distance = torch.arange(-(longest - 1), longest)  # key - query
    half = _BUCKETS // 2
    exact = half // 2
    apart = distance.abs()
    # torch's logarithm, as in training: another one rounds to the other side where a bucket ends.
    far = exact + (torch.log(apart.float() / exact) / math.log(_REACH / exact) * (half - exact)).clamp(min=-1).long()
    bucket = torch.where(apart < exact, apart, far.clamp(max=half - 1)) + torch.where(distance > 0, half, 0)
    return np.ascontiguousarray(table[bucket.numpy()].T)
