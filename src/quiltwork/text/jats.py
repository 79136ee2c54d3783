"""Articles in JATS XML, as PubMed Central gives them: the sentences that authors wrote, and nothing else."""

from __future__ import annotations

import re
from typing import Any
from unicodedata import normalize

from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import missing_package
from quiltwork.text.sentences import split_sentences

_LEFT_OUT = frozenset(
    {
        *("table-wrap", "table", "fig", "fig-group", "graphic", "media", "supplementary-material", "inline-graphic"),
        *(
            "disp-formula",
            "inline-formula",
            "tex-math",
            "math",
            "alternatives",
            "chem-struct-wrap",
            "code",
            "preformat",
        ),
        *("ref-list", "fn", "fn-group", "ack", "glossary", "notes", "object-id", "label", "boxed-text"),
    }
)
_CITATIONS = frozenset({"bibr", "fn", "table-fn", "aff", "corresp"})
"""Kinds of ``xref`` whose text is a marker; one to a figure or a section (``Figure 3``) is part of the sentence."""
_MARKER = "\0"
"""Stands where a citation was: XML cannot have it."""
_CITED = re.compile(rf"{_MARKER}(?:[\s,;–—-]*{_MARKER})*")
_EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;]*[)\]]")
_BEFORE_MARK = re.compile(r"\s+([.,;:!?)\]])")


def article_sentences(content: bytes, *, where: str) -> tuple[str, ...]:
    """Title, abstract and paragraphs of the body, in this order, without tables, figures, formulas, references and
    markers of citations; in Unicode's compatibility form (NFKC).

    XML that declares entities is refused (they can grow without bound), and nothing is fetched. Raises BadInputError,
    QuiltworkError where defusedxml is missing.
    """
    root = _root(content, where)
    article = root if _tag(root) == "article" else next((e for e in root.iter() if _tag(e) == "article"), None)
    if article is None:
        raise BadInputError("is not a JATS article: it has no <article>", where=where)
    title = _first(article, "article-title")
    blocks = [] if title is None else [title]
    for holder in ("abstract", "body"):
        for part in _parts(article, holder):
            blocks += _paragraphs(part)
    return tuple(sentence for block in blocks for sentence in split_sentences(_plain(block)))


def _root(content: bytes, where: str) -> Any:
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ModuleNotFoundError as error:
        raise missing_package(error, where=where) from error
    try:
        return fromstring(content)
    except DefusedXmlException as error:
        raise BadInputError("declares entities of its own, which is refused", where=where) from error
    except (ParseError, ValueError, LookupError) as error:
        raise BadInputError(f"is not XML: {error}", where=where) from error


def _tag(element: Any) -> str:
    """The name without its namespace; comments and instructions have none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _first(article: Any, name: str) -> Any:
    meta = next((e for e in article.iter() if _tag(e) == "article-meta"), None)
    return None if meta is None else next((e for e in meta.iter() if _tag(e) == name), None)


def _parts(article: Any, holder: str) -> list[Any]:
    """Abstracts of the article's own head, or its body; not those of replies and comments below it."""
    places = [e for e in article if _tag(e) in ("front", "body")]
    if holder == "body":
        return [e for e in places if _tag(e) == "body"]
    return [e for place in places if _tag(place) == "front" for e in place.iter() if _tag(e) == "abstract"]


def _paragraphs(part: Any) -> list[Any]:
    found, waiting = [], [part]
    while waiting:
        element = waiting.pop()
        if _tag(element) in _LEFT_OUT:
            continue
        if _tag(element) == "p":
            found.append(element)
        else:
            waiting.extend(reversed(element))
    return found


def _plain(element: Any) -> str:
    pieces: list[str] = []
    _gather(element, pieces)
    text = _EMPTY_BRACKETS.sub("", _CITED.sub("", normalize("NFKC", "".join(pieces))))
    return _BEFORE_MARK.sub(r"\1", " ".join(text.split()))


def _gather(element: Any, pieces: list[str]) -> None:
    """Texts in their order. A stack of its own: XML may be nested deeper than calls."""
    waiting: list[Any] = [element]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        name = _tag(item)
        if name == "xref" and item.get("ref-type") in _CITATIONS:
            pieces.append(_MARKER)
        elif name and name not in _LEFT_OUT:
            for child in reversed(item):
                waiting.extend((child.tail or "", child))
            # A paragraph or an item within begins anew.
            pieces.append((" " if name in ("p", "list-item", "title", "break") else "") + (item.text or ""))
