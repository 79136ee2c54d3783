"""How well fused scores agree with what people say: BIOSSES, on which nothing was chosen, and CTR, on which all was.

Every choice is in ``work/text_choices.json``, whose digest is checked and printed. Unsupervised scores are plain means:
of a measure of words, tf-idf counted on the corpora, and word vectors trained on them (three seeds; figures are their
mean); and of that mean with all-MiniLM-L6-v2. The regression is on the same two; on BIOSSES it is judged as the paper
did (P1, for comparison only) and fitted on CTR alone (P3), and in the rows also the ways between. The
interval is one that is to cover 90 % in nine of ten fits; on average over fits it covers more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from quiltwork.text.evaluate.gold import GoldSet
    from quiltwork.text.evaluate.protocols import Protocols

OWN_BIOSSES, OWN_CTR = "text.unsupervised_biosses", "text.unsupervised_ctr"
ENCODER_BIOSSES, ENCODER_CTR = "text.with_encoder_biosses", "text.with_encoder_ctr"
P1, P3, COVERAGE = "text.p1_protocol", "text.p3_transfer", "text.conformal_coverage"
OWN = "words, tf-idf, vectors trained here; no pretrained weights, no labels"


def claimed(name: str, title: str, reach: float, unit: str = "r") -> Claim:
    """A figure that is itself the ratio: the baseline is 1."""
    return Claim(name=name, room="text", title=title, reach=at_least(reach), ratio="ours/baseline", unit=unit)


CLAIMS = (
    claimed(OWN_BIOSSES, f"r on BIOSSES: {OWN} (paper's best unsupervised .846)", 0.88),
    claimed(OWN_CTR, f"r on CTR (development): {OWN}", 0.85),
    claimed(ENCODER_BIOSSES, "r on BIOSSES: the same + all-MiniLM-L6-v2, no labels (paper's supervised .871)", 0.90),
    claimed(ENCODER_CTR, "r on CTR (development): the same + all-MiniLM-L6-v2, no labels", 0.885),
    claimed(P1, "mean r of ten stratified folds of BIOSSES, a regression on the same scores (paper .871)", 0.905),
    claimed(P3, "r on BIOSSES of a regression on the same scores that was fitted on CTR", 0.895),
    claimed(COVERAGE, "share of BIOSSES's ratings in CTR's 90 % interval (confidence .9)", 0.85, "of pairs"),
)
RESAMPLES, DEALS = 5_000, 100
FEW = 10
"""Of those, a quick run takes this part."""
Figures = dict[str, list[float]]


def run(context: Context) -> Mapping[str, Outcome]:
    """Each seed's vectors with everything else; figures are means over seeds."""
    from quiltwork.text.evaluate.gold import read_biosses, read_ctr
    from work.text_fusion import fixed_scorers, frozen, trained_folders

    if context.data is None:
        raise NotFoundError("needs the gold sets", where="text", hint="set QUILTWORK_DATA to the folder of real data")
    choices, digest = frozen()
    folders = trained_folders(choices)
    golds = {gold.name: gold for gold in (read_biosses(context.data / "text"), read_ctr(context.data / "text"))}
    scorers = fixed_scorers(choices, context.data, context.progress)
    context.progress("measures of words and the encoder")
    fixed = {name: {part: s(gold.pairs) for part, s in scorers.items()} for name, gold in golds.items()}
    figures: Figures = {}
    rows: list[Mapping[str, Json]] = []
    for seed, folder in list(folders.items())[: 1 if context.quick else None]:
        context.progress(f"vectors of seed {seed}")
        rows += _one_seed(context, choices, golds, fixed, seed, folder, figures)
    rows += [{"table": "mean of the seeds", "figure": name, "seeds": len(values), "mean": round(fmean(values), 4),
              "least": round(min(values), 4), "most": round(max(values), 4)}
             for name, values in figures.items()]  # fmt: skip
    details: dict[str, Json] = {"choices": digest, "seeds": list(folders)}
    return {claim.name: Outcome([fmean(figures[claim.name])], [1.0], details=details, rows=rows) for claim in CLAIMS}


