"""Keys and values on their way from one agent to another: segment by segment, in pieces, each with a checksum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from blake3 import blake3

from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.message import AskKV, Pages
from quiltwork.serving.agents.session import Session, allocate
from quiltwork.serving.kv import KVCache

PIECE_BYTES = 1 << 19
"""Bytes of pages in one message at most, so that others' work passes between them."""


def read_pages(session: Session | None, ask: AskKV, segment: int) -> Iterator[Pages]:
    """The pages of one segment as messages; one without any where they are not here (any more)."""
    if session is None or not session.layout.holds(segment) or session.has(segment) < ask.tokens:
        yield Pages(ask.request, ask.epoch, segment, 0, 0, torch.empty(0), "")
        return
    here = session.layout.route[segment]
    if here.pool is None:
        yield Pages(ask.request, ask.epoch, segment, ask.tokens, 0, torch.empty(0), _checksum(torch.empty(0)))
        return
    pages = -(-ask.tokens // PAGE_TOKENS)
    at_once = max(PIECE_BYTES // (here.kv_blocks * here.pool.page_bytes), 1)
    for first in range(0, pages, at_once):
        runs = session.seq.runs[segment][first : min(first + at_once, pages)]
        numbers = torch.tensor([run.pages for run in runs])
        rows = here.pool.tensor[numbers.to(here.pool.tensor.device)].cpu()
        yield Pages(ask.request, ask.epoch, segment, ask.tokens, first, rows, _checksum(rows))


def put_pages(session: Session, cache: KVCache, pages: Pages) -> bool | None:
    """Take a piece in: whether the segment is complete now; None where it cannot be (absent, damaged, no memory)."""
    segment = session.layout.route[pages.segment]
    expected = session.coming.get(pages.segment)
    if pages.tokens == 0 or pages.page != expected or pages.checksum != _checksum(pages.rows):
        return None
    if segment.pool is None:
        del session.coming[pages.segment]
        return True
    if not allocate(session, cache, range(pages.segment, pages.segment + 1), pages.tokens):
        return None
    runs = session.seq.runs[pages.segment][pages.page : pages.page + pages.rows.shape[0]]
    numbers = torch.tensor([run.pages for run in runs]).to(segment.pool.tensor.device)
    segment.pool.tensor[numbers] = pages.rows.to(segment.pool.tensor)
    arrived = (pages.page + pages.rows.shape[0]) * PAGE_TOKENS
    session.coming[pages.segment] = pages.page + pages.rows.shape[0]
    if arrived < pages.tokens:
        return False
    del session.coming[pages.segment]
    session.ran(pages.segment, max(pages.tokens, session.ahead[pages.segment]))
    return True


def _checksum(rows: torch.Tensor) -> str:
    data = rows.contiguous().view(-1).view(torch.uint8).numpy().data if rows.numel() else b""
    return blake3(data).hexdigest(length=16)
