"""Whether a score sees contradiction: all-MiniLM-L6-v2's cosine, lowered where polarity is opposite, against itself.

Four questions. Do the pairs of BIOSSES that people find equivalent (3 or more of 4) come above the authors' own
contradicting edits (Blagec et al. 2019)? Do edits of real sentences that keep a meaning come above edits that turn it
around, for each kind of edit? Is the answer right on the half of SemAntoNeg that was never looked at? And do the scores
of BIOSSES stay what they were? Rows have what the detector does when a part of it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import NotFoundError
from work import contradictions as gold
from work.edits import HARD, Edit, bases, disjoint_pairs, edits, infinitives, rules
from work.swaps import OPPOSITES

if TYPE_CHECKING:
    import numpy.typing as npt

    from quiltwork.core.servable import Json
    from quiltwork.text import Lexicon, Polarity
    from quiltwork.text.scorer import Scorer

    Floats = npt.NDArray[np.float64]

AUTHORS, STRETCH, EDITS, SEMANTONEG, KEEPS = (
    f"text.{name}"
    for name in ("author_pairs_auc", "author_pairs_auc_stretch", "generated_edits_auc", "semantoneg_accuracy",
                 "polarity_keeps_r")
)  # fmt: skip
EQUIVALENT = "pairs of BIOSSES rated 3 or more above the 20 contradicting edits of its authors, AUC"
CLAIMS = (
    Claim(name=AUTHORS, room="text", title=EQUIVALENT, reach=at_least(0.90), ratio="ours/baseline", unit="AUC of 1"),
    Claim(name=STRETCH, room="text", title=f"{EQUIVALENT}, the stretch", reach=at_least(0.95), ratio="ours/baseline",
          unit="AUC of 1"),
    Claim(name=EDITS, room="text", title="generated edits that keep a meaning above those that turn it around, AUC, "
          "mean over kinds of edits", reach=at_least(0.95), ratio="ours/baseline", unit="AUC of 1"),
    Claim(name=SEMANTONEG, room="text", title="right answers on the held-out half of SemAntoNeg",
          reach=at_least(0.85), ratio="ours/baseline", unit="part of 1"),
    Claim(name=KEEPS, room="text", title="1 + the change of r on BIOSSES with polarity", reach=at_most(1.005),
          ratio="ours/baseline", unit="1 + |difference of r|"),
)  # fmt: skip
ALIKE = 3.0
EACH = 250
"""Edits of each kind, where there are as many sentences."""
Answers = list["Polarity"]


def run(context: Context) -> Mapping[str, Outcome]:
    """Everything once: nothing is random but which sentences are edited, and that the seed decides."""
    from quiltwork.text.encoder.packaged import packaged_encoder
    from quiltwork.text.polarity.lexicon import shipped_lexicon
    from quiltwork.text.scorer import Cosine

    score, lexicon = Cosine(packaged_encoder()), shipped_lexicon()
    context.progress("BIOSSES")
    authors, keeps = on_biosses(context, score, lexicon)
    context.progress("SemAntoNeg")
    outcomes = {AUTHORS: authors, STRETCH: authors, KEEPS: keeps, SEMANTONEG: on_semantoneg(context, lexicon)}
    context.progress("edits")
    outcomes[EDITS] = on_edits(context, score, lexicon)
    return outcomes


def answers(pairs: Sequence[gold.Pair], lexicon: Lexicon) -> Answers:
    from quiltwork.text import polarity_of

    return [polarity_of(a, b, lexicon) for a, b in pairs]


def lowered(scores: Floats, found: Answers) -> Floats:
    from quiltwork.text import adjusted

    return np.array([adjusted(float(score), polarity) for score, polarity in zip(scores, found, strict=True)])


def on_biosses(context: Context, score: Scorer, lexicon: Lexicon) -> tuple[Outcome, Outcome]:
    """The authors' pairs against those that are equivalent; and r with and without polarity."""
    data = _data(context)
    pairs, subsets = gold.biosses(data), {name: gold.author_pairs(data, name) for name in ("negation", "antonym")}
    turned = [pair for subset in subsets.values() for pair in subset]
    alike = pairs.gold >= ALIKE
    plain, plain_turned = score(pairs.pairs), score(turned)
    found, found_turned = answers(pairs.pairs, lexicon), answers(turned, lexicon)
    ours, ours_turned = lowered(plain, found), lowered(plain_turned, found_turned)
    rows: list[dict[str, Json]] = [
        {"score": "MiniLM", "AUC": round(gold.auc(plain[alike], plain_turned), 4)},
        {"score": "MiniLM with polarity", "AUC": round(gold.auc(ours[alike], ours_turned), 4)},
    ]
    at = 0
    for name, subset in subsets.items():
        kinds = [polarity.kind for polarity in found_turned[at : at + len(subset)]]
        rows.append({"subset": name, "pairs": len(subset), "opposite": kinds.count("opposite"),
                     "AUC": round(gold.auc(ours[alike], ours_turned[at : at + len(subset)]), 4)})  # fmt: skip
        at += len(subset)
    rows += false_alarms(data, lexicon)
    before, after = _r(plain, pairs.gold), _r(ours, pairs.gold)
    change = abs(after - before)
    return (
        Outcome(ours=[gold.auc(ours[alike], ours_turned)], baseline=[1.0], rows=rows,
                details={"equivalent pairs": int(alike.sum()), "contradicting edits": len(turned)}),
        Outcome(ours=[1.0 + change], baseline=[1.0],
                rows=[{"score": "MiniLM", "r": round(before, 4)}, {"score": "with polarity", "r": round(after, 4)}]),
    )  # fmt: skip


