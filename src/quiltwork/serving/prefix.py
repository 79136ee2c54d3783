"""Finding what of a sequence is computed already: page by page, and per page from which segment up it is missing."""

from __future__ import annotations

from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.execute import chain_key
from quiltwork.serving.kv import KVCache, PageRun, page_hash, salted
from quiltwork.serving.route import Route
from quiltwork.serving.sequence import Sequence


def extend_hashes(seq: Sequence) -> None:
    """Bring ``seq.page_hashes`` up to its complete pages.

    Pages wholly in a prompt marked public are hashed under a common salt, all others under the tenant's, so that no
    tenant can find out by timing what another one asked.
    """
    while (len(seq.page_hashes) + 1) * PAGE_TOKENS <= len(seq.tokens):
        page = len(seq.page_hashes)
        end = (page + 1) * PAGE_TOKENS
        before = seq.page_hashes[-1] if seq.page_hashes else salted(b"", "public" if seq.public_prefix else seq.tenant)
        if seq.public_prefix and end > seq.prompt_len and page * PAGE_TOKENS <= seq.prompt_len:
            before = salted(before, seq.tenant)
        seq.page_hashes.append(page_hash(before, seq.tokens[end - PAGE_TOKENS : end]))


def missing_from(cache: KVCache, seq: Sequence, route: Route, page: int) -> tuple[int, list[PageRun | None]]:
    """The segment from which page ``page`` must be computed, and the runs found below it (not yet held).

    ``len(route)`` means nothing is missing. Starting above the bottom needs the keys and values of all segments below
    and the hidden state that left the one directly below.
    """
    found: list[PageRun | None] = []
    start = 0
    for hop, segment in enumerate(route):
        if segment.kv_blocks == 0:
            found.append(None)
            continue
        run = cache.find((seq.page_hashes[page], chain_key(seq, segment)))
        if run is None:
            return start, found[:start]
        found.append(run)
        if run.activation is not None:
            start = hop + 1
    return len(route), found


def found_tokens(cache: KVCache, seq: Sequence, route: Route) -> int:
    """Leading tokens that need no computing on a way through a chain; takes and counts nothing."""
    pages = 0
    while pages < reusable_pages(seq) and missing_from(cache, seq, route, pages)[0] == len(route):
        pages += 1
    return pages * PAGE_TOKENS


def reusable_pages(seq: Sequence) -> int:
    """How many leading pages may be taken from the cache: at least one token must be computed, for its logits."""
    if seq.prompt_logprobs is not None:
        return 0
    return min((len(seq.tokens) - 1) // PAGE_TOKENS, len(seq.page_hashes))
