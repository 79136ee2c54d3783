"""Chains whose attention blocks keep keys and values of different shapes: two models joined by a stitch."""

import dataclasses
import itertools

import pytest
import torch
from tiny_llama import Bench, Desk
from transformers import LlamaConfig, LlamaForCausalLM

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import Engine
from quiltwork.zoo.types import Chain, Model, Part

VOCAB, MAX_LEN, BELOW, ABOVE = 96, 512, 2, 2
SHAPES = {
    "narrow": {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
               "head_dim": 8, "intermediate_size": 40},
    "wide": {"hidden_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 16, "intermediate_size": 56},
}  # fmt: skip
PAGE = {"narrow": 2 * 1 * 16 * 8 * 4, "wide": 2 * 2 * 16 * 16 * 4}
"""Bytes of a page of one attention block."""
PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71, 69, 39, 93]


def reference(kind: str) -> LlamaForCausalLM:
    torch.manual_seed(len(kind))
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=MAX_LEN, tie_word_embeddings=False,
                         rms_norm_eps=1e-6, initializer_range=0.3, **SHAPES[kind])  # fmt: skip
    return LlamaForCausalLM(config).eval()


def links_of(bench: Bench, model: LlamaForCausalLM) -> tuple[Part, ...]:
    config, weights = model.config, model.state_dict()
    norm = {"hidden_size": config.hidden_size, "norm": "rms", "norm_eps": 1e-6}
    rope = {"type": "default", "theta": 10000.0, "max_position_embeddings": MAX_LEN}
    attn = {**norm, "num_heads": config.num_attention_heads, "num_kv_heads": config.num_key_value_heads,
            "head_dim": config.head_dim, "rope": rope, "qk_norm": False, "sliding_window": None, "layout": "linear",
            "bias": False}  # fmt: skip
    ffn = {**norm, "intermediate_size": config.intermediate_size, "activation": "silu", "gated": True,
           "layout": "linear", "bias": False}  # fmt: skip
    embed = {"hidden_size": config.hidden_size, "vocab_size": VOCAB, "max_positions": 0}
    parts = [Part("embed", bench.block("embed", embed, {"tokens.weight": weights["model.embed_tokens.weight"]}))]
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        own = {"norm.weight": weights[at + "input_layernorm.weight"]}
        own |= {f"{p}_proj.weight": weights[f"{at}self_attn.{p}_proj.weight"] for p in "qkvo"}
        parts.append(Part(f"layers.{i}.attn", bench.block("attn", attn, own)))
        own = {"norm.weight": weights[at + "post_attention_layernorm.weight"]}
        own |= {f"{p}_proj.weight": weights[f"{at}mlp.{p}_proj.weight"] for p in ("gate", "up", "down")}
        parts.append(Part(f"layers.{i}.ffn", bench.block("ffn", ffn, own)))
    head = {"norm.weight": weights["model.norm.weight"], "lm_head.weight": weights["lm_head.weight"]}
    return (*parts, Part("head", bench.block("head", {**norm, "vocab_size": VOCAB}, head)))


@dataclasses.dataclass
class Plain:
    """A chain, and what transformers makes of the same weights: the lower model's states into the upper model."""

    chain: Chain
    lower: LlamaForCausalLM
    upper: LlamaForCausalLM | None = None
    linear: torch.nn.Linear | None = None

    @torch.no_grad()
    def greedy(self, prompt, count):
        tokens, margins = list(prompt), []
        for _ in range(count):
            ids = torch.tensor([tokens])
            if self.upper is None:
                logits = self.lower(ids).logits[0, -1]
            else:
                hidden = self.lower.model(ids, output_hidden_states=True).hidden_states[BELOW]
                logits = self.upper(inputs_embeds=self.linear(hidden)).logits[0, -1]
            best = torch.topk(logits, 2).values
            margins.append(float(best[0] - best[1]))
            tokens.append(int(logits.argmax()))
        return tokens[len(prompt) :], margins


def chain_of(name: str, links) -> Chain:
    model = Model(ModelRef(name), name, "stitched", tuple(links), {"max_position_embeddings": MAX_LEN}, {})
    return Chain(model, tuple(links))


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.fixture(scope="module")
def models(bench):
    narrow, wide, upper = reference("narrow"), reference("wide"), reference("wide")
    upper.model.layers = upper.model.layers[ABOVE:]
    upper.config.num_hidden_layers = len(upper.model.layers)
    for index, layer in enumerate(upper.model.layers):
        layer.self_attn.layer_idx = index
    torch.manual_seed(9)
    linear = torch.nn.Linear(SHAPES["narrow"]["hidden_size"], SHAPES["wide"]["hidden_size"])
    arch = {"input_size": linear.in_features, "hidden_size": linear.out_features}
    stitch = bench.block("stitch", arch, {"linear.weight": linear.weight, "linear.bias": linear.bias})
    low, high = links_of(bench, narrow), links_of(bench, wide)
    joined = [*low[: 1 + 2 * BELOW], Part(f"stitches.{BELOW}", stitch), *high[1 + 2 * ABOVE :]]
    return {
        "narrow": Plain(chain_of("narrow", low), narrow),
        "wide": Plain(chain_of("wide", high), wide),
        "stitched": Plain(chain_of("stitched", joined), narrow, upper, linear),
    }