def false_alarms(data: Path, lexicon: Lexicon) -> list[dict[str, Json]]:
    """How many pairs that people find equivalent are called opposite, with the gate and without."""
    rows: list[dict[str, Json]] = []
    for name, pairs in (("BIOSSES", gold.biosses(data)), ("CTR", gold.ctr(data))):
        alike = [pair for pair, mean in zip(pairs.pairs, pairs.gold, strict=True) if mean >= ALIKE]
        rows.append({
            "equivalent pairs of": name, "pairs": len(alike), "called opposite": opposite_of(alike, lexicon),
            "without the gate": opposite_of(alike, lexicon, gate=0.0),
        })  # fmt: skip
    return rows


def opposite_of(pairs: Sequence[gold.Pair], lexicon: Lexicon, gate: float | None = None) -> int:
    from quiltwork.text import polarity_of
    from quiltwork.text.polarity.detect import GATE

    return sum(polarity_of(a, b, lexicon, GATE if gate is None else gate).kind == "opposite" for a, b in pairs)


def on_semantoneg(context: Context, lexicon: Lexicon) -> Outcome:
    """The held-out half; with it the half for development, and what simpler rules get."""
    rows: list[dict[str, Json]] = []
    accuracies: dict[bool, float] = {}
    for held_out in (True, False):
        pairs = gold.semantoneg(_data(context), held_out=held_out)
        truth = [pair.contradicts for pair in pairs]
        found = answers([(pair.a, pair.b) for pair in pairs], lexicon)
        arms = {
            "ours": [polarity.kind == "opposite" for polarity in found],
            "negation OR antonym": [any(_denies(e.why) for e in polarity.evidence) for polarity in found],
            "negation alone": [p.kind == "opposite" for p in answers([(x.a, x.b) for x in pairs], _no_words())],
            "always opposite": [True] * len(pairs),
        }
        half = "held out" if held_out else "development"
        rows += [
            {"half": half, "rule": name, "pairs": len(pairs)} | _judged(said, truth) for name, said in arms.items()
        ]
        accuracies[held_out] = _accuracy(arms["ours"], truth)
    return Outcome(ours=[accuracies[True]], baseline=[1.0], rows=rows,
                   details={"development half": accuracies[False]})  # fmt: skip


