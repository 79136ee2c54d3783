"""The figures of a training's result: it reads a text, and its course is told again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.core.servable import Json
from quiltwork.moe.models import CLASSIFY, LM, moe_layers
from quiltwork.moe.report.figures import Course, Figures
from quiltwork.moe.report.reading import Sample, read
from quiltwork.moe.text_files import read_lines, read_text
from quiltwork.moe.training.corpus import Row, read_rows, read_running_text
from quiltwork.moe.training.result import TrainingResult, reading_again
from quiltwork.moe.training.settings import TrainingSettings
from quiltwork.moe.training.tokens import Codec

TOKENS = 6000
"""Read and shown, if not told otherwise."""


def figures_of(result: TrainingResult, text: Path | None = None, *, tokens: int = TOKENS) -> Figures:
    """Let the model read a text, else the beginning of what it was validated on.

    tokens : about so many are read. Raises BadInputError or NotFoundError naming what is wrong.
    """
    if tokens < 2:
        raise BadInputError(f"{tokens} tokens are nothing to read", where="tokens")
    settings, layers = result.settings, moe_layers(result.model)
    if not layers:
        raise BadInputError("has no layer of experts", where=str(result.folder), hint="a dense model has none to show")
    samples = _samples(result, text, tokens)
    most = settings.experts if settings.gate == "expert_choice" else settings.most
    reading = read(result.model, result.codec, samples, most=most, size=settings.micro_batch or settings.batch)
    totals = [int(row.sum()) for row in reading.shares]
    return Figures(
        title=result.folder.resolve().name,
        facts=_facts(result, text),
        most=most,
        shares=tuple(tuple((row / total).tolist()) for row, total in zip(reading.shares, totals, strict=True)),
        load=tuple(tuple(row.tolist()) for row in reading.load),
        pieces=tuple(reading.pieces),
        tokens=reading.tokens,
        loss=reading.nats / reading.told if reading.told else None,
        flops={
            "model": reading.flops.total / reading.tokens,
            "most": reading.flops_most.total / reading.tokens,
            "experts": reading.flops.experts / reading.tokens,
        },
        course=course_of(result.report),
        target=settings.target_experts[0] if len(settings.target_experts) == 1 else None,
    )


def _samples(result: TrainingResult, text: Path | None, tokens: int) -> list[Sample]:
    settings, codec = result.settings, result.codec
    if settings.task == LM:
        whole = _validated_text(settings) if text is None else read_text(str(text), settings.encoding)
        return _windows(whole, codec, settings.length, tokens)
    if settings.task == CLASSIFY:
        rows = _validated_rows(settings) if text is None else _lines(text, settings)
        return _until(tokens, [Sample(_ids(codec, row[0], settings.length)) for row in rows[:tokens]])
    if text is not None:
        what = "a translation is of two texts: only the pairs it was validated on can be shown"
        raise UnsupportedError(what, where="text")
    rows = _validated_rows(settings)[:tokens]
    return _until(tokens, [_pair(codec, row, settings.length) for row in rows])


def _validated_text(settings: TrainingSettings) -> str:
    with reading_again():
        return read_running_text(settings).valid


def _validated_rows(settings: TrainingSettings) -> tuple[Row, ...]:
    with reading_again():
        return read_rows(settings).valid.rows


def _windows(text: str, codec: Codec, length: int, tokens: int) -> list[Sample]:
    """Running text in windows that overlap by a token, which is told by one and read by the next."""
    # No token is longer than a line of text; what is behind need not be cut into tokens.
    ids = torch.from_numpy(codec.encode([text[: 64 * tokens]])[0]).long()[: tokens + 1]
    found = [Sample(ids[at : at + length + 1], follows=at > 0) for at in range(0, len(ids) - 1, length)]
    if not found:
        raise BadInputError("has less than two tokens", where="text")
    return found


def _lines(text: Path, settings: TrainingSettings) -> tuple[Row, ...]:
    found = tuple((line, "") for line in read_lines(str(text), settings.encoding) if line.strip())
    if not found:
        raise BadInputError("has no line that is not blank", where=str(text))
    return found


def _ids(codec: Codec, text: str, length: int) -> torch.Tensor:
    return torch.from_numpy(codec.encode([text])[0][:length]).long()


def _pair(codec: Codec, row: Row, length: int) -> Sample:
    """As it was learned: the source with an end, the target between a begin and an end."""
    begin, end = torch.tensor([codec.begin]), torch.tensor([codec.end])
    source, target = (_ids(codec, text, length - 1) for text in row)
    return Sample(torch.cat([source, end]), torch.cat([begin, target, end]))


def _until(tokens: int, samples: list[Sample]) -> list[Sample]:
    """The first ones, up to so many tokens; one at least."""
    taken: list[Sample] = []
    so_far = 0
    for sample in samples:
        so_far += len(sample.ids) + (0 if sample.target is None else len(sample.target) - 1)
        if taken and so_far > tokens:
            break
        taken.append(sample)
    return taken


def course_of(report: Mapping[str, Json]) -> Course | None:
    """Of the points of a training's curve; None where there are none with experts."""
    curve = report.get("curve")
    points = [point for point in curve if isinstance(point, dict)] if isinstance(curve, list) else []
    told = [point for point in points if point.get("experts_per_token") and "train_loss" in point]
    if not told:
        return None
    return Course(
        steps=tuple(int(point["step"]) for point in told),
        loss=tuple(float(point["train_loss"]) for point in told),
        experts=tuple(tuple(float(k) for k in point["experts_per_token"]) for point in told),
        held_out_steps=tuple(int(point["step"]) for point in points),
        held_out=tuple(float(point["valid_loss"]) for point in points),
    )


def _facts(result: TrainingResult, text: Path | None) -> dict[str, str]:
    settings = result.settings
    gate = settings.gate
    if gate == "adaptive":
        gate += f", {settings.reading} reading, threshold {settings.threshold:g}"
    asked = {"target_experts": ", ".join(f"{k:g}" for k in settings.target_experts),
             "budget_flops": settings.budget_flops, "budget_bytes": settings.budget_bytes}  # fmt: skip
    gate += "".join(f" to begin with, {name.replace('_', ' ')} {value}" for name, value in asked.items() if value)
    facts = {
        "task": settings.task,
        "gate": gate,
        "text read": "the beginning of what it was validated on" if text is None else text.name,
        "learned from": ", ".join(Path(path).name for path in settings.corpus),
        "tokens": settings.tokenizer,
        "steps": f"{result.report.get('steps')} of {settings.batch} samples of up to {settings.length} tokens",
    }
    test = result.report.get("test")
    if isinstance(test, dict):
        facts["test"] = ", ".join(f"{name.replace('_', ' ')} {float(value):.4f}" for name, value in test.items())
    return facts
