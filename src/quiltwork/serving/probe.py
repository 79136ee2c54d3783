"""What substitutions cost a model on a text, measured through the executors that serve it.

The text is cut in two by its tokens, in order: the first half decides, the second is only reported. So the figure that
is told of a decision is on text that had no part in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.layers.protocol import PAGE_TOKENS, PagedKV, Runs
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.kv import KVCache, KVShape
from quiltwork.serving.roster import Roster, placement
from quiltwork.serving.route import Link, Served
from quiltwork.serving.text import TextCodec
from quiltwork.serving.weights import Read
from quiltwork.zoo.equivalence import UNCHANGED, Quality, Swap, substituted
from quiltwork.zoo.types import Chain

REFERENCE_BYTES = 1 << 28
"""Up to here the exact model's logits are kept from one measurement to the next; above, they are computed again."""


@dataclass(frozen=True, eq=False)
class ProbeText:
    """A text in two halves that do not overlap, each as (windows, tokens) int64 ids.

    Every window begins with what the tokenizer puts before a prompt; that is context, never predicted.
    """

    deciding: Tensor
    judging: Tensor
    prefix: int
    """Tokens of each window that are only context."""
    digest: str
    """sha256 of the text."""

    def predicted(self, windows: Tensor) -> int:
        """How many tokens of these windows are predicted."""
        return int(windows.shape[0] * (windows.shape[1] - max(self.prefix, 1)))


