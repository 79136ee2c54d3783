"""What people hand in to learn from, and the one line they get where it will not do."""

from __future__ import annotations

import gzip

import pytest
from tiny_moe import sentences, settings_of, started, write_corpus

from quiltwork.core.errors import QuiltworkError
from quiltwork.moe.training.checking import read_settings
from quiltwork.moe.training.corpus import read_rows, read_running_text, without_header
from quiltwork.moe.training.labelled import read_labelled
from quiltwork.moe.training.tokens import learn_codec, read_codec


def read(folder, task, **more):
    return read_rows(read_settings(settings_of(folder, task, **more)))


def test_a_row_is_on_one_side_wherever_it_stands_and_its_copies_with_it(tmp_path):
    parts = read(tmp_path, "classify", valid_share=0.3, test_share=0.3)
    sides = [set(part.rows) for part in (parts.train, parts.valid, parts.test)]
    assert all(sides)
    assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])
    path = tmp_path / "rows.tsv"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    settings = read_settings({**settings_of(tmp_path, "classify", valid_share=0.3, test_share=0.3)})
    again = read_rows(settings)
    assert [set(part.rows) for part in (again.train, again.valid, again.test)] == sides


def test_files_of_their_own_leave_all_of_the_corpus_to_learn_from(tmp_path):
    for name in ("valid", "test"):
        (tmp_path / f"{name}.tsv").write_text("a cat\t1\na dog\t0\n")
    parts = read(tmp_path, "classify", valid=str(tmp_path / "valid.tsv"), test=[str(tmp_path / "test.tsv")])
    assert len(parts.train.rows) == 120
    assert parts.test.rows == (("a cat", "1"), ("a dog", "0"))


def test_tables_are_read_by_names_by_numbers_and_by_what_is_plain(tmp_path):
    named, bare = tmp_path / "a.csv", tmp_path / "b.tsv"
    named.write_text('id,tone,said\n1,good,"well, yes"\n2,bad,"no\nnot so"\n')
    bare.write_text('0\tit is "so\n1\tgood\n0\tbad')
    assert read_labelled([str(named)], "utf-8", "said", "tone") == [("well, yes", "good"), ("no\nnot so", "bad")]
    assert read_labelled([str(bare)], "utf-8", "", "") == [('it is "so', "0"), ("good", "1"), ("bad", "0")]
    assert read_labelled([str(bare)], "utf-8", "2", "1")[1] == ("good", "1")


def test_lines_with_bars_and_a_file_for_each_class(tmp_path):
    barred, pos, neg = tmp_path / "five.txt", tmp_path / "pos", tmp_path / "neg"
    barred.write_text("3 ||| so it is\n0 ||| no\n")
    pos.write_bytes("très bien\n".encode("latin-1"))
    neg.write_bytes(b"bad\n")
    assert read_labelled([str(barred)], "utf-8", "", "") == [("so it is", "3"), ("no", "0")]
    assert read_labelled([str(pos), str(neg)], "latin-1", "", "") == [("très bien", "pos"), ("bad", "neg")]


