"""What two sentences differ in that turns a meaning around, and what of it cancels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.text.polarity.align import Alignment, Opposed
from quiltwork.text.polarity.cues import Cue
from quiltwork.text.polarity.words import Word

Both = tuple[Sequence[Word], Sequence[Word]]
CLOSE = 2
"""Words of no content that may stand between an antonym and one that it applies to: the decrease of the inhibition."""
ALL = frozenset(("all", "every", "each", "always", "both", "everyone", "everybody", "everything", "entirely", "fully"))
SOME = frozenset(("some", "several", "sometimes", "few", "many", "most", "partly", "partially", "someone", "something"))


@dataclass(frozen=True)
class Finding:
    """flips : whether it turns the meaning around, or is a pair of things of which one undoes the other. where : the
    sentence (0, 1), the first word, the word after the last, and what is made of them."""

    flips: bool
    where: tuple[tuple[int, int, int, str], ...]


def findings_of(words: Both, cues: tuple[Sequence[Cue], Sequence[Cue]], aligned: Alignment) -> list[Finding]:
    """Double negations, antonyms of antonyms, antonyms denied, and then what is left: each left turns it around."""
    findings: list[Finding] = []
    left: list[list[Cue]] = []
    for side in (0, 1):
        kept, cancelled = _without_doubles(cues[side])
        left.append(kept)
        findings += [_doubled(side, pair) for pair in cancelled]
    met = _met(words, left, aligned)
    opposed, doubled = _without_nested(words, aligned.opposed)
    findings += doubled
    for side in (0, 1):
        unmet = [cue for cue in left[side] if (side, cue.start) not in met]
        findings += _from_unmet(words, side, unmet, aligned, opposed)
    return findings + [_antonyms(pair, True, "antonym") for pair in opposed.values()]


def _without_doubles(cues: Sequence[Cue]) -> tuple[list[Cue], list[tuple[Cue, Cue]]]:
    """Cues left when each that governs another has been set off against it: did not fail to, not without."""
    kept: list[Cue] = []
    cancelled = []
    for cue in cues:
        if kept and cue.start in kept[-1].scope:
            cancelled.append((kept.pop(), cue))
        else:
            kept.append(cue)
    return kept, cancelled


def _doubled(side: int, pair: tuple[Cue, Cue]) -> Finding:
    return Finding(False, tuple((side, cue.start, cue.end, "one negation of another") for cue in pair))


def _met(words: Both, cues: Sequence[Sequence[Cue]], aligned: Alignment) -> set[tuple[int, int]]:
    """Cues with a like on the other side, as (side, first word): both govern words that answer to one another, or one
    of them governs nothing in particular (it was lacking) and they are the same word."""
    governor = [{at: cue.start for cue in cues[side] for at in cue.scope} for side in (0, 1)]
    shared = Counter(
        (governor[0][i], governor[1][j])
        for i, j in (*aligned.same, *((pair.a, pair.b) for pair in aligned.opposed))
        if i in governor[0] and j in governor[1]
    )
    met: set[tuple[int, int]] = set()
    for (i, j), _ in sorted(shared.items(), key=lambda item: (-item[1], abs(item[0][0] - item[0][1]), item[0])):
        if (0, i) not in met and (1, j) not in met:
            met |= {(0, i), (1, j)}
    free: dict[str, list[Cue]] = {}
    for cue in cues[1]:
        if (1, cue.start) not in met:
            free.setdefault(words[1][cue.start].text, []).append(cue)
    for cue in cues[0]:
        others = free.get(words[0][cue.start].text, [])
        if (0, cue.start) not in met and others and not (_content(words[0], cue) and _content(words[1], others[0])):
            met |= {(0, cue.start), (1, others.pop(0).start)}
    return met


def _without_nested(words: Both, opposed: Sequence[Opposed]) -> tuple[dict[tuple[int, int], Opposed], list[Finding]]:
    """Antonyms left, by place, when two that apply to one another are set off: reduced inhibition, more activation."""
    kept: list[Opposed] = []
    findings = []
    for pair in opposed:
        if kept and _near(words[0], kept[-1].a, pair.a) and _near(words[1], kept[-1].b, pair.b):
            findings += [_antonyms(one, False, "antonym of an antonym") for one in (kept.pop(), pair)]
        else:
            kept.append(pair)
    return {(pair.a, pair.b): pair for pair in kept}, findings


def _near(words: Sequence[Word], one: int, other: int) -> bool:
    between = words[min(one, other) + 1 : max(one, other)]
    return len(between) <= CLOSE and all(word.function for word in between)


def _antonyms(pair: Opposed, flips: bool, what: str) -> Finding:
    return Finding(
        flips, ((0, pair.a, pair.a + 1, f"{what}: {pair.why}"), (1, pair.b, pair.b + 1, f"{what}: {pair.why}"))
    )


def _from_unmet(
    words: Both, side: int, cues: Sequence[Cue], aligned: Alignment, opposed: dict[tuple[int, int], Opposed]
) -> list[Finding]:
    """What comes of cues that have no like on the other side. An antonym that one is set off against leaves
    ``opposed``; a cue that denies what the other sentence does not speak of says nothing."""
    by_place = {places[side]: places for places in opposed}
    lonely = frozenset(aligned.left_a if side == 0 else aligned.left_b)
    some = next((at for at, word in enumerate(words[1 - side]) if word.text in SOME), None)
    findings = []
    for cue in cues:
        here = (side, cue.start, cue.end)
        antonym = next((by_place.pop(at) for at in cue.scope if at in by_place), None)
        if antonym is not None:
            why = opposed.pop(antonym).why
            there = antonym[1 - side]
            findings.append(Finding(False, ((*here, f"{cue.kind} that denies an antonym: {why}"),
                                            (1 - side, there, there + 1, f"antonym: {why}"))))  # fmt: skip
        elif some is not None and cue.end < len(words[side]) and words[side][cue.end].text in ALL:
            findings.append(Finding(False, ((*here, "not all"), (1 - side, some, some + 1, "some"))))
        elif _about_the_same(words[side], cue, lonely):
            findings.append(Finding(True, ((*here, f"{cue.kind} that denies, with none on the other side"),)))
    return findings


def _about_the_same(words: Sequence[Word], cue: Cue, lonely: frozenset[int]) -> bool:
    """Whether what the cue denies first, adverbs aside, is something that the other sentence speaks of."""
    content = _content(words, cue)
    heads = [at for at in content if not words[at].text.endswith("ly")] or content
    return not heads or heads[0] not in lonely


def _content(words: Sequence[Word], cue: Cue) -> list[int]:
    """Places of the words of content that a cue governs."""
    return [at for at in cue.scope if not words[at].mark and not words[at].function]