@pytest.fixture
def desk(bench):
    def make(**config):
        clock = itertools.count()
        return Desk(Engine(EngineConfig(**config), lambda: float(next(clock))), bench)

    return make


def assert_greedy(model, prompt, tokens):
    expected, margins = model.greedy(prompt, len(tokens))
    for ours, theirs, margin in zip(tokens, expected, margins, strict=True):
        if ours != theirs:
            assert margin < 1e-3, (tokens, expected)
            return


def test_a_stitched_chain_alone_answers_as_plain_torch_does(desk, models):
    d = desk()
    d.load(models["stitched"])
    served = d.engine.roster.served[ModelRef("stitched")]
    assert [s.kv_blocks for s in served.route] == [BELOW, 4 - ABOVE], "cut once, where the shape changes"
    assert served.page_bytes == BELOW * PAGE["narrow"] + (4 - ABOVE) * PAGE["wide"]
    d.ask(models["stitched"], PROMPT, max_tokens=20)
    (tokens,) = d.finish().values()
    assert_greedy(models["stitched"], PROMPT, tokens)


def test_its_pages_are_counted_in_bytes_of_both_shapes(desk, models):
    d = desk(prefix_cache=False)
    d.load(models["stitched"])
    asked = d.ask(models["stitched"], PROMPT, max_tokens=30)
    d.engine.step()
    page = BELOW * PAGE["narrow"] + (4 - ABOVE) * PAGE["wide"]
    assert d.engine.stats().kv_held_bytes == 2 * page, "24 tokens"
    d.engine.cancel(asked)
    assert d.engine.stats().kv_used_bytes == 0


def test_all_three_models_in_one_batch_join_at_the_upper_blocks_they_share(desk, models):
    d = desk()
    d.load(*models.values())
    asked = {d.ask(model, PROMPT[i:], max_tokens=12): (model, PROMPT[i:]) for i, model in enumerate(models.values())}
    answers: dict[int, list[int]] = {}
    joint = 0
    while d.engine.has_work:
        for emission in d.engine.step():
            answers.setdefault(emission.sequence_id, []).append(emission.token.token)
        joint += sum(record.models == 2 for record in d.engine.stats().last_batches)
    assert joint >= 2 * 12, "in every step with narrow below the stitch, and with wide above it"
    for sequence_id, (model, prompt) in asked.items():
        assert_greedy(model, prompt, answers[sequence_id])


def test_the_lower_models_pages_serve_the_stitched_chain_and_none_else(desk, models):
    prompt = (PROMPT * 6)[:129]
    d = desk()
    d.load(*models.values())

    def layers_for(name):
        before = d.engine.stats().prefill_token_layers
        sequence_id = d.ask(models[name], prompt, max_tokens=4)
        assert_greedy(models[name], prompt, d.finish()[sequence_id])
        return d.engine.stats().prefill_token_layers - before

    assert layers_for("narrow") == 129 * 3
    assert layers_for("wide") == 129 * 4
    assert layers_for("stitched") == 128 * 2 + 1 * 4, "starts above narrow's two layers; wide's upper pages are not its"
    assert layers_for("stitched") == 1 * 4, "its own pages"


def test_losing_cached_pages_of_one_shape_never_changes_an_answer(desk, models):
    prompt = (PROMPT * 6)[:100]
    d = desk(kv_bytes=9 * 4 * PAGE["wide"])
    d.load(*models.values())
    for name in ("stitched", "wide", "stitched", "narrow", "stitched", "wide", "wide", "stitched"):
        sequence_id = d.ask(models[name], prompt, max_tokens=6)
        assert_greedy(models[name], prompt, d.finish()[sequence_id])
    assert d.engine.stats().kv.evictions > 0


def test_preemption_among_models_of_different_shapes_changes_nothing_and_keeps_the_cap(desk, models):
    d = desk()
    d.load(*models.values())
    weights = d.engine.stats().weight_bytes
    room = 5 * 4 * PAGE["wide"]
    d = desk(memory_bytes=weights + room, max_num_seqs=4)
    d.load(*models.values())
    names = ("stitched", "wide", "stitched", "narrow")
    asked = {d.ask(models[n], PROMPT[i:], max_tokens=40): (models[n], PROMPT[i:]) for i, n in enumerate(names)}
    answers: dict[int, list[int]] = {}
    while d.engine.has_work:
        for emission in d.engine.step():
            answers.setdefault(emission.sequence_id, []).append(emission.token.token)
        stats = d.engine.stats()
        assert stats.kv_used_bytes + stats.weight_bytes <= weights + room
    assert d.engine.stats().preemptions > 0
    for sequence_id, (model, prompt) in asked.items():
        assert len(answers[sequence_id]) == 40
        assert_greedy(model, prompt, answers[sequence_id])


def test_blocks_of_different_widths_without_a_stitch_are_refused(desk, models):
    low, high = models["narrow"].chain.links, models["wide"].chain.links
    broken = chain_of("broken", [*low[:3], *high[3:]])
    d = desk()
    with pytest.raises(BadInputError, match=r"layers\.1\.attn: takes 40 features, the block below gives 24"):
        d.engine.prepare(broken, d.bench.read)
    assert d.engine.stats().weight_bytes == 0