def test_packed_pairs_are_read_and_blank_ones_left_out(tmp_path):
    settings = settings_of(tmp_path, "translate")
    for name, text in (("a.gz", "one\n\nthree\n"), ("b.gz", "eins\nzwei\ndrei")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    corpus = [str(tmp_path / "a.gz"), str(tmp_path / "b.gz")]
    parts = read_rows(read_settings({**settings, "corpus": corpus, "valid": corpus, "test": corpus}))
    assert parts.train.rows == (("one", "eins"), ("three", "drei"))
    assert parts.train.blank == 1


def test_what_stands_around_a_book_is_stripped_or_kept(tmp_path):
    book = "Title: X\n*** START OF THE PROJECT ***\n\nWell.\n\n*** END OF THE PROJECT ***\nLicence\n"
    assert without_header(book) == "Well.\n"
    assert without_header("no book\n") == "no book\n"
    path = tmp_path / "book.txt"
    path.write_text(book)
    kept = read_running_text(read_settings({**settings_of(tmp_path, "lm", header="keep"), "corpus": str(path)}))
    assert (kept.train + kept.valid + kept.test) == book


@pytest.mark.parametrize("told", ["byte", "bpe:300"])
def test_a_tokenizer_gives_back_what_it_was_given_and_is_read_again(tmp_path, told):
    codec = learn_codec(told, sentences(200), special=True)
    texts = ["the cat sat", "naïve\n\t 猫 <s>", "\x00\x7f"]
    tokens = codec.encode(texts)
    assert [codec.decode([codec.begin, *one.tolist(), codec.end]) for one in tokens[:1]] == texts[:1]
    assert codec.decode(tokens[2].tolist()) == texts[2]
    codec.save(tmp_path)
    again = read_codec(tmp_path)
    assert [one.tolist() for one in again.encode(texts)] == [one.tolist() for one in tokens]
    assert again.size == codec.size == {"byte": 258, "bpe:300": 300}[told]


def test_bytes_are_what_the_tokenizers_library_makes_of_them():
    codec = learn_codec("byte", [], special=False)
    for text in ("the cat", "naïve\n\t 猫", "\x00\x7f"):
        assert codec.encode([text])[0].tolist() == codec.tokenizer.encode(text).ids == list(text.encode())


def test_equal_corpora_have_equal_tokenizers():
    one, two = (learn_codec("bpe:300", sentences(300), special=False) for _ in range(2))
    assert one.tokenizer.to_str() == two.tokenizer.to_str()


BAD = [
    ("lm", {"corpus": "NO.txt"}, "NO.txt: is no file"),
    ("lm", {"corpus": "."}, "is no file"),
    ("lm", {"corpus": "empty.txt"}, "empty.txt: is empty"),
    ("lm", {"corpus": "latin.txt"}, "latin.txt: line 2: is not UTF-8 (set `encoding`, as in latin-1)"),
    ("lm", {"corpus": "cut.gz"}, "cut.gz: is truncated or damaged"),
    ("lm", {"encoding": "utf-9"}, "encoding: 'utf-9' is no encoding"),
    ("lm", {"encoding": "rot13"}, "encoding: 'rot13' is no encoding"),
    ("lm", {"length": 4000}, "part has"),
    ("lm", {"tokenizer": "bpe:5"}, "config: tokenizer: 'bpe:5' is no tokenizer"),
    ("lm", {"tokenizer": "bpe:90000"}, "config: tokenizer: the training part has no 90000 different tokens"),
    ("lm", {"task": "poetry"}, "config: task: 'poetry' is not one of lm, classify, translate"),
    ("lm", {"balance_of": "every"}, "config: balance_of: 'every' is not one of single, first"),
    ("lm", {"gate": "guess"}, "config: gate: 'guess' is not one of adaptive, top1"),
    ("lm", {"speed": 3}, "config: speed: is not a setting"),
    ("lm", {"steps": 10**12}, "config: steps: 1000000000000 is absurdly large"),
    ("lm", {"heads": 3}, "config: heads: 3 heads of an even width cannot have 16 together"),
    ("lm", {"experts": 1}, "config: most: 2 is above the number of experts, 1"),
    ("lm", {"rate": float("nan")}, "config: rate: must be a number"),
    ("lm", {"mean_experts": [1, 1, 1]}, "config: mean_experts: needs one number, or one for each of 2 layers"),
    ("classify", {"text_column": "words"}, "rows.tsv: text_column: has no column 'words'"),
    ("classify", {"corpus": "ragged.tsv"}, "ragged.tsv: line 2: has 3 columns, and the first line has 2"),
    ("classify", {"corpus": "five.txt"}, "five.txt: line 1: is not `label ||| text`"),
    ("classify", {"corpus": "one.tsv"}, "there are 1 different labels"),
    ("classify", {"test": "other.tsv"}, "the test part has the label '7', which the training part has not"),
    ("translate", {"corpus": "five.txt"}, "config: corpus: needs a source and a target, not 1 file"),
    ("translate", {"corpus": ["five.txt", "two.txt"]}, "two.txt: has 2 lines, and"),
    ("translate", {"layers": 3}, "config: layers: 3 cannot be halved between encoder and decoder"),
]


@pytest.mark.parametrize(("task", "change", "line"), BAD)
def test_what_is_wrong_is_told_in_one_line(tmp_path, monkeypatch, task, change, line):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path, "lm")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"so\ntr\xe8s\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"the cat sat on a mat" * 50)[:-9])
    (tmp_path / "ragged.tsv").write_text("a\t1\nb\t2\t3\n")
    (tmp_path / "one.tsv").write_text("".join(f"{one}\t1\n" for one in sentences(60)))
    (tmp_path / "other.tsv").write_text("a cat\t7\na dog\t1\n")
    (tmp_path / "five.txt").write_text("a\nb\nc\n")
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(QuiltworkError) as raised:
        started({**settings_of(tmp_path, task), **change})
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_number_is_a_place_also_where_a_cell_of_the_first_line_is_that_number(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("a fine film\t1\na dull one\t0\n", encoding="utf-8")
    assert read_labelled([str(path)], "utf-8", "1", "2") == [("a fine film", "1"), ("a dull one", "0")]
