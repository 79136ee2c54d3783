"""How the lexicon that comes with the package is made: of WordNet's files and a corpus, by rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quiltwork.core.progress import Say, ignore
from quiltwork.text.polarity.lexicon import Entry
from quiltwork.text.polarity.patterns import Counted, count
from quiltwork.text.polarity.pointers import antonyms_of, forms_of
from quiltwork.text.polarity.prefixes import OFTEN, formed_by_prefix
from quiltwork.text.polarity.signs import signs_of
from quiltwork.text.polarity.wordnet import WordNet


def made_lexicon(
    wordnet_folder: str | os.PathLike[str], corpora: Sequence[str | os.PathLike[str]], say: Say = ignore
) -> list[Entry]:
    """Entries of all sources; the same files give the same entries.

    wordnet_folder : with data.noun and its like. corpora : a sentence a line, plain or .xz. Raises NotFoundError and
    BadInputError for files that are not there or not what they should be.
    """
    say("WordNet")
    wordnet = WordNet(wordnet_folder)
    counted = count([Path(path) for path in corpora], say)
    return entries_of(wordnet, counted)


def entries_of(wordnet: WordNet, counted: Counted) -> list[Entry]:
    """Entries of all sources, of what has been read."""
    pairs = [entry for entry in antonyms_of(wordnet) if entry.source != "wordnet:similar" or _used(entry, counted)]
    known = {(entry.a, entry.b) for entry in pairs}
    pairs += [entry for entry in formed_by_prefix(counted.words, wordnet) if (entry.a, entry.b) not in known]
    signs = signs_of(counted, wordnet)
    return [*pairs, *signs, *forms_of(wordnet, pairs, counted.words, OFTEN)]


def _used(entry: Entry, counted: Counted) -> bool:
    """Satellites are many, and most of them rare: those stay that the corpus has."""
    return min(counted.words[entry.a], counted.words[entry.b]) >= OFTEN
