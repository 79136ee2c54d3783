"""Vectors are those of sentence-transformers, whatever the model is made of."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
from tiny_encoders import SENTENCES, write_encoder, write_transformer

from quiltwork.text.encoder import load_encoder, packaged_encoder, packaged_files
from quiltwork.text.files import Folder

WITHIN = 1e-5


def theirs(folder, sentences=SENTENCES, **how):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(list(sentences), batch_size=3, **how)


def distance(a, b):
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert", "modernbert"])
def test_every_family_has_the_vectors_of_sentence_transformers(tmp_path, family):
    folder = write_encoder(tmp_path / "model", family)
    ours = load_encoder(Folder(folder)).embed(SENTENCES)
    assert ours.known.all()
    assert distance(ours.vectors, theirs(folder)) < WITHIN


@pytest.mark.parametrize("old", [True, False], ids=["old layout", "new layout"])
@pytest.mark.parametrize(
    ("pooling", "heads"),
    [
        (("cls",), ("normalize",)),
        (("max",), ()),
        (("mean",), ("dense", "normalize")),
        (("mean_sqrt_len_tokens",), ("dense_relu",)),
        (("weightedmean",), ("layer_norm",)),
        (("lasttoken",), ("normalize", "dense")),
        (("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"), ("dense",)),
    ],
)
def test_every_pooling_and_head_has_the_vectors_of_sentence_transformers(tmp_path, pooling, heads, old):
    folder = write_encoder(tmp_path / "model", pooling=pooling, heads=heads, old=old)
    encoder = load_encoder(Folder(folder))
    ours = encoder.embed(SENTENCES)
    assert encoder.dimensions == ours.vectors.shape[1]
    assert distance(ours.vectors, theirs(folder)) < WITHIN


@pytest.mark.parametrize("with_prompt", [True, False], ids=["prompt counts", "prompt left out"])
@pytest.mark.parametrize("pooling", [("mean",), ("cls", "max", "weightedmean"), ("lasttoken",)])
def test_prompts_are_put_before_sentences_and_pooled_as_the_model_says(tmp_path, pooling, with_prompt):
    prompts = {"query": "query: ", "passage": "passage of insulin: "}
    folder = write_encoder(tmp_path / "m", pooling=pooling, prompts=prompts, default="query", with_prompt=with_prompt)
    by_default = load_encoder(Folder(folder)).embed(SENTENCES).vectors
    assert distance(by_default, theirs(folder)) < WITHIN
    named = load_encoder(Folder(folder), prompt="passage").embed(SENTENCES).vectors
    assert distance(named, theirs(folder, prompt_name="passage")) < WITHIN
    assert distance(named, by_default) > 1e-3


def test_a_plain_hugging_face_folder_has_the_mean_of_its_tokens(tmp_path):
    folder = write_transformer(tmp_path / "model")
    encoder = load_encoder(Folder(folder))
    assert encoder.layout.pooling_assumed
    assert distance(encoder.embed(SENTENCES).vectors, theirs(folder)) < WITHIN


def test_a_list_of_word_pieces_cuts_as_the_whole_tokenizer_does(tmp_path):
    folder = write_encoder(tmp_path / "model")
    whole = load_encoder(Folder(folder))
    from tokenizers import Tokenizer

    pieces = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.get)))
    assert np.array_equal(load_encoder(Folder(folder)).embed(SENTENCES).vectors, whole.embed(SENTENCES).vectors)


def test_a_text_that_is_too_long_is_cut_where_sentence_transformers_cuts_it(tmp_path):
    folder = write_encoder(tmp_path / "model", longest=9)
    ours = load_encoder(Folder(folder)).embed(SENTENCES)
    assert ours.truncated.any()
    assert not ours.truncated.all()
    assert distance(ours.vectors, theirs(folder)) < WITHIN


def test_a_mark_for_padding_that_is_written_out_stands_where_transformers_has_it(tmp_path):
    folder = write_encoder(tmp_path / "model", "roberta")
    texts = ["no <pad> effect", "no effect"]
    assert distance(load_encoder(Folder(folder)).embed(texts).vectors, theirs(folder, texts)) < WITHIN


@pytest.mark.slow
def test_mini_lm_has_the_vectors_of_sentence_transformers():
    texts = [*SENTENCES, "cell " * 400, "Ras\u00ad \u00b5M \u03b2 \uff21", "a" * 90, "tab\tline\nend"]
    ours = packaged_encoder().embed(texts)
    assert distance(ours.vectors, theirs(packaged_files().where, texts)) < WITHIN
    assert ours.truncated.tolist() == [text == "cell " * 400 for text in texts]
