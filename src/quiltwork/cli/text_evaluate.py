"""``quiltwork text evaluate``: how well measures and models agree with what people say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from quiltwork.cli.output import emit, narration, table
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

if TYPE_CHECKING:
    from quiltwork.text.evaluate.candidates import Candidate
    from quiltwork.text.evaluate.contamination import Contamination
    from quiltwork.text.evaluate.correlation import Estimate
    from quiltwork.text.evaluate.gold import GoldSet, Numbers
    from quiltwork.text.evaluate.protocols import Spread
    from quiltwork.text.evaluate.report import SetReport

SHARE = 0.5
"""Of a gold sentence's runs of eight words: more in one line of the corpus is pointed at."""
_SHOWN = 5


@dataclass(frozen=True)
class _Model:
    """A model that is asked for: its name, its folder, whether it is pretrained."""

    name: str | None
    folder: str
    pretrained: bool


def evaluate(
    biosses: Annotated[
        Path | None, typer.Option(help="Folder with BIOSSES's files; the paper's scores of each pair, if there.")
    ] = None,
    ctr: Annotated[Path | None, typer.Option(help="Folder with ctr_similarity_corpus.csv.")] = None,
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Pairs of your own: CSV, TSV or Parquet; may be given again.")
    ] = None,
    first: Annotated[str, typer.Option(help="Column of the first sentence.")] = "sentence1",
    second: Annotated[str, typer.Option(help="Column of the second sentence.")] = "sentence2",
    score: Annotated[
        str | None, typer.Option(help="Column of the score; raters' mean if they are named instead.")
    ] = None,
    rater: Annotated[list[str] | None, typer.Option(help="Column of one rater's scores; may be given again.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Folder of a trained model, or NAME=FOLDER; may be given again.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="The same of a pretrained encoder; 'packaged' is the one of the extra [text]."),
    ] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="Compare all with this one; may be given again.")] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Training text to look for the gold sentences in; may be given again.")
    ] = None,
    ridge: Annotated[float, typer.Option(min=0, help="How strongly the regression's weights are drawn to 0.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Where all randomness comes from.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Draws of pairs for intervals.")] = 5_000,
    deals: Annotated[int, typer.Option(min=1, max=10_000, help="Ways to deal pairs into ten folds.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold measures of words, RapidFuzz's, models and means of them against pairs that people have rated: Pearson's r
    with its interval, Spearman's rho, differences from baselines, and a regression on them judged in three ways."""
    from quiltwork.text.evaluate.report import document
    from quiltwork.text.evaluate.report import evaluate as run

    golds = _golds(biosses, ctr, pairs or [], first, second, score, rater or [])
    asked = [_model(text, False) for text in model or []] + [_model(text, True) for text in encoder or []]
    with narration("evaluating") as say:
        candidates, hybrid = _candidates(asked)
        published = _published(biosses, golds)
        reports = run(golds, candidates, seed=seed, hybrid=hybrid, published=published, baselines=baseline or [],
                      resamples=resamples, deals=deals, ridge=ridge, say=say)  # fmt: skip
        say("looking for the gold sentences in the corpus")
        scans = _scans(golds, corpus or [])
    curve = _curve(asked, candidates, reports)
    told: dict[str, Json] = {
        "sets": [document(report) for report in reports],
        "hybrid": list(hybrid),
        "learning_curve": curve,
        "contamination": [_scan_document(name, scan) for name, scan in scans.items()],
    }
    shown: list[RenderableType] = []
    for report in reports:
        shown += _shown(report, hybrid)
    emit(told, json, *shown, *_curve_shown(curve, golds), *_scans_shown(scans))


def _golds(
    biosses: Path | None, ctr: Path | None, pairs: Sequence[Path], first: str, second: str, score: str | None,
    raters: Sequence[str],
) -> tuple[GoldSet, ...]:  # fmt: skip
    from quiltwork.text.evaluate.gold import read_biosses, read_ctr, read_pairs

    column = score if score is not None or raters else "score"
    golds = [read_biosses(biosses)] if biosses is not None else []
    golds += [read_ctr(ctr)] if ctr is not None else []
    golds += [read_pairs(path, first=first, second=second, score=column, raters=raters) for path in pairs]
    if not golds:
        raise BadInputError(
            "there is nothing to evaluate on", where="text evaluate", hint="--pairs, --biosses or --ctr"
        )
    names = [gold.name for gold in golds]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInputError(f"there are two sets {twice!r}", where="--pairs", hint="rename a file")
    return tuple(golds)


def _model(text: str, pretrained: bool) -> _Model:
    name, given, folder = text.partition("=")
    where = "--encoder" if pretrained else "--model"
    if not (folder if given else name) or (given and not name):
        raise BadInputError(f"{text[:80]!r} is neither a folder nor NAME=FOLDER", where=where)
    return _Model(name, folder, pretrained) if given else _Model(None, name, pretrained)


def _candidates(asked: Sequence[_Model]) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """All that is evaluated, and the names of those that a regression is fitted on: the strings' measure and models."""
    from quiltwork.text.evaluate.candidates import STRINGS, Candidate, fusions, string_candidates
    from quiltwork.text.evaluate.models import open_model
    from quiltwork.text.scorer import Cosine

    models = [
        Candidate("pretrained" if one.pretrained else "own", Cosine(open_model(one.folder, name=one.name)))
        for one in asked
    ]
    own, pretrained = ([c.scorer for c in models if c.kind == kind] for kind in ("own", "pretrained"))
    everything = (*string_candidates(), *models, *fusions(own, pretrained))
    return everything, (STRINGS, *(candidate.name for candidate in models))


def _published(biosses: Path | None, golds: Sequence[GoldSet]) -> Mapping[str, Mapping[str, Numbers]]:
    from quiltwork.text.evaluate.peers import PAPER_COLUMNS, PAPER_FILE, read_scores

    if biosses is None:
        return {}
    path = next((p for p in (biosses / PAPER_FILE, biosses / "biosses" / PAPER_FILE) if p.is_file()), None)
    if path is None:
        return {}
    scores = read_scores(path, PAPER_COLUMNS, len(golds[0]))
    return {golds[0].name: {f"Blagec {name}": values for name, values in scores.items()}}


def _curve(
    asked: Sequence[_Model], candidates: Sequence[Candidate], reports: Sequence[SetReport]
) -> list[dict[str, Json]]:
    """What the trained models reach, by how many words they were trained on; where there are several."""
    from quiltwork.text.evaluate.models import words_of

    names = [candidate.name for candidate in candidates if candidate.kind == "own"]
    folders = [one.folder for one in asked if not one.pretrained]
    if len(names) < 2:
        return []
    r = {(report.gold.name, line.name): line.r.value for report in reports for line in report.lines}
    rows: list[dict[str, Json]] = [
        {
            "model": name,
            "words": words_of(folder),
            **{report.gold.name: r[report.gold.name, name] for report in reports},
        }
        for name, folder in zip(names, folders, strict=True)
    ]
    return sorted(rows, key=lambda row: (row["words"] is None, row["words"] or 0))


def _scans(golds: Sequence[GoldSet], corpus: Sequence[Path]) -> dict[str, Contamination]:
    from quiltwork.text.evaluate.contamination import contamination

    if not corpus:
        return {}
    return {gold.name: contamination((s for pair in gold.pairs for s in pair), _sentences(corpus)) for gold in golds}


def _sentences(corpus: Sequence[Path]) -> Iterator[str]:
    from quiltwork.text.corpus import read_corpus

    for document in read_corpus(corpus):
        yield from document.sentences


def _scan_document(name: str, scan: Contamination) -> dict[str, Json]:
    return {
        "gold": name,
        "sentences": scan.sentences,
        "too_short": scan.short,
        "lines": scan.lines,
        "above_half": scan.above(SHARE),
        "worst": [
            {"sentence": hit.sentence, "share": hit.share, "line": hit.line, "text": hit.text}
            for hit in scan.hits[:_SHOWN]
        ],
    }


def _shown(report: SetReport, hybrid: Sequence[str]) -> list[RenderableType]:
    baselines = list(dict.fromkeys(name for line in report.lines for name in line.deltas))
    against = [f"vs {name}" for name in baselines]
    numbers = ("rank", "r", "rho", "unscored")
    made = table("scorer", "kind", "rank", "r", "95 % interval", "rho", "unscored", *against, numbers=numbers,
                 title=f"{report.gold.name}, {len(report.gold)} pairs")  # fmt: skip
    for line in report.lines:
        deltas = [_delta(line.deltas.get(name)) for name in baselines]
        made.add_row(line.name, report.kinds[line.name], str(line.rank), f"{line.r.value:.3f}", _span(line.r),
                     f"{line.rho:.3f}", str(line.unscored or ""), *deltas)  # fmt: skip
    shown: list[RenderableType] = [made, "Scorers share a rank where the pairs do not tell them apart.", ""]
    ablation = table("best of", "scorer", "r", numbers=("r",), title="What each kind reaches")
    for kind in ("strings", "own", "pretrained", "fused"):
        if (best := report.best(kind)) is not None:
            ablation.add_row(kind, best.name, f"{best.r.value:.3f}")
    shown += [ablation, ""]
    if report.protocols:
        shown += [_protocols(report, hybrid), ""]
    return shown


def _protocols(report: SetReport, hybrid: Sequence[str]) -> RenderableType:
    columns = ("P1 mean of folds", "P2 leave-one-out", "P2 pooled folds", "P3 fitted on", "P3", "in sample", "")
    made = table(*columns, numbers=("P2 leave-one-out", "P3", "in sample"),
                 title=f"{report.gold.name}: regression on {', '.join(hybrid)}")  # fmt: skip
    for other, p in report.protocols.items():
        transfer = "" if p.transfer is None else f"{p.transfer:.3f}"
        made.add_row(_spread(p.fold_means), f"{p.leave_one_out:.3f}", _spread(p.pooled), other or "", transfer,
                     f"{p.in_sample:.3f}", "overfitted" if p.overfitted else "")  # fmt: skip
    return made


def _curve_shown(curve: Sequence[Mapping[str, Json]], golds: Sequence[GoldSet]) -> Iterable[RenderableType]:
    if not curve:
        return
    names = [gold.name for gold in golds]
    made = table("model", "words", *names, numbers=("words", *names), title="By words of the training text")
    for row in curve:
        words = f"{row['words']:,}" if isinstance(row["words"], int) else "?"
        made.add_row(str(row["model"]), words, *(f"{row[name]:.3f}" for name in names))
    yield from (made, "")


def _scans_shown(scans: Mapping[str, Contamination]) -> Iterable[RenderableType]:
    for name, scan in scans.items():
        worst = f"; the worst {scan.hits[0].share:.0%}: {scan.hits[0].sentence[:80]!r}" if scan.hits else ""
        yield (
            f"{name}: {scan.above(SHARE)} of {scan.sentences} sentences have more than half of their runs of eight "
            f"words in one of {scan.lines:,} lines{worst}"
        )


def _delta(delta: Estimate | None) -> str:
    return "" if delta is None else f"{delta.value:+.3f} {_span(delta)}"


def _span(estimate: Estimate) -> str:
    return f"[{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.3f} [{spread.interval.low:.3f}, {spread.interval.high:.3f}]"
