"""What may be asked about: lists of texts."""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.core.errors import BadInputError


def require_texts(sentences: Sequence[str]) -> Sequence[str]:
    """Give them back. Raises BadInputError for one text instead of a list, and for what is no text."""
    if isinstance(sentences, str):
        raise BadInputError("must be a list of sentences, not one text", where="sentences")
    for index, one in enumerate(sentences):
        if not isinstance(one, str):
            raise BadInputError(f"must be text, not {type(one).__name__}", where=f"sentence {index + 1}")
    return sentences
