"""Which word of one sentence answers to which of the other: the same stem, or the opposite."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.text.polarity.cues import Cue
from quiltwork.text.polarity.lexicon import Lexicon
from quiltwork.text.polarity.morphology import DENYING, OPPOSED, SHORTEST, SUFFIXES
from quiltwork.text.polarity.words import Word

NEAR = 4
"""Antonyms to choose from, on either side of where a word would stand in the other sentence."""


@dataclass(frozen=True)
class Opposed:
    """Word ``a`` of the first sentence and word ``b`` of the second, by their places, and where it comes from."""

    a: int
    b: int
    why: str


@dataclass(frozen=True)
class Alignment:
    """same : places in the first sentence and the second of words of one stem. opposed : antonyms among the others.
    content : how many content words either sentence has, cues left out. overlap : the part of the shorter one's
    content words that answer to a word of the other, antonyms included, from 0 to 1."""

    same: tuple[tuple[int, int], ...]
    opposed: tuple[Opposed, ...]
    left_a: tuple[int, ...]
    left_b: tuple[int, ...]
    overlap: float


def align(
    a: Sequence[Word], b: Sequence[Word], cues: tuple[Sequence[Cue], Sequence[Cue]], lexicon: Lexicon
) -> Alignment:
    """Order does not count, so a passive aligns with its active; among words of one stem, the n-th answers the n-th."""
    places_a, places_b = _places(a, cues[0]), _places(b, cues[1])
    stems_a, stems_b = _by_stem(a, places_a, lexicon), _by_stem(b, places_b, lexicon)
    same = [pair for stem in stems_a if stem in stems_b for pair in zip(stems_a[stem], stems_b[stem], strict=False)]
    taken_a, taken_b = {i for i, _ in same}, {j for _, j in same}
    left_a = [i for i in places_a if i not in taken_a]
    left_b = [j for j in places_b if j not in taken_b]
    opposed = _opposed(a, b, left_a, left_b, same, lexicon)
    met_a, met_b = {pair.a for pair in opposed}, {pair.b for pair in opposed}
    return Alignment(
        tuple(sorted(same)),
        tuple(opposed),
        tuple(i for i in left_a if i not in met_a and not a[i].function),
        tuple(j for j in left_b if j not in met_b and not b[j].function),
        _overlap(a, b, places_a, places_b, [*same, *((pair.a, pair.b) for pair in opposed)]),
    )


def _places(words: Sequence[Word], cues: Sequence[Cue]) -> list[int]:
    """Where there are words that are neither marks nor part of a cue."""
    inside = {at for cue in cues for at in range(cue.start, cue.end)}
    return [at for at, word in enumerate(words) if not word.mark and at not in inside]


def _by_stem(words: Sequence[Word], places: Sequence[int], lexicon: Lexicon) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for at in places:
        found[lexicon.stem(words[at].text, words[at].stem)].append(at)
    return found


def _overlap(
    a: Sequence[Word], b: Sequence[Word], places_a: list[int], places_b: list[int], pairs: list[tuple[int, int]]
) -> float:
    """Of content words; of all words where the shorter sentence has no content word."""
    content_a = {i for i in places_a if not a[i].function}
    content_b = {j for j in places_b if not b[j].function}
    met = sum(i in content_a or j in content_b for i, j in pairs)
    shorter = min(len(content_a), len(content_b))
    if not shorter:
        met, shorter = len(pairs), min(len(places_a), len(places_b))
    return min(met / shorter, 1.0) if shorter else 0.0


def _opposed(
    a: Sequence[Word], b: Sequence[Word], left_a: list[int], left_b: list[int], same: list[tuple[int, int]],
    lexicon: Lexicon,
) -> list[Opposed]:  # fmt: skip
    """Antonyms among words that have no equal on the other side, the surest and the nearest by place first."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for j in left_b:
        for key in _keys(b[j], lexicon):
            by_key[key].append(j)
    ranked = []
    for i in left_a:
        place = i * len(b) / len(a)
        reached = {j for key in _opposite_keys(a[i], lexicon) for j in _nearest(by_key.get(key, []), place)}
        for j in reached:
            why = lexicon.why_opposite(_pair(a[i], lexicon), _pair(b[j], lexicon))
            if why:
                ranked.append((why.startswith("signs"), abs(i / len(a) - j / len(b)), i, j, why))
    found, met_a, met_b = [], set(), set()
    for _, _, i, j, why in sorted(ranked):
        if i not in met_a and j not in met_b:
            met_a.add(i)
            met_b.add(j)
            found.append(Opposed(i, j, why))
    return sorted(found, key=lambda pair: pair.a)


def _nearest(places: list[int], place: float) -> list[int]:
    """Of ascending places the few that are near: a long sentence must not cost the square of its length."""
    at = bisect_left(places, place)
    return places[max(at - NEAR, 0) : at + NEAR]


def _pair(word: Word, lexicon: Lexicon) -> tuple[str, str]:
    return word.text, lexicon.stem(word.text, word.stem)


def _keys(word: Word, lexicon: Lexicon) -> set[str]:
    """What a word can be found by: its text, its stem, its sign."""
    stem = lexicon.stem(word.text, word.stem)
    sign = lexicon.sign(stem)
    return {f"text {word.text}", f"stem {stem}", *((f"sign {sign}",) if sign else ())}


def _opposite_keys(word: Word, lexicon: Lexicon) -> set[str]:
    """What its opposites would be found by."""
    stem = lexicon.stem(word.text, word.stem)
    keys = {f"stem {other}" for other in lexicon.opposites(stem)}
    sign = lexicon.sign(stem)
    if sign:
        keys.add("sign -" if sign == "+" else "sign +")
    return keys | {f"text {other}" for other in _formed(word.text)}


def _formed(text: str) -> list[str]:
    """Words that the rules of word formation set against this one."""
    found = [prefix + text for prefix in DENYING if len(text) >= SHORTEST]
    found += [text[len(prefix) :] for prefix in DENYING if text.startswith(prefix)]
    for pair in OPPOSED:
        for one, other in (pair, pair[::-1]):
            if text.startswith(one):
                found.append(other + text[len(one) :])
    for pair in SUFFIXES:
        for one, other in (pair, pair[::-1]):
            if text.endswith(one):
                found.append(text[: -len(one)] + other)
    return found
