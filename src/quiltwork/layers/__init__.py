"""Arithmetic on blocks of many sequences at once. torch and numba only; knows neither models nor servers.

An executor holds one block's weights and runs it on the rows of many sequences, each with its own attachments. The
seam to whoever schedules is ``protocol``; the words for blocks and attachments are in docs/blocks.md.
"""

from quiltwork.layers.attachments import Attached, PartBatch
from quiltwork.layers.attention_block import attention_executor
from quiltwork.layers.embed_block import embed_executor
from quiltwork.layers.ffn_block import ffn_executor
from quiltwork.layers.head_block import head_executor
from quiltwork.layers.protocol import (
    PAGE_TOKENS,
    Executor,
    ExecutorFactory,
    Gathered,
    LoadedAttachment,
    PagedKV,
    Placement,
    Runs,
    Weights,
)
from quiltwork.layers.stitch_block import stitch_executor

__all__ = [
    "PAGE_TOKENS",
    "Attached",
    "Executor",
    "ExecutorFactory",
    "Gathered",
    "LoadedAttachment",
    "PagedKV",
    "PartBatch",
    "Placement",
    "Runs",
    "Weights",
    "attention_executor",
    "embed_executor",
    "ffn_executor",
    "head_executor",
    "stitch_executor",
]