def split_probe(text: str, codec: TextCodec, *, window: int, tokens: int, where: str) -> ProbeText:
    """Cut a text in two halves, and each into windows of ``window`` tokens.

    tokens : at most so many of each half, in windows that are spread evenly over it.
    Raises BadInputError naming ``where`` where there is not a whole window in each half.
    """
    for name, value, least in (("window", window, 2), ("tokens", tokens, window)):
        if value < least:
            raise BadInputError(f"{value} is less than {least}", where=name)
    if not text.strip():
        raise BadInputError("is empty", where=where)
    ids = codec.encode(text, add_special_tokens=False, where=where)
    prefix = codec.encode("", where=where)
    middle = len(ids) // 2
    if middle < window:
        raise BadInputError(
            f"has {len(ids)} tokens: too short to decide on one half and judge by the other; "
            f"at least {2 * window} are needed",
            where=where,
        )
    halves = []
    for half in (ids[:middle], ids[middle:]):
        count = min(len(half) // window, tokens // window)
        starts = [i * (len(half) - window) // max(count - 1, 1) for i in range(count)]
        halves.append(torch.tensor([[*prefix, *half[at : at + window]] for at in starts], dtype=torch.int64))
    return ProbeText(halves[0], halves[1], len(prefix), hashlib.sha256(text.encode()).hexdigest())


def whole(ids: Tensor) -> Runs:
    """The runs of (sequences, tokens) ids that all start at position 0."""
    count, length = ids.shape
    return Runs(
        positions=torch.arange(length, device=ids.device).repeat(count),
        starts=torch.arange(count + 1, dtype=torch.int32) * length,
        lengths=torch.full((count,), length, dtype=torch.int32),
    )


def forward(links: Sequence[Link], ids: Tensor, pools: Pools) -> Iterator[Tensor]:
    """Run whole sequences through loaded links as one batch; gives what comes out of each link, (rows, ...).

    ids : (sequences, tokens) int64.
    """
    runs = whole(ids)
    x = ids.flatten()
    for link in links:
        x = through(link, x, runs, pools)
        yield x


def through(link: Link, x: Tensor, runs: Runs, pools: Pools) -> Tensor:
    """One link on a batch of whole sequences."""
    gathered = None
    if link.attached is not None:
        gathered = link.executor.gather([link.attached] * runs.sequences, [1.0] * runs.sequences, runs)
    kv = None if link.kv_shape is None else pools.window(link.kv_shape, runs)
    return link.executor(x, runs, kv, gathered)


class Pools:
    """Pages for one attention block at a time: the next one writes over them."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._pools: dict[tuple[KVShape, int], Tensor] = {}

    def window(self, shape: KVShape, runs: Runs) -> PagedKV:
        """Room for all keys and values of a batch."""
        each = -(-int(runs.lengths.max()) // PAGE_TOKENS)
        pages = each * runs.sequences
        if (shape, pages) not in self._pools:
            size = (pages, 2, shape.num_kv_heads, PAGE_TOKENS, shape.head_dim)
            self._pools[shape, pages] = torch.empty(size, dtype=self._dtype, device=self._device)
        table = torch.arange(pages, dtype=torch.int32).view(runs.sequences, each)
        return PagedKV(self._pools[shape, pages], table)


class Probe:
    """A model loaded for measuring, itself and with parts replaced.

    Holds the exact model, the replacements of the last measurement, and what is kept of the exact model's logits. Use
    it in a ``with`` statement. Raises UnsupportedError for a model that cannot be executed, or has virtual tokens.

    config : device and precision; the rest of it is not looked at.
    batch : windows that are run at once.
    """

    def __init__(self, chain: Chain, read: Read, config: EngineConfig, *, batch: int = 8) -> None:
        self._where, self._read, self._batch = placement(config), read, batch
        cache = KVCache(0, self._where.dtype, self._where.device)
        self._roster = Roster(config, self._where, cache)
        self.pools = Pools(self._where.device, self._where.dtype)
        self._replaced: Served | None = None
        self.exact = self._roster.prepare(chain, read)
        if self.exact.virtual_tokens:
            self._release(self.exact)
            raise UnsupportedError("brings virtual tokens: it is not measured", where=str(chain.model.ref))
        self._kept: list[tuple[Tensor, list[Tensor]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for served in (self.exact, self._replaced):
            if served is not None:
                self._release(served)

    def require_room(self, windows: Tensor) -> None:
        """Raise BadInputError where (n, tokens) windows are longer than the model can read."""
        if windows.shape[1] > self.exact.max_len:
            what = f"{windows.shape[1]} tokens are more than the {self.exact.max_len} that the model reads"
            raise BadInputError(what, where="window")

    def require_finite(self, windows: Tensor, prefix: int) -> None:
        """Raise BadInputError where the exact model's own loss on (n, tokens) windows is not a number."""
        if not math.isfinite(self.loss(windows, prefix)):
            what = "its loss on the text is not a number"
            raise BadInputError(what, where=str(self.exact.chain.model.ref), hint="are all its weights finite?")

    def batches(self, windows: Tensor) -> Iterator[Tensor]:
        """Windows (n, tokens), as many at a time as are run at once, on the model's device."""
        for ids in torch.split(windows, self._batch):
            yield ids.to(self._where.device)

    def measure(self, windows: Tensor, prefix: int, swaps: Sequence[Swap]) -> Quality:
        """The model with these substitutions against itself, on (n, tokens) windows.

        Raises UnsupportedError or BadInputError naming a replacement that cannot be executed in its place.
        """
        if not swaps:
            return UNCHANGED
        links = self._replace(swaps).links
        total = torch.zeros(3, dtype=torch.float64)
        count = 0
        for ids, theirs in self._reference(windows, prefix):
            total += _compare(_logits(links, ids, prefix, self.pools), theirs, _goal(ids, prefix)).cpu()
            count += theirs.shape[0]
        delta, kl, same = (total / count).tolist()
        return Quality(delta, kl, same)

    def loss(self, windows: Tensor, prefix: int) -> float:
        """The exact model's own loss on windows (n, tokens), in nats per token."""
        total, count = 0.0, 0
        for ids, logits in self._reference(windows, prefix):
            total += float(F.cross_entropy(logits, _goal(ids, prefix), reduction="sum"))
            count += logits.shape[0]
        return total / count

    @torch.inference_mode()
    def _reference(self, windows: Tensor, prefix: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ids and the exact model's logits (rows, vocabulary) of their predicted tokens."""
        kept = next((logits for known, logits in self._kept if known is windows), None)
        if kept is not None:
            yield from zip(self.batches(windows), kept, strict=True)
            return
        made: list[Tensor] = []
        rows = windows.shape[0] * windows.shape[1]
        keep = 4 * rows * self.exact.vocab_size <= REFERENCE_BYTES
        for ids in self.batches(windows):
            logits = _logits(self.exact.links, ids, prefix, self.pools)
            if keep:
                made.append(logits)
            yield ids, logits
        if keep:
            self._kept.append((windows, made))

    def _replace(self, swaps: Sequence[Swap]) -> Served:
        chain = self.exact.chain
        parts = substituted(chain.links, swaps)
        served = self._roster.prepare(Chain(chain.model, parts), self._read)
        # What both have in common is held all along, and not loaded again.
        before, self._replaced = self._replaced, served
        if before is not None:
            self._release(before)
        return served

    def _release(self, served: Served) -> None:
        for block, part in zip(served.loaded, served.chain.links, strict=True):
            self._roster.library.detach(block, part.attachments)
            self._roster.library.release(block)


def _goal(ids: Tensor, prefix: int) -> Tensor:
    return ids[:, max(prefix, 1) :].flatten()


@torch.inference_mode()
def _logits(links: Sequence[Link], ids: Tensor, prefix: int, pools: Pools) -> Tensor:
    """(rows, vocabulary) float32 for every predicted token of (n, tokens) windows."""
    x = ids
    for x in forward(links, ids, pools):  # noqa: B007 - the last one is the head's
        pass
    return x.view(*ids.shape, -1)[:, max(prefix, 1) - 1 : -1].flatten(0, 1).float()


@torch.inference_mode()
def _compare(ours: Tensor, theirs: Tensor, goal: Tensor) -> Tensor:
    """(3,) float64 sums over rows: loss above theirs, KL(theirs || ours), equal most likely tokens."""
    a, b = F.log_softmax(ours, -1), F.log_softmax(theirs, -1)
    chosen = goal[:, None]
    delta = (b.gather(1, chosen) - a.gather(1, chosen)).double().sum()
    kl = (b.exp() * (b - a)).sum(-1).double().sum()
    return torch.stack([delta, kl, (ours.argmax(-1) == theirs.argmax(-1)).double().sum()])
