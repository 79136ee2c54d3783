"""Corpora are read as documents of sentences; what cannot be read is told in one line with its place."""

from __future__ import annotations

import gzip
import lzma

import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.corpus import LONGEST_LINE, Document, read_corpus

LINES = "# 10.1/a\tone\nGenes act.\nCells grow.\n\nMore.\n# 10.1/b\nOthers.\n"
ARTICLE = (
    "<article><front><article-meta><title-group><article-title>T</article-title></title-group></article-meta></front>"
    "</article>"
)


@pytest.fixture
def write(tmp_path):
    def call(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return call


def read(*paths, **options):
    return list(read_corpus(paths, **options))


def test_a_line_is_a_sentence_and_a_header_begins_a_document(write):
    assert read(write("a.txt", LINES)) == [
        Document("10.1/a\tone", ("Genes act.", "Cells grow.", "More.")),
        Document("10.1/b", ("Others.",)),
    ]


def test_a_file_without_headers_is_one_document(write):
    assert read(write("plain.txt", "One.\n\nTwo.\n")) == [Document("plain.txt", ("One.", "Two."))]


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_a_packed_file_reads_as_the_plain_one(write, suffix, pack):
    assert read(write(f"a.txt{suffix}", pack(LINES.encode()))) == read(write("a.txt", LINES))


def test_sentences_are_in_the_compatibility_form_of_unicode(write):
    [document] = read(write("a.txt", "5 \u00b5g of \ufb01brin\u2026\n"))
    assert document.sentences == ("5 \u03bcg of fibrin...",)


def test_running_text_is_split_at_sentences_and_paragraphs(write):
    path = write("a.txt", "Cells of E. coli\ngrow. They (see Fig. 3)\ndivide.\n\nA heading\n\nThe end")
    assert read(path, split=True)[0].sentences == (
        "Cells of E. coli grow.", "They (see Fig. 3) divide.", "A heading", "The end",
    )  # fmt: skip


def test_a_folder_is_read_by_path_and_other_files_in_it_are_not(write, tmp_path):
    write("in/b.txt", "b\n")
    write("in/a/z.txt", "z\n")
    write("in/c.nxml", ARTICLE)
    write("in/picture.png", b"\xff\xfe")
    assert [document.sentences for document in read(tmp_path / "in")] == [("z",), ("b",), ("T",)]


def told(*paths, **options):
    with pytest.raises(BadInputError) as caught:
        read(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_a_truncated_file_is_refused(write, suffix, pack):
    packed = pack("".join(f"line {i} of many\n" for i in range(5000)).encode())
    path = write(f"a.txt{suffix}", packed[: len(packed) // 2])
    assert told(path).startswith(f"{path}: line")
    assert "truncated or damaged" in told(path)


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_a_file_that_only_says_that_it_is_packed_is_refused(write, suffix):
    assert "truncated or damaged" in told(write(f"a.txt{suffix}", LINES))


def test_what_is_not_utf8_is_refused_with_its_line(write):
    path = write("a.txt", b"fine\n" * 3 + b"caf\xe9\n")
    assert told(path).startswith(f"{path}: line")
    assert told(path).endswith("is not UTF-8")


def test_a_corpus_without_a_sentence_is_refused(write):
    assert told(write("a.txt", "# only a header\n\n   \n")).endswith("has no sentence")
    assert told(write("b.txt", "")).endswith("has no sentence")


def test_a_line_as_long_as_no_sentence_is_refused_and_a_shorter_one_is_not(write):
    path = write("a.txt", "fine\n" + "x" * LONGEST_LINE + "\n")
    assert told(path).startswith(f"{path}: line 2: has {LONGEST_LINE} characters or more")
    assert len(read(write("b.txt", "x" * (LONGEST_LINE - 2) + "\n"))) == 1


def test_running_text_may_have_long_lines(write):
    path = write("a.txt", "A sentence. " * LONGEST_LINE)
    assert len(read(path, split=True)[0].sentences) == LONGEST_LINE


def test_a_missing_file_and_a_folder_without_texts_are_told(tmp_path):
    with pytest.raises(NotFoundError, match="no such file or folder"):
        read(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    assert "has no .txt, .xml or .nxml file in it" in told(tmp_path / "empty")
