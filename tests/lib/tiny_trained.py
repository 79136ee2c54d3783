"""Two tiny llamas of different widths and depths that have learned the same made-up language, and its tokenizer."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SHAPES = {
    "small": {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
              "head_dim": 8, "intermediate_size": 48},
    "large": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2,
              "head_dim": 16, "intermediate_size": 64},
}  # fmt: skip
WORDS = {
    "who": ["king", "dog", "queen", "cat", "bird", "child", "wolf", "frog"],
    "did": ["saw", "heard", "found", "kept", "lost"],
    "how": ["red", "old", "happy", "big", "small"],
}


def story(sentences: int = 1500, seed: int = 0) -> str:
    """Sentences of one shape, whose last word is that of an earlier place."""
    rng, lines = random.Random(seed), []
    for _ in range(sentences):
        first, second = rng.sample(WORDS["who"], 2)
        lines.append(f"the {rng.choice(WORDS['how'])} {first} {rng.choice(WORDS['did'])} the {second} said the {first}")
    return " . ".join(lines)


def tokenizer(words: list[str] | None = None) -> Tokenizer:
    """Whole words, and a beginning-of-sequence token."""
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(prefix="")
    known = words or [*WORDS["who"], *WORDS["did"], *WORDS["how"], "the", "said", "."]
    made.train_from_iterator([" ".join(known)], trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"]))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def save_trained(kind: str, folder: Path, *, steps: int = 150, seed: int = 0, words: list[str] | None = None) -> Path:
    """Train one of SHAPES on the story and save it with its tokenizer; returns the folder."""
    model, codec = _trained(kind, steps, seed, None if words is None else tuple(words))
    model.save_pretrained(folder)
    codec.save(str(folder / "tokenizer.json"))
    return folder


@functools.cache
def _trained(kind: str, steps: int, seed: int, words: tuple[str, ...] | None) -> tuple[Any, Any]:
    """Nobody changes what is returned: the same again is not trained again."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    codec = tokenizer(None if words is None else list(words))
    config = LlamaConfig(vocab_size=codec.get_vocab_size(), max_position_embeddings=128, tie_word_embeddings=False,
                         bos_token_id=1, eos_token_id=2, **SHAPES[kind])  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.tensor(codec.encode(story(), add_special_tokens=False).ids)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        starts = torch.randint(0, int(len(ids) * 0.8) - 25, (16,), generator=generator).tolist()
        batch = torch.stack([torch.cat([torch.tensor([1]), ids[at : at + 24]]) for at in starts])
        optimiser.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimiser.step()
    return model.eval(), codec
