"""What a prompt was worth to the model: the log-probability of each of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from quiltwork.serving.execute import Work
from quiltwork.serving.sampling import Sampled


def report_prompt(work: Work, logits: Tensor) -> None:
    """Record each prompt token's log-probability from the row before it: logits (count, vocabulary)."""
    seq = work.seq
    assert seq.prompt_logprobs is not None
    first = seq.prompt_len - len(seq.prompt)
    if not seq.prompt_report and work.start >= first:
        seq.prompt_report.append(None)
    logprobs = torch.log_softmax(logits, dim=-1)
    for row, position in enumerate(range(work.start + 1, work.start + work.count + 1)):
        if not first <= position < seq.prompt_len:
            continue
        token = seq.tokens[position]
        values, ids = torch.topk(logprobs[row], min(seq.prompt_logprobs, logits.shape[-1]))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        seq.prompt_report.append(Sampled(token, float(logprobs[row, token]), top))
