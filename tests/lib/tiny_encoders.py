"""Tiny encoders with random weights, saved as sentence-transformers and Hugging Face folders, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

SENTENCES = [
    "KRAS mutations drive tumour growth.",
    "Aspirin reduces the risk of stroke in adults with atrial fibrillation, but increases bleeding.",
    "p53",
    "The cells were not treated with insulin; the control cells were.",
    "β-actin was used as a loading control (Fig. 2).",
    "KRAS mutations drive tumour growth and are found in lung cancer, pancreatic cancer and colorectal cancer cells.",
    "no effect",
]
_CORPUS = [*SENTENCES, "query: passage: the a of and in with cells tumour growth insulin was were not increases"] * 3
WIDTH, POSITIONS = 24, 40


def word_pieces(first="[CLS]", last="[SEP]", pad="[PAD]", unknown="[UNK]", mask="[MASK]"):
    """A tokenizer as BERT and MPNet have it."""
    letters = sorted({letter for text in _CORPUS for letter in text.lower() if not letter.isspace()})
    words = sorted({word.strip(".,;:()") for text in _CORPUS for word in text.lower().split()} - {""})
    pieces = [first, pad, last, unknown, mask, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([first, pad, last, unknown, mask])
    ids = tokenizer.token_to_id
    tokenizer.post_processor = processors.BertProcessing((last, ids(last)), (first, ids(first)))
    return tokenizer


def byte_pairs():
    """A tokenizer as RoBERTa and ModernBERT have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


_FLAGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
_ROUND = {"hidden_size": WIDTH, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 40}
_S = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
_B = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]"}


def _network(family, vocabulary):
    positions = {"max_position_embeddings": POSITIONS, "vocab_size": vocabulary}
    if family == "bert":
        return BertModel(BertConfig(**_ROUND, **positions, pad_token_id=1), add_pooling_layer=False)
    if family == "mpnet":
        return MPNetModel(MPNetConfig(**_ROUND, **positions), add_pooling_layer=False)
    if family == "roberta":
        return RobertaModel(RobertaConfig(**_ROUND, **positions, pad_token_id=1), add_pooling_layer=False)
    if family == "distilbert":
        sizes = {"dim": WIDTH, "n_heads": 4, "n_layers": 2, "hidden_dim": 40}
        return DistilBertModel(DistilBertConfig(**sizes, **positions, pad_token_id=1))
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    return ModernBertModel(ModernBertConfig(**_ROUND, **positions, **ids, local_attention=8))


def write_transformer(folder, family="bert", seed=0):
    """A plain Hugging Face folder. Weights are larger than at initialisation, so that nothing is nearly the same."""
    torch.manual_seed(seed)
    tokenizer = byte_pairs() if family in ("roberta", "modernbert") else word_pieces()
    named = _S if family in ("roberta", "modernbert") else _B
    if family == "mpnet":
        tokenizer, named = word_pieces("<s>", "</s>", "<pad>", "[UNK]", "<mask>"), {**_S, "unk_token": "[UNK]"}
    model = _network(family, tokenizer.get_vocab_size()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"bert": "BertTokenizer", "distilbert": "BertTokenizer", "mpnet": "MPNetTokenizer"}.get(family)
    settings = {"tokenizer_class": kind or "PreTrainedTokenizerFast", "model_max_length": POSITIONS - 4, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_encoder(folder, family="bert", *, pooling=("mean",), heads=(), longest=32, old=False, prompts=None,
                  default=None, with_prompt=True, seed=0):  # fmt: skip
    """A sentence-transformers folder. heads : "normalize", "dense", "layer_norm". old : in the layout of before 5."""
    folder = write_transformer(folder, family, seed)
    modules = [("Transformer", "")]
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest, "do_lower_case": False}))
    if old:
        config = {"word_embedding_dimension": WIDTH, "include_prompt": with_prompt}
        config |= {f"pooling_mode_{flag}": mode in pooling for mode, flag in _FLAGS.items()}
    else:
        mode = pooling[0] if len(pooling) == 1 else list(pooling)
        config = {"embedding_dimension": WIDTH, "pooling_mode": mode, "include_prompt": with_prompt}
    _module(folder, modules, "Pooling", config)
    width = WIDTH * len(pooling)
    for head in heads:
        if head == "normalize":
            _module(folder, modules, "Normalize", None if old else {})
        elif head == "layer_norm":
            _module(
                folder,
                modules,
                "LayerNorm",
                {"dimension": width},
                torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(width)}),
            )
        else:
            activation = {"dense": "Tanh", "dense_relu": "ReLU"}[head]
            config = {"in_features": width, "out_features": 16, "bias": True}
            config["activation_function"] = f"torch.nn.modules.activation.{activation}"
            _module(
                folder, modules, "Dense", config, torch.nn.ModuleDict({"linear": torch.nn.Linear(width, 16)}), old=old
            )
            width = 16
    package = "sentence_transformers.models" if old else "sentence_transformers.sentence_transformer.modules"
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"} for i, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    if prompts is not None:
        settings = {"prompts": prompts, "default_prompt_name": default}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def _module(folder, modules, kind, config, weights=None, old=False):
    path = f"{len(modules)}_{kind}"
    modules.append((kind, path))
    if config is None:
        return  # as early versions saved it: the folder is not there
    (folder / path).mkdir()
    (folder / path / "config.json").write_text(json.dumps(config))
    if weights is not None:
        state = {name: one.detach() for name, one in weights.state_dict().items()}
        if old:
            torch.save(state, folder / path / "pytorch_model.bin")
        else:
            from safetensors.torch import save_file

            save_file(state, folder / path / "model.safetensors")
