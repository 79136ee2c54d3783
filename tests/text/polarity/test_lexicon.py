"""The lexicon that comes with the package, and how one is made: every line has a source."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text import polarity_of, read_lexicon
from quiltwork.text.polarity import lexicon as lexicon_module
from quiltwork.text.polarity.lexicon import Entry, Lexicon, parse, printed, shipped_lexicon
from quiltwork.text.polarity.morphology import formed_opposite
from quiltwork.text.polarity.patterns import count
from quiltwork.text.polarity.recipe import made_lexicon

EVIDENCE = {
    ("pair", "wordnet:antonym"): r"[nvar]",
    ("pair", "wordnet:synonym"): r"[a-z]+ as [a-z]+, [a-z]+ as [a-z]+",
    ("pair", "wordnet:similar"): r"[a-z]+ as [a-z]+, [a-z]+ as [a-z]+",
    ("pair", "wordnet:derived"): r"of \S+ and \S+",
    ("pair", "prefix"): r"(?:[a-z]+-|[a-z]+- (?:gloss|ending)|[a-z]+-/[a-z]+-|-ful/-less) \d+ \d+",
    ("pair", "corpus"): r"[a-z (/]+ \d+(?:, [a-z (/]+ \d+)+",
    ("sign", "graph"): r"\d\.\d\d(?: [a-z_.'-]+:[+-]\d+\.\d\d)+",
    ("form", "wordnet:form"): r"[va](?: \d+)?",
}
"""What the recipe writes as evidence, by kind and source."""


WORDNET_FOLDER = Path(os.environ.get("QUILTWORK_WORDNET", "/usr/share/wordnet"))
"""Where Debian's wordnet-base puts WordNet's files."""
CORPORA = ("coronaml", "elife.ccby", "evinf.ccby", "smallbio")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not (WORDNET_FOLDER / "data.verb").is_file(), reason="needs wordnet-base, or QUILTWORK_WORDNET")
def test_the_shipped_lexicon_is_byte_for_byte_what_the_recipe_makes(data_dir):
    corpora = [data_dir / "text" / "corpus" / f"{name}.txt.xz" for name in CORPORA]
    shipped = Path(lexicon_module.__file__).with_name("lexicon.tsv").read_bytes()
    assert printed(made_lexicon(WORDNET_FOLDER, corpora)).encode() == shipped


def test_every_line_of_the_shipped_lexicon_has_a_source_that_the_recipe_writes():
    for entry in shipped_lexicon().entries:
        assert re.fullmatch(EVIDENCE[entry.kind, entry.source], entry.evidence), entry


def test_lines_are_sorted_and_read_back_as_they_were_printed():
    entries = shipped_lexicon().entries
    assert parse(printed(entries), "here") == list(entries)


@pytest.mark.realdata
def test_words_of_the_authors_contradictions_have_no_source_that_others_have_not(data_dir):
    words = set()
    for subset in ("negation", "antonym"):
        path = data_dir / "text" / "biosses" / f"biosses_{subset}_subset.txt"
        lines = [set(line.split()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
        words |= set().union(*(a ^ b for a, b in zip(lines[::2], lines[1::2], strict=True)))
    about = [entry for entry in shipped_lexicon().entries if {entry.a, entry.b} & words]
    assert about
    assert all(re.fullmatch(EVIDENCE[entry.kind, entry.source], entry.evidence) for entry in about)


@pytest.mark.parametrize(
    ("a", "b", "rule"),
    [
        ("regulated", "unregulated", "un-"),
        ("hyperactive", "hypoactive", "hyper-/hypo-"),
        ("downregulation", "upregulation", "up-/down-"),
        ("helpful", "helpless", "-ful/-less"),
        ("der", "under", None),
        ("play", "display", None),
    ],
)
def test_rules_of_word_formation(a, b, rule):
    assert formed_opposite(a, b) == formed_opposite(b, a) == rule


def test_signs_set_words_against_one_another_that_no_line_has_as_a_pair():
    lexicon = Lexicon([Entry("sign", "raise", "+", "graph", "0.9 x:+1.00"), Entry("sign", "curb", "-", "graph", "0.9")])
    assert polarity_of("The drug raised the pressure.", "The drug curbed the pressure.", lexicon).kind == "opposite"
    assert not lexicon.has_pair("raised", "curbed")
    assert lexicon.has_pair("raised", "x")


WORDNET = {
    "data.verb": "00000001 30 v 02 rise 0 climb 0 001 ! 00000002 v 0101 01 + 11 00 | go up\n"
    "00000002 30 v 01 fall 0 001 ! 00000001 v 0101 01 + 11 00 | go down\n",
    "index.verb": "rise v 1 1 ! 1 0 00000001\nclimb v 1 1 ! 1 0 00000001\nfall v 1 1 ! 1 0 00000002\n",
    "verb.exc": "rose rise\nfell fall\n",
}


@pytest.fixture
def sources(tmp_path):
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (tmp_path / name).write_text(WORDNET.get(name, ""), encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("# a heading\n" + "It was tested or untested.\n" * 6, encoding="utf-8")
    return tmp_path


def test_a_lexicon_is_made_of_wordnet_and_a_corpus_and_is_the_same_each_time(sources):
    entries = made_lexicon(sources, [sources / "corpus.txt"])
    found = {(entry.a, entry.b, entry.source) for entry in entries}
    assert {
        ("fall", "rise", "wordnet:antonym"),
        ("climb", "fall", "wordnet:synonym"),
        ("rose", "rise", "wordnet:form"),
        ("tested", "untested", "prefix"),
    } <= found
    assert printed(entries) == printed(made_lexicon(sources, [sources / "corpus.txt"]))


def test_what_is_missing_or_broken_is_named_with_its_line(sources, tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.txt: no such file"):
        made_lexicon(sources, [tmp_path / "none.txt"])
    with pytest.raises(NotFoundError, match=r"data\.noun: no such file"):
        made_lexicon(tmp_path / "nowhere", [])
    (sources / "data.verb").write_text("what is this\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"data\.verb:1: is not a line of WordNet's data"):
        made_lexicon(sources, [])
    lexicon = tmp_path / "lexicon.tsv"
    for line in ("pair\ta\tb\n", "pair\ta\tb\thearsay\tx\n", "sign\ta\tup\tgraph\t0.5\n"):
        lexicon.write_text(line, encoding="utf-8")
        with pytest.raises(BadInputError, match=r"lexicon\.tsv:1: is not a line of a lexicon"):
            read_lexicon(lexicon)
    lexicon.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="is not UTF-8"):
        read_lexicon(lexicon)


@pytest.mark.parametrize(
    ("sentence", "pattern"),
    [
        ("It was raised or lowered.", "or"),
        ("It was either raised or lowered.", "either or"),
        ("It is known to raised or lowered.", "to or"),
        ("It was raised (lowered) there.", "("),
        ("It was raised/lowered.", "/"),
        ("A and B were raised and lowered, respectively.", "and respectively"),
        ("It was raised (lowered by half) there.", None),
    ],
)
def test_how_a_corpus_sets_two_words_side_by_side(tmp_path, sentence, pattern):
    (tmp_path / "corpus.txt").write_text(sentence + "\n", encoding="utf-8")
    found = count([tmp_path / "corpus.txt"]).beside
    assert found.get(("raised", "lowered"), {}) == ({pattern: 1} if pattern else {})