def on_edits(context: Context, score: Scorer, lexicon: Lexicon) -> Outcome:
    """Every kind of edit against all edits that do the other thing to the meaning."""
    lines = list(gold.corpus_lines(_data(context), "evinf.ccby"))
    base = bases(infinitives(lines))
    disjoint = list(disjoint_pairs(lambda a, b: lexicon.has_pair(a, b)))
    made = edits(lines, rules(disjoint, base), each=40 if context.quick else EACH, seed=context.seed)
    plain, found, ours = _edit_scores(made, score, lexicon)
    contradicts = np.array([edit.contradicts for edit in made])
    kinds = np.array([edit.rule for edit in made])
    rows: list[dict[str, Json]] = []
    for kind in sorted(set(kinds)):
        of = kinds == kind
        turned = bool(contradicts[of][0])
        said = [found[i].kind for i in np.flatnonzero(of)]
        rows.append({
            "edit": str(kind), "contradicts": turned, "edits": int(of.sum()), "opposite": said.count("opposite"),
            "same": said.count("same"), "unknown": said.count("unknown"),
            "AUC": round(_auc_of(of, contradicts, ours), 4), "AUC of MiniLM": round(_auc_of(of, contradicts, plain), 4),
        })  # fmt: skip
    macro = fmean(_auc_of(kinds == kind, contradicts, ours) for kind in sorted(set(kinds)))
    hard = sum(int((kinds == kind).sum()) for kind in HARD)
    rows.append({"edit": "all kinds, mean", "edits": len(made), "AUC": round(macro, 4)})
    rows += _known_swaps(context, lines, base, lexicon)
    details: dict[str, Json] = {
        "contradicting": int(contradicts.sum()), "preserving": int((~contradicts).sum()),
        "hard controls of the preserving": round(hard / max(int((~contradicts).sum()), 1), 3),
        "swaps without evidence as a pair": len(disjoint), "swaps with": len(OPPOSITES) - len(disjoint),
    }  # fmt: skip
    return Outcome(ours=[macro], baseline=[1.0], rows=rows, details=details)


def _edit_scores(made: Sequence[Edit], score: Scorer, lexicon: Lexicon) -> tuple[Floats, Answers, Floats]:
    pairs = [(edit.before, edit.after) for edit in made]
    plain, found = score(pairs), answers(pairs, lexicon)
    return plain, found, lowered(plain, found)


def _auc_of(of: npt.NDArray[np.bool_], contradicts: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Of edits of one kind against all of the other class."""
    turned = bool(contradicts[of][0])
    others = scores[contradicts != turned]
    return gold.auc(others, scores[of]) if turned else gold.auc(scores[of], others)


def _known_swaps(
    context: Context, lines: Sequence[str], base: Callable[[str], str], lexicon: Lexicon
) -> list[dict[str, Json]]:
    """The same swap with those pairs that the lexicon has as pairs: what the claim leaves out."""
    known = [pair for pair in OPPOSITES if lexicon.has_pair(*pair)]
    made = {name: rule for name, rule in rules(known, base).items() if name in ("verb swapped", "antonym denied")}
    rows: list[dict[str, Json]] = []
    if known:
        found = edits(lines, made, each=40 if context.quick else EACH, seed=context.seed)
        for name, (turned, _) in made.items():
            said = [answers([(e.before, e.after)], lexicon)[0].kind for e in found if e.rule == name]
            rows.append({"edit": f"{name}, pairs of the lexicon", "contradicts": turned, "edits": len(said),
                         "opposite": said.count("opposite"), "same": said.count("same"),
                         "unknown": said.count("unknown")})  # fmt: skip
    return rows


def _no_words() -> Lexicon:
    from quiltwork.text import Lexicon

    return Lexicon(())


def _denies(why: str) -> bool:
    return "denies" in why or "antonym" in why or "negation" in why


def _judged(said: Sequence[bool], truth: Sequence[bool]) -> dict[str, Json]:
    hits = sum(s and t for s, t in zip(said, truth, strict=True))
    return {
        "accuracy": round(_accuracy(said, truth), 4), "precision": round(hits / max(sum(said), 1), 4),
        "recall": round(hits / max(sum(truth), 1), 4),
    }  # fmt: skip


def _accuracy(said: Sequence[bool], truth: Sequence[bool]) -> float:
    return fmean(s == t for s, t in zip(said, truth, strict=True))


def _r(scores: Floats, people: Floats) -> float:
    return float(np.corrcoef(scores, people)[0, 1])


def _data(context: Context) -> Path:
    if context.data is None:
        raise NotFoundError("there is no folder of real data", where=EDITS, hint="set QUILTWORK_DATA")
    return context.data
