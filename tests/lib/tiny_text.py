"""Tiny tokenizers of the two kinds that matter, made on the spot."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the king said that the dog was very happy and ran to the big tree",
    'she said "hello world" to him; {"name": "Tom", "age": 42, "ok": true}',
    "naïve café über straße — 日本語 🙂",
] * 4


def byte_level(size=400):
    """As GPT-2 and Llama 3 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|bos|>", "<|eos|>"],
        ),
    )
    tokenizer.add_tokens([AddedToken("<note>", normalized=False)])
    return tokenizer


def metaspace(size=420, bos=True):
    """As Llama 2 has it: a mark for spaces, bytes for what is not in the vocabulary."""
    specials = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(
        [text for text in CORPUS if text.isascii()],
        trainers.BpeTrainer(vocab_size=size - 256, special_tokens=specials, show_progress=False),
    )
    data = json.loads(trained.to_str())
    vocab = {token: id for token, id in data["model"]["vocab"].items() if token not in specials}
    order = sorted(vocab, key=vocab.get)
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *order]
    data["model"]["vocab"] = {token: id for id, token in enumerate(tokens)}
    data["model"]["byte_fallback"] = True
    data["decoder"] = json.loads(Tokenizer(models.BPE()).to_str())["decoder"]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def files(tokenizer, **config):
    """A model's files as a reader of them, with ``config`` as tokenizer_config.json."""
    held = {"tokenizer.json": tokenizer.to_str().encode()}
    if config:
        held["tokenizer_config.json"] = json.dumps(config).encode()
    return held
