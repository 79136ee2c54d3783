"""The family table: how the checkpoints of a model family map to parts, roles and ``arch`` (docs/blocks.md).

Adding a family whose blocks are like those below is one more row: where its modules stand, which configuration fields
it reads under which names, and what they are where the file does not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quiltwork.core.errors import UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.zoo.config import Fields
from quiltwork.zoo.sparse import MIXTRAL, QWEN, QWEN_NARROW, QWEN_SHARED, Sparse
from quiltwork.zoo.types import Chain, Model


@dataclass(frozen=True)
class Family:
    """One row of the table. Fields that are names of configuration fields say so."""

    name: str
    """``model_type`` in config.json."""
    architecture: str
    """The causal language model's class in ``architectures``."""
    prefix: str
    """What a checkpoint of the bare body leaves out in front of its names."""
    modules: Mapping[str, str]
    """Module path, ``{i}`` for the layer -> ``part/role``."""
    defaults: Mapping[str, Json]
    """What transformers assumes for configuration fields that are absent."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Our word for a size -> this family's configuration field."""
    norm: str = "rms"
    gated: bool = True
    layout: str = "linear"
    rope: bool = True
    qk_norm: bool | str = False
    """Whether queries and keys are normed: each head alone, or ``width`` for all heads of a token together."""
    sparse: Sparse | None = None
    """Where feed-forward layers are mixtures of experts: which, and of what."""
    biases: Callable[[Fields], frozenset[str]] = lambda _: frozenset()
    """Roles of projections that have a bias."""
    window: Callable[[Fields, int], int | None] = lambda _, layer: None
    """Sliding window of a layer."""
    must_be: Mapping[str, Json] = field(default_factory=dict)
    """Fields that change the maths and are implemented for this value only."""
    buffers: str = r"(.*\.)?rotary_emb\.inv_freq|rope_freqs\.weight"
    """Names that some checkpoints carry though no maths reads them, as a regular expression."""

    def is_buffer(self, name: str) -> bool:
        """Whether a checkpoint's tensor is stored without being part of the model's function."""
        return re.fullmatch(self.buffers, name) is not None


_LLAMA_MODULES = {
    "model.embed_tokens": "embed/tokens",
    "model.layers.{i}.input_layernorm": "layers.{i}.attn/norm",
    "model.layers.{i}.self_attn.q_proj": "layers.{i}.attn/q_proj",
    "model.layers.{i}.self_attn.k_proj": "layers.{i}.attn/k_proj",
    "model.layers.{i}.self_attn.v_proj": "layers.{i}.attn/v_proj",
    "model.layers.{i}.self_attn.o_proj": "layers.{i}.attn/o_proj",
    "model.layers.{i}.post_attention_layernorm": "layers.{i}.ffn/norm",
    "model.layers.{i}.mlp.gate_proj": "layers.{i}.ffn/gate_proj",
    "model.layers.{i}.mlp.up_proj": "layers.{i}.ffn/up_proj",
    "model.layers.{i}.mlp.down_proj": "layers.{i}.ffn/down_proj",
    "model.norm": "head/norm",
    "lm_head": "head/lm_head",
}
_QK_NORMS = {
    "model.layers.{i}.self_attn.q_norm": "layers.{i}.attn/q_norm",
    "model.layers.{i}.self_attn.k_norm": "layers.{i}.attn/k_norm",
}
_LLAMA_DEFAULTS: dict[str, Json] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_QWEN_DEFAULTS = _LLAMA_DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
_FFN = frozenset({"gate_proj", "up_proj", "down_proj"})


def _llama_biases(config: Fields) -> frozenset[str]:
    attention = _ATTENTION if config.flag("attention_bias") else frozenset[str]()
    return attention | (_FFN if config.flag("mlp_bias") else frozenset[str]())


def _qwen_window(config: Fields, layer: int) -> int | None:
    window = config.optional_size("sliding_window") if config.flag("use_sliding_window") else None
    types = config.get("layer_types")
    if types is None:
        return window if window is not None and layer >= config.number("max_window_layers") else None
    layers = config.size("num_hidden_layers")
    if not isinstance(types, list) or len(types) != layers:
        raise config.error("layer_types", f"must be a list of {layers} layer types")
    if types[layer] == "full_attention":
        return None
    if types[layer] != "sliding_attention":
        raise config.error("layer_types", f"{str(types[layer])[:40]!r} is not a layer type of this family")
    if window is None:
        raise config.error("layer_types", "asks for a sliding window, but there is none")
    return window


def _qwen2_moe_window(config: Fields, layer: int) -> int | None:
    if config.get("layer_types") is not None:
        return _qwen_window(config, layer)
    window = config.optional_size("sliding_window") if config.flag("use_sliding_window") else None
    return window if layer % 2 == 0 and layer < config.number("max_window_layers") else None


