"""What measures of words reach on BIOSSES without any training: the paper's figures again, and better ones.

The measure and its pipeline were chosen on CTR (``work/text_choices.json``); its figure there stands beside as
development. A claim "within .001" is declared as 1 + the largest difference, so that it is a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import NotFoundError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

JACCARD, QGRAM = "text.table1_jaccard", "text.table1_qgram"
JACCARD_PAIRS, QGRAM_PAIRS = "text.table1_jaccard_pairs", "text.table1_qgram_pairs"
STRINGS = "text.strings_only"
CLAIMS = (
    *(Claim(name=name, room="text", title=f"1 + |r - {r}| of {what} on BIOSSES: Blagec et al. 2019, Table 1",
            reach=at_most(1.001), ratio="ours/baseline", unit="x", parity=False)
      for name, r, what in ((JACCARD, ".751", "Jaccard"), (QGRAM, ".723", "q-gram"))),
    *(Claim(name=name, room="text", title=f"1 + the largest difference of a pair's {what} from the authors', 100 pairs",
            reach=at_most(1.001), ratio="ours/baseline", unit="x", parity=False)
      for name, what in ((JACCARD_PAIRS, "Jaccard"), (QGRAM_PAIRS, "q-gram"))),
    Claim(name=STRINGS, room="text", title="r on BIOSSES of a measure of words, no training (paper's PV-DM .819)",
          reach=at_least(0.817), ratio="ours/baseline", unit="r", parity=False),
)  # fmt: skip
TABLE_1 = {"jaccard": (JACCARD, JACCARD_PAIRS, "Jaccard", 0.751), "qgram": (QGRAM, QGRAM_PAIRS, "Qgram", 0.723)}
BESIDES = ("jaccard", "qgram", "block", "liblock", "levenshtein", "jaro_winkler", "token_sort", "token_set")
RESAMPLES, FEW = 5_000, 500


def run(context: Context) -> Mapping[str, Outcome]:
    """The paper's two measures, the chosen one, and all others beside."""
    from quiltwork.text.evaluate.candidates import words
    from quiltwork.text.evaluate.correlation import pearson
    from quiltwork.text.evaluate.gold import read_biosses, read_ctr
    from quiltwork.text.evaluate.peers import PAPER_COLUMNS, PAPER_FILE, read_scores
    from work.text_figures import rows_of
    from work.text_fusion import frozen, strings

    if context.data is None:
        raise NotFoundError("needs the gold sets", where="text", hint="set QUILTWORK_DATA to the folder of real data")
    folder = context.data / "text"
    choices, digest = frozen()
    biosses, ctr = read_biosses(folder), read_ctr(folder)
    authors = read_scores(folder / "biosses" / PAPER_FILE, PAPER_COLUMNS, len(biosses))
    outcomes: dict[str, Outcome] = {}
    for measure, (figure, pairs, column, printed) in TABLE_1.items():
        context.progress(f"{measure} as in the paper")
        ours = words(measure, "paper")(biosses.pairs)
        r, apart = pearson(ours, biosses.gold), float(np.abs(ours - authors[column]).max())
        outcomes[figure] = Outcome([1 + abs(r - printed)], [1.0], details={"r": r, "printed": printed})
        outcomes[pairs] = Outcome([1 + apart], [1.0], details={"largest difference": apart})
    chosen = strings(choices)
    scorers = [chosen, *(words(measure, pipeline) for pipeline in ("stemmed", "paper") for measure in BESIDES)]
    rows: list[Mapping[str, Json]] = []
    for gold, others in ((biosses, authors), (ctr, {})):
        context.progress(f"all measures on {gold.name}")
        # By name: where the chosen one is one of the others, it has a single row.
        scored = {scorer.name: scorer(gold.pairs) for scorer in scorers}
        rows += rows_of(gold, scored, others, context.seed, FEW if context.quick else RESAMPLES)
    r = pearson(chosen(biosses.pairs), biosses.gold)
    development = pearson(chosen(ctr.pairs), ctr.gold)
    details: dict[str, Json] = {"choices": digest, "scorer": chosen.name, "r CTR (development)": development}
    return outcomes | {STRINGS: Outcome([r], [1.0], details=details, rows=rows)}
