"""Edits of real sentences that turn what they say around, and edits that leave it: made by rule, the same for a seed.

Hard controls look like contradictions and are none: a passive made active, a double negation, an antonym denied. An
antonym denied is taken for the word itself (not lowered, for raised), as collections of negated antonyms do.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from work.swaps import ALIKE, OPPOSITES

Rule = Callable[[str], str | None]
AUXILIARY = r"was|were|is|are|has|have|had|can|could|may|might|should|would|will"
_SIMPLE = re.compile(r"[A-Z][^;:?!()\[\]\"“”]{40,220}\.")
_DENIAL = re.compile(r"\b(not|no|nor|neither|none|never|without|cannot|fail\w*|lack\w*|un\w+|non\w*)\b|n['’]t\b", re.I)
_CLAUSE = re.compile(r"\b(that|which|who|whether|if|when|because|although|while|whereas|but|since|as|than)\b|,")


@dataclass(frozen=True)
class Edit:
    """rule : which made it. contradicts : whether the edited sentence says the opposite."""

    rule: str
    contradicts: bool
    before: str
    after: str


def bases(words: Counter[str]) -> Callable[[str], str]:
    """A function from a regular past form to its infinitive, as the corpus has it most often after ``to``.

    words : how often a corpus has ``to X``, by X.
    """

    def base(past: str) -> str:
        forms = [past[:-1], past[:-2], past[:-3], past[:-3] + "y"]
        likely = past[:-2] if past[:-2].endswith(("sh", "ch", "ss", "er", "en", "ow", "it", "ck")) else past[:-1]
        return max(forms, key=lambda form: (words[form], form == likely))

    return base


def infinitives(lines: Iterable[str]) -> Counter[str]:
    """How often a corpus has ``to X``."""
    found: Counter[str] = Counter()
    for line in lines:
        found.update(re.findall(r"\bto ([a-z]+)", line))
    return found


def usable(line: str) -> bool:
    """Whether this is one plain sentence of some length, without brackets or quotations."""
    return _SIMPLE.fullmatch(line) is not None and 8 <= len(line.split()) <= 30 and line.count(".") == 1


def main_clause(sentence: str, match: re.Match[str] | None) -> bool:
    """Whether what was found lies before any other clause can have begun."""
    return match is not None and not _CLAUSE.search(sentence, 0, match.start())


def denied(sentence: str) -> bool:
    """Whether there is anything that denies already."""
    return _DENIAL.search(sentence) is not None


def not_inserted(sentence: str) -> str | None:
    """was -> was not"""
    match = re.search(rf"\b({AUXILIARY})\b", sentence)
    if denied(sentence) or match is None or not main_clause(sentence, match):
        return None
    return f"{sentence[: match.end()]} not{sentence[match.end() :]}"


def not_deleted(sentence: str) -> str | None:
    """was not, did not -> was, did"""
    match = re.search(rf"\b(?:{AUXILIARY}|did|does|do) (not )", sentence)
    if match is None or len(_DENIAL.findall(sentence)) != 1 or not main_clause(sentence, match):
        return None
    return sentence[: match.start(1)] + sentence[match.end(1) :]


def no_deleted(sentence: str) -> str | None:
    """there were no -> there were; there was no -> there was a"""
    match = re.search(r"\b([Tt]here (?:was|were|is|are)) no ", sentence)
    if match is None or len(_DENIAL.findall(sentence)) != 1:
        return None
    article = " a " if match[1].endswith(("was", "is")) else " "
    return sentence[: match.end(1)] + article + sentence[match.end() :]


def no_as_not_any(sentence: str) -> str | None:
    """there were no -> there were not any"""
    match = re.search(r"\b([Tt]here (?:was|were|is|are)) no ", sentence)
    if match is None or len(_DENIAL.findall(sentence)) != 1:
        return None
    return f"{sentence[: match.end(1)]} not any {sentence[match.end() :]}"


def not_the_case(sentence: str) -> str | None:
    """It is not the case that ..."""
    if denied(sentence) or not main_clause(sentence, re.search(rf"\b({AUXILIARY}|\w+ed)\b", sentence)):
        return None
    return f"It is not the case that {uncapitalised(sentence)}"


def twice_denied(sentence: str) -> str | None:
    """It is not the case that ... was not ..."""
    once = not_inserted(sentence)
    return None if once is None else f"It is not the case that {uncapitalised(once)}"


def reordered(sentence: str) -> str | None:
    """In X, S. -> S in X."""
    match = re.fullmatch(r"(In|At|After|During|Among|For) ([^,]{5,60}), ([^,]{20,160})\.", sentence)
    if match is None or _CLAUSE.search(match[2]):
        return None
    return f"{match[3][0].upper()}{match[3][1:]} {match[1].lower()} {match[2]}."


def passives(base: Callable[[str], str]) -> dict[str, tuple[bool, Rule]]:
    """X was done by Y. -> Y did X. And: -> Y did not do X."""
    plain = re.compile(r"([A-Z][^,]{3,80}?) (?:was|were) (?:(\w+ly) )?(\w{3,}ed) by ([^,]{5,80})\.")
    no_agent = re.compile(r"\w+ing\b|means of|using|the (?:use|method)|\d|an? average|approximately|about|over|up to")

    def parts(sentence: str) -> tuple[str, str, str, str] | None:
        match = plain.fullmatch(sentence)
        if match is None or denied(sentence) or _CLAUSE.search(sentence) or no_agent.match(match[4]):
            return None
        return match[1], f"{match[2]} " if match[2] else "", match[3], match[4]

    def active(sentence: str) -> str | None:
        found = parts(sentence)
        if found is None:
            return None
        patient, how, verb, agent = found
        return f"{agent[0].upper()}{agent[1:]} {how}{verb} {uncapitalised(patient)}."

    def active_denied(sentence: str) -> str | None:
        found = parts(sentence)
        if found is None:
            return None
        patient, how, verb, agent = found
        return f"{agent[0].upper()}{agent[1:]} did not {how}{base(verb)} {uncapitalised(patient)}."

    return {"passive made active": (False, active), "passive made active, denied": (True, active_denied)}


def swapping(pairs: Iterable[tuple[str, str]], base: Callable[[str], str], denied_too: bool) -> Rule:
    """A verb in the past, or a participle after was or were, by another, and denied if so asked: did not lower."""
    against: dict[str, list[str]] = {}
    for one, other in pairs:
        against.setdefault(one, []).append(other)
        against.setdefault(other, []).append(one)
    verbs = "|".join(sorted(against))
    place = re.compile(
        rf"\b(?:(was|were|is|are) )?(?:(\w+ly) )?({verbs}) (the|a|an|in|by|with|after|during|and|both|\w+s)\b"
    )
    not_a_verb = re.compile(
        r"\b(the|a|an|of|with|by|for|in|to|and|or|has|have|had|been|be|being|from|on|at|as|no|more)$"
    )

    def swap(sentence: str) -> str | None:
        match = place.search(sentence)
        if match is None or denied(sentence) or len(re.findall(rf"\b(?:{verbs})\b", sentence)) > 1:
            return None
        before, after = sentence[: match.start()].rstrip(), sentence[match.end(3) :]
        if not match[1] and (not_a_verb.search(before) or match[4] not in ("the", "a", "an", "both")):
            return None
        options = sorted(against[match[3]])
        other = options[_number(sentence) % len(options)]
        how = f"{match[2]} " if match[2] else ""
        if match[1]:
            return f"{before} {match[1]} {'not ' if denied_too else ''}{how}{other}{after}"
        return f"{before} did not {how}{base(other)}{after}" if denied_too else f"{before} {how}{other}{after}"

    return swap


def rules(disjoint: Iterable[tuple[str, str]], base: Callable[[str], str]) -> dict[str, tuple[bool, Rule]]:
    """By name, whether it contradicts and how it edits. disjoint : opposites that no lexicon has evidence for."""
    opposites = list(disjoint)
    return {
        "not inserted": (True, not_inserted),
        "not deleted": (True, not_deleted),
        "no deleted": (True, no_deleted),
        "not the case": (True, not_the_case),
        "verb swapped": (True, swapping(opposites, base, denied_too=False)),
        **passives(base),
        "denied twice": (False, twice_denied),
        "antonym denied": (False, swapping(opposites, base, denied_too=True)),
        "no as not any": (False, no_as_not_any),
        "verb alike": (False, swapping(ALIKE, base, denied_too=False)),
        "reordered": (False, reordered),
    }


HARD = ("passive made active", "denied twice", "antonym denied")


def edits(sentences: Iterable[str], made: dict[str, tuple[bool, Rule]], each: int, seed: int) -> list[Edit]:
    """At most ``each`` edits of every rule, of sentences drawn by the seed; no sentence is edited by two rules:
    of those that can edit it, the one with the fewest edits so far does.
    """
    drawn = sorted(set(filter(usable, sentences)), key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest())
    found: list[Edit] = []
    counts = dict.fromkeys(made, 0)
    for sentence in drawn:
        able = [(counts[name], name) for name, (_, rule) in made.items() if counts[name] < each and rule(sentence)]
        if able:
            name = min(able)[1]
            turned, rule = made[name]
            found.append(Edit(name, turned, sentence, rule(sentence) or ""))
            counts[name] += 1
    return found


def disjoint_pairs(evidence: Callable[[str, str], bool]) -> Iterator[tuple[str, str]]:
    """Those opposites that nothing in a detector's lexicon sets against one another as a pair."""
    return (pair for pair in OPPOSITES if not evidence(*pair))


def uncapitalised(sentence: str) -> str:
    """The first letter small, unless the first word is a name."""
    first = sentence.split(" ", 1)[0]
    return (
        sentence
        if first[1:] != first[1:].lower() or any(c.isdigit() for c in first)
        else sentence[0].lower() + sentence[1:]
    )


def _number(sentence: str) -> int:
    return int(hashlib.sha256(sentence.encode()).hexdigest()[:8], 16)
