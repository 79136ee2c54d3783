"""Words of opposite and of like direction, written down without looking at any lexicon: what generated edits swap.

Regular past forms, which are participles too. They come from nobody's list: neither WordNet, nor rules of word
formation, nor patterns of a corpus had a part in them. Whoever makes edits drops the pairs that a detector's lexicon
has evidence for as pairs (``work.edits``).
"""

from __future__ import annotations

OPPOSITES = (
    ("enhanced", "impaired"), ("enhanced", "suppressed"), ("enhanced", "hindered"), ("boosted", "blunted"),
    ("boosted", "suppressed"), ("augmented", "attenuated"), ("augmented", "curtailed"), ("amplified", "dampened"),
    ("amplified", "suppressed"), ("promoted", "impeded"), ("promoted", "hindered"), ("promoted", "blocked"),
    ("stimulated", "suppressed"), ("stimulated", "dampened"), ("stimulated", "blocked"), ("elevated", "lowered"),
    ("elevated", "depressed"), ("accelerated", "delayed"), ("accelerated", "hampered"), ("facilitated", "impeded"),
    ("facilitated", "hampered"), ("facilitated", "prevented"), ("strengthened", "undermined"),
    ("strengthened", "attenuated"), ("intensified", "alleviated"), ("intensified", "lessened"),
    ("improved", "impaired"), ("improved", "deteriorated"), ("improved", "compromised"), ("improved", "aggravated"),
    ("potentiated", "blunted"), ("potentiated", "diminished"), ("heightened", "lessened"), ("heightened", "reduced"),
    ("prolonged", "shortened"), ("prolonged", "curtailed"), ("raised", "reduced"), ("raised", "diminished"),
    ("induced", "abolished"), ("induced", "prevented"), ("triggered", "blocked"), ("triggered", "prevented"),
    ("activated", "suppressed"), ("activated", "silenced"), ("restored", "abolished"), ("restored", "impaired"),
    ("expanded", "curtailed"), ("expanded", "reduced"), ("increased", "attenuated"), ("increased", "curtailed"),
    ("increased", "impaired"), ("increased", "lowered"), ("elicited", "abolished"), ("fostered", "hindered"),
    ("exacerbated", "ameliorated"), ("aggravated", "alleviated"), ("worsened", "ameliorated"),
    ("maximized", "reduced"), ("preserved", "abolished"), ("preserved", "impaired"), ("enabled", "hampered"),
    ("enabled", "impeded"),
)  # fmt: skip
"""(more, less) of something."""

ALIKE = (
    ("enhanced", "augmented"), ("enhanced", "boosted"), ("promoted", "facilitated"), ("stimulated", "promoted"),
    ("elevated", "raised"), ("increased", "raised"), ("increased", "elevated"), ("induced", "elicited"),
    ("induced", "triggered"), ("improved", "ameliorated"), ("worsened", "aggravated"), ("worsened", "exacerbated"),
    ("reduced", "lowered"), ("reduced", "diminished"), ("reduced", "lessened"), ("decreased", "lowered"),
    ("decreased", "diminished"), ("inhibited", "suppressed"), ("inhibited", "blocked"), ("attenuated", "blunted"),
    ("attenuated", "dampened"), ("impaired", "hindered"), ("impeded", "hampered"), ("shortened", "curtailed"),
    ("prevented", "blocked"), ("abolished", "eliminated"), ("strengthened", "intensified"),
)  # fmt: skip
"""Words that stand for one another without turning a sentence around."""