_ROWS = (
    Family(
        name="llama",
        architecture="LlamaForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES,
        defaults=_LLAMA_DEFAULTS,
        biases=_llama_biases,
    ),
    Family(
        name="mistral",
        architecture="MistralForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES,
        defaults=_LLAMA_DEFAULTS
        | {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "sliding_window": 4096,
        },
        window=lambda config, layer: config.optional_size("sliding_window"),
    ),
    Family(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES,
        defaults=_QWEN_DEFAULTS,
        biases=lambda _: frozenset({"q_proj", "k_proj", "v_proj"}),
        window=_qwen_window,
    ),
    Family(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES | _QK_NORMS,
        defaults=_QWEN_DEFAULTS | {"head_dim": 128},
        qk_norm=True,
        biases=lambda config: _ATTENTION if config.flag("attention_bias") else frozenset(),
        window=_qwen_window,
    ),
    Family(
        name="mixtral",
        architecture="MixtralForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES,
        defaults=_LLAMA_DEFAULTS
        | {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        window=lambda config, layer: config.optional_size("sliding_window"),
        sparse=MIXTRAL,
    ),
    Family(
        name="qwen2_moe",
        architecture="Qwen2MoeForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES,
        defaults=_QWEN_DEFAULTS
        | {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "qkv_bias": True,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": None,
        },
        biases=lambda config: frozenset({"q_proj", "k_proj", "v_proj"}) if config.flag("qkv_bias") else frozenset(),
        window=_qwen2_moe_window,
        sparse=QWEN_SHARED,
    ),
    Family(
        name="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES | _QK_NORMS,
        defaults=_QWEN_DEFAULTS
        | {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": None,
        },
        qk_norm=True,
        biases=lambda config: _ATTENTION if config.flag("attention_bias") else frozenset(),
        window=lambda config, layer: (
            config.optional_size("sliding_window") if config.flag("use_sliding_window") else None
        ),
        sparse=QWEN_NARROW,
    ),
    Family(
        name="olmoe",
        architecture="OlmoeForCausalLM",
        prefix="model.",
        modules=_LLAMA_MODULES | _QK_NORMS,
        defaults=_LLAMA_DEFAULTS
        | {
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        },
        qk_norm="width",
        biases=lambda config: _ATTENTION if config.flag("attention_bias") else frozenset(),
        must_be={"clip_qkv": None},
        sparse=QWEN,
    ),
    Family(
        name="gpt2",
        architecture="GPT2LMHeadModel",
        prefix="transformer.",
        modules={
            "transformer.wte": "embed/tokens",
            "transformer.wpe": "embed/positions",
            "transformer.h.{i}.ln_1": "layers.{i}.attn/norm",
            "transformer.h.{i}.attn.c_attn": "layers.{i}.attn/qkv_proj",
            "transformer.h.{i}.attn.c_proj": "layers.{i}.attn/o_proj",
            "transformer.h.{i}.ln_2": "layers.{i}.ffn/norm",
            "transformer.h.{i}.mlp.c_fc": "layers.{i}.ffn/up_proj",
            "transformer.h.{i}.mlp.c_proj": "layers.{i}.ffn/down_proj",
            "transformer.ln_f": "head/norm",
            "lm_head": "head/lm_head",
        },
        defaults={
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "scale_attn_weights": True,
            "tie_word_embeddings": True,
        },
        renamed={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "hidden_act": "activation_function",
            "rms_norm_eps": "layer_norm_epsilon",
        },
        norm="layer",
        gated=False,
        layout="conv1d",
        rope=False,
        biases=lambda _: frozenset({"qkv_proj", "o_proj", "up_proj", "down_proj"}),
        must_be={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "add_cross_attention": False,
        },
        buffers=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
    ),
)

FAMILIES: Mapping[str, Family] = {row.name: row for row in _ROWS}
"""The families that can be served, by ``model_type``."""

UNKNOWN = "unknown"
"""The family of models whose configuration does not say, or asks for what its family has not."""

TENSORS = "tensors"
"""The kind of a block that no maths is known for: an unknown family's, or what lies beside a model's weights."""


def is_language(model: Model) -> bool:
    """Whether a model is of one of ``FAMILIES``, with everything of it implemented or not."""
    return model.family in FAMILIES or model.config.get("model_type") in FAMILIES


def has_chain(model: Model) -> bool:
    """Whether a model can be served block by block."""
    return not model.unservable and any(part.block.kind != TENSORS for part in model.parts)


def chain(model: Model) -> Chain:
    """The links of a model in the order they run: embed, each layer's attn and ffn, head.

    Raises UnsupportedError with every reason why the model cannot be served block by block.
    """
    if not has_chain(model):
        reasons = model.unservable or (f"models of family {model.family!r} are not served block by block",)
        raise UnsupportedError("; ".join(reasons), where=f"model {model.ref}", hint="it is stored tensor by tensor")
    links = tuple(part for part in model.parts if part.block.kind != TENSORS)
    return Chain(model, links)
