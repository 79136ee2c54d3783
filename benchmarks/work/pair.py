"""A target and a draft, trained here: the target on text, the draft on what the target makes of that text.

Both are llamas over bytes. The text is cut in three: the target and the draft see the first part only, costs are
measured on the second, and what is reported on the third. No weight is touched but by training.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from work.fleet import Shape

BYTES = 128
"""Vocabulary: the log is ASCII."""
TARGET = Shape(vocab=BYTES, hidden=1024, layers=2, heads=16, ffn=2816, positions=512)
DRAFT = Shape(vocab=BYTES, hidden=128, layers=1, heads=2, ffn=352, positions=512)
WINDOW = 192
"""Bytes of text that a training example holds; prompts and answers together stay below it."""
PROMPT = 48


@dataclass(frozen=True)
class Training:
    """How much of it."""

    target: Shape = TARGET
    draft: Shape = DRAFT
    steps: int = 120
    draft_steps: int = 500
    batch: int = 6
    lessons: int = 256
    """Pieces of training text, and as many continuations of it by the target, from which the draft learns."""


FULL = Training()
QUICK = Training(
    replace(TARGET, hidden=128, heads=4, ffn=344), replace(DRAFT, hidden=64, ffn=160), steps=30, draft_steps=30,
    batch=3, lessons=16,
)  # fmt: skip


class Trainer:
    """Makes the pair's folders. A class, so that it can run in a process of its own (``work.side``)."""

    def train(self, text: bytes, out: Path, training: Training, seed: int) -> Mapping[str, float]:
        """Write ``target``, ``draft`` and ``random`` (the draft's shape, untrained) below ``out``.

        Returns losses and sizes. A pair that is in ``out`` already is taken as it is.
        """
        told = out / "trained.json"
        if told.exists():
            found: dict[str, float] = json.loads(told.read_text())
            return found
        torch.manual_seed(seed)
        rng = torch.Generator().manual_seed(seed)
        learnt, _, held_out = (_tensor(part) for part in parts(text))
        random_draft = _model(training.draft)
        _save(random_draft, out / "random")
        target = _model(training.target)

        def text_batch() -> Tensor:
            return _windows(learnt, training.batch, WINDOW, rng)

        _fit(target, training.steps, 5e-4, lambda: _next_token(target, text_batch()))
        target.eval()
        own = _continue(target, _windows(learnt, training.lessons, PROMPT, rng), WINDOW - PROMPT)
        lessons = torch.cat([own, _windows(learnt, training.lessons, WINDOW, rng)])
        with torch.no_grad():
            wanted = torch.cat([target(rows).logits.log_softmax(-1) for rows in lessons.split(32)])
        draft = _model(training.draft)

        def imitate() -> Tensor:
            chosen = torch.randint(0, len(lessons), (2 * training.batch,), generator=rng)
            said = draft(lessons[chosen]).logits.log_softmax(-1)
            return F.kl_div(said.flatten(0, 1), wanted[chosen].flatten(0, 1), log_target=True, reduction="batchmean")

        _fit(draft, training.draft_steps, 3e-3, imitate)
        draft.eval()
        _save(target, out / "target")
        _save(draft, out / "draft")
        fresh = _windows(held_out, 16, WINDOW, rng)
        with torch.no_grad():
            losses = {name: float(_next_token(m, fresh)) for name, m in (("target", target), ("draft", draft))}
        result = {
            **{f"held-out loss of the {name}, nats per byte": round(loss, 4) for name, loss in losses.items()},
            **{f"parameters of the {n}": float(sum(p.numel() for p in m.parameters()))
               for n, m in (("target", target), ("draft", draft))},
        }  # fmt: skip
        told.write_text(json.dumps(result))
        return result


def parts(text: bytes) -> tuple[bytes, bytes, bytes]:
    """To learn from, to measure costs on, to report on: in the text's own order, so that the last is the future."""
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    return text[:first], text[first:second], text[second:]


def prompts_of(text: bytes, count: int, seed: int) -> list[list[int]]:
    """``count`` pieces of PROMPT bytes of a text, as tokens."""
    rng = random.Random(seed)
    return [list(text[at : at + PROMPT]) for at in (rng.randrange(len(text) - PROMPT) for _ in range(count))]


def _tensor(text: bytes) -> Tensor:
    return torch.tensor(list(text), dtype=torch.long)


def _windows(text: Tensor, count: int, length: int, rng: torch.Generator) -> Tensor:
    starts: Sequence[int] = torch.randint(0, len(text) - length, (count,), generator=rng).tolist()
    return torch.stack([text[at : at + length] for at in starts])


def _model(shape: Shape) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**{k: v for k, v in shape.config().items() if k != "architectures"}))


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True)


def _next_token(model: Any, rows: Tensor) -> Tensor:
    return F.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())


def _fit(model: Any, steps: int, rate: float, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        share = min(1.0, (step + 1) / 20) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        value = loss()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def _continue(model: Any, prompts: Tensor, count: int) -> Tensor:
    """Greedy continuations, 64 at a time."""
    done = [
        model.generate(
            rows, attention_mask=torch.ones_like(rows), max_new_tokens=count, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )
        for rows in prompts.split(64)
    ]  # fmt: skip
    return torch.cat(done)