def _one_seed(
    context: Context, choices: Mapping[str, Any], golds: Mapping[str, GoldSet],
    fixed: Mapping[str, Mapping[str, Any]], seed: int, folder: Path, figures: Figures,
) -> list[Mapping[str, Json]]:  # fmt: skip
    """Notes the figures of one seed, and returns its rows."""
    from quiltwork.text.evaluate.correlation import pearson
    from quiltwork.text.evaluate.peers import PAPER_COLUMNS, PAPER_FILE, read_scores
    from work.text_figures import rows_of
    from work.text_fusion import vectors, with_recipes

    assert context.data is not None
    scorer = vectors(choices, folder)
    parts = {name: with_recipes(choices, {**fixed[name], "vectors": scorer(gold.pairs)})
             for name, gold in golds.items()}  # fmt: skip
    rows: list[Mapping[str, Json]] = []
    resamples = RESAMPLES // FEW if context.quick else RESAMPLES
    for name, gold in golds.items():
        biosses = name == "BIOSSES"
        file = context.data / "text" / "biosses" / PAPER_FILE
        authors = read_scores(file, PAPER_COLUMNS, len(gold)) if biosses else {}
        for recipe, claim in (("unsupervised", OWN_BIOSSES if biosses else OWN_CTR),
                              ("with_encoder", ENCODER_BIOSSES if biosses else ENCODER_CTR)):  # fmt: skip
            note(figures, claim, pearson(parts[name][recipe], gold.gold))
        note(figures, f"vectors alone, {name}", pearson(np.nan_to_num(parts[name]["vectors"]), gold.gold))
        told = rows_of(gold, parts[name], authors, context.seed, resamples)
        rows += [{**row, "table": f"{row['table']}, seed {seed}"} for row in told]
    rows += _supervised(context, choices, golds, parts, seed, figures)
    return rows + _conformal(choices, golds, parts, seed, figures)


def _supervised(
    context: Context, choices: Mapping[str, Any], golds: Mapping[str, GoldSet],
    parts: Mapping[str, Mapping[str, Any]], seed: int, figures: Figures,
) -> list[Mapping[str, Json]]:  # fmt: skip
    """The regression on either set, all protocols, and what else it might have been on."""
    from quiltwork.text.evaluate.protocols import judged

    deals = range(DEALS // FEW if context.quick else DEALS)
    rows: list[Mapping[str, Json]] = []
    for name, other in (("BIOSSES", "CTR"), ("CTR", "BIOSSES")):
        features = [str(one) for one in choices["hybrid"]]
        ours, theirs = (np.stack([parts[held][f] for f in features], axis=1) for held in (name, other))
        found = judged(features, ours, golds[name].gold, seeds=deals, ridge=choices["ridge"],
                       other=(theirs, golds[other].gold))  # fmt: skip
        rows.append(_protocol_row(name, other, features, seed, found))
        if name == "BIOSSES":
            note(figures, P1, found.fold_means.mean)
            note(figures, P3, found.transfer)
        else:
            note(figures, "P3, BIOSSES -> CTR", found.transfer)
        note(figures, f"P2 leave-one-out, {name}", found.leave_one_out)
    return rows


def _protocol_row(name: str, other: str, features: Sequence[str], seed: int, found: Protocols) -> Mapping[str, Json]:
    low, high = found.fold_means.interval.low, found.fold_means.interval.high
    return {"table": "regression", "judged on": name, "seed": seed, "scores": ", ".join(features),
            "P1 mean of folds": f"{found.fold_means.mean:.4f} [{low:.3f}, {high:.3f}]",
            "P2 leave-one-out": round(found.leave_one_out, 4), "P2 pooled folds": round(found.pooled.mean, 4),
            "P3 fitted on the other": None if found.transfer is None else round(found.transfer, 4),
            "in sample": round(found.in_sample, 4), "overfitted": found.overfitted}  # fmt: skip


def _conformal(
    choices: Mapping[str, Any], golds: Mapping[str, GoldSet], parts: Mapping[str, Mapping[str, Any]], seed: int,
    figures: Figures,
) -> list[Mapping[str, Json]]:  # fmt: skip
    """Ratings of BIOSSES by a calibration that was fitted on CTR, beside one annotator's."""
    from quiltwork.text.calibrate import fit_calibration

    told, biosses, ctr = choices["calibration"], golds["BIOSSES"], golds["CTR"]
    fitted = fit_calibration(told["score"], parts["CTR"][told["score"]], ctr.gold,
                             **{name: told[name] for name in ("seed", "kind", "coverage", "confidence")})  # fmt: skip
    rated = fitted(parts["BIOSSES"][told["score"]])
    covered = float(((rated.low <= biosses.gold) & (biosses.gold <= rated.high)).mean())
    note(figures, COVERAGE, covered)
    return [{"table": "ratings by CTR's calibration, on BIOSSES", "seed": seed, "coverage": round(covered, 3),
             "asked for": told["coverage"], "confidence": told["confidence"],
             "mean width": round(float((rated.high - rated.low).mean()), 3),
             "mean error": round(float(np.abs(rated.value - biosses.gold).mean()), 3),
             "one annotator's": round(biosses.one_annotators_error() or 0.0, 3)}]  # fmt: skip


def note(figures: Figures, name: str, value: float | None) -> None:
    """Keep a figure of one seed."""
    if value is not None:
        figures.setdefault(name, []).append(value)
