"""Verbs that say more of something and verbs that say less: signs that spread from one pair of antonyms over a graph
of WordNet's relations and of a corpus's patterns (after Hatzivassiloglou and McKeown 1997).

The pair is the one that the corpus sets against one another most often among WordNet's antonymous verbs.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from quiltwork.text.polarity.lexicon import LESS, MORE, Entry
from quiltwork.text.polarity.patterns import PLAIN, Counted
from quiltwork.text.polarity.wordnet import WordNet

SENSES = 3
"""Of a verb, its first senses count, the n-th by one n-th."""
SYNONYM, HYPERNYM, GLOSS, ANTONYM = 1.0, 0.5, 0.4, -2.0
PATTERNS: Mapping[str, float] = {
    "rather than": -1.5, "neither nor": -1.5, "either or": -1.0, "both and": -1.0, "between and": -1.0, "or": -0.5,
    "versus": -1.0, "vs": -1.0, "from to": -1.0, "instead of": -1.0, "and not": -1.0, "but not": 1.5,
    "(": -1.0, "/": -0.5, "and respectively": -1.0,
}  # fmt: skip
"""Times the logarithm of 1 + how often. Reduced but not abolished: of one direction."""
UNSURE = "/"
"""Stands between synonyms as often as between antonyms: no evidence for a pair."""
KINDS, TIMES = 2, 3
"""By how many patterns, and how often in all, a pair has to be set against one another to count as one."""
RESTART, ROUNDS = 0.15, 60
SHOWN = 4
"""Neighbours in the evidence, besides all that the word is set against."""
CAUSES = frozenset((11,))
"""Frames of verbs that a thing can do to a thing."""
SUREST, NEAREST, OFTEN = 0.35, 2e-4, 20
"""How much of what reaches a verb has to agree; how much has to reach it; how often the corpus has its past form."""
_DENIES = frozenset(("not", "no", "less", "without", "from", "against"))
_NOTHING = frozenset(
    [
        "be",
        "become",
        "make",
        "cause",
        "come",
        "give",
        "have",
        "put",
        "bring",
        "get",
        "do",
        "take",
        "use",
        "go",
        "in",
        "of",
        "some",
        "something",
        "someone",
    ]
)
"""Verbs that glosses are full of."""
_ENDINGS = ("ing", "ed", "ion", "or", "er", "ment", "s")
Graph = dict[str, dict[str, float]]


def signs_of(counted: Counted, wordnet: WordNet, without: frozenset[tuple[str, str]] = frozenset()) -> list[Entry]:
    """Lines of kind ``sign``; the evidence is how sure, then the neighbours that weigh most and all
    that the verb is set against, with the weights of these edges.

    without : pairs that are taken out of the graph before, so that what it says of them can be held against WordNet.
    """
    patterns = _patterns(counted, wordnet)
    graph = _graph(wordnet, patterns)
    for a, b in without:
        graph.get(a, {}).pop(b, None)
        graph.get(b, {}).pop(a, None)
    up, down = _seeds(wordnet, patterns)
    signed = _spread(graph, {up: 1.0, down: -1.0}, signed=True)
    all_of_it = _spread(graph, {up: 1.0, down: 1.0}, signed=False)
    found = []
    for word, reached in sorted(all_of_it.items()):
        sure = signed[word] / reached if reached else 0.0
        if abs(sure) >= SUREST and reached >= NEAREST and _acts(word, wordnet) and _pasts(word, counted) >= OFTEN:
            near = sorted(graph[word], key=lambda other: (-abs(graph[word][other] * all_of_it[other]), other))
            near = [other for rank, other in enumerate(near) if rank < SHOWN or graph[word][other] < 0]
            reasons = " ".join(f"{other}:{graph[word][other]:+.2f}" for other in near)
            found.append(Entry("sign", word, MORE if sure > 0 else LESS, "graph", f"{abs(sure):.2f} {reasons}"))
    return found


def contrasted(counted: Counted, wordnet: WordNet) -> list[Entry]:
    """Pairs of verbs that the corpus sets against one another by several patterns; not where one goes further than the
    other (reduced but not abolished)."""
    found = []
    for (a, b), how in sorted(_patterns(counted, wordnet).items()):
        against = {pattern: times for pattern, times in how.items() if PATTERNS[pattern] < 0 and pattern != UNSURE}
        often = len(against) >= KINDS and sum(against.values()) >= TIMES and how["but not"] <= how["rather than"]
        if often and _acts(a, wordnet) and _acts(b, wordnet):
            evidence = ", ".join(f"{pattern} {against[pattern]}" for pattern in sorted(against))
            found.append(Entry("pair", a, b, "corpus", evidence))
    return found


def _graph(wordnet: WordNet, patterns: Mapping[tuple[str, str], Counter[str]]) -> Graph:
    graph: Graph = defaultdict(lambda: defaultdict(float))

    def edge(a: str, b: str, weight: float) -> None:
        if a != b:
            graph[a][b] += weight
            graph[b][a] += weight

    for key, synset in wordnet.synsets.items():
        if key[0] != "v":
            continue
        weights = {word: weight for word in synset.words if (weight := _weight(wordnet, word, key))}
        for a in weights:
            for b in weights:
                if a < b:
                    edge(a, b, SYNONYM * weights[a] * weights[b])
            for b, weight in _said_of(synset.gloss, wordnet):
                edge(a, b, GLOSS * weights[a] * weight)
        for pointer in synset.pointers:
            if pointer.symbol in "@$" and pointer.synset in wordnet.synsets:
                for a in weights:
                    for b in wordnet.synsets[pointer.synset].words:
                        edge(a, b, HYPERNYM * weights[a] * _weight(wordnet, b, pointer.synset))
            elif pointer.symbol == "!":
                a, b = wordnet.words(key, pointer.source)[0], wordnet.words(pointer.synset, pointer.target)[0]
                if a < b:  # either end points to the other
                    edge(a, b, 2 * ANTONYM * max(_weight(wordnet, a, key), _weight(wordnet, b, pointer.synset)))
    for (a, b), how in patterns.items():
        for pattern, times in how.items():
            edge(a, b, PATTERNS[pattern] * math.log1p(times))
    return {a: {b: weight for b, weight in near.items() if weight} for a, near in graph.items()}


def _weight(wordnet: WordNet, word: str, key: tuple[str, int]) -> float:
    senses = wordnet.senses.get((key[0], word), [])[:SENSES]
    return 1 / (1 + senses.index(key)) if key in senses and re.fullmatch(r"[a-z]+", word) else 0.0


def _said_of(gloss: str, wordnet: WordNet) -> list[tuple[str, float]]:
    """Verbs of a gloss's first clause with their weights: less the later they come, below 0 behind a denial."""
    found = []
    sign, place = 1.0, 0
    for token in re.findall(r"[a-z]+", re.split(r'; |"', gloss)[0].lower()):
        if token in _DENIES:
            sign = -1.0
            continue
        verb = wordnet.lemma(token, "v")
        if verb and verb not in _NOTHING:
            found.append((verb, sign / (1 + 0.5 * place)))
        place += token not in _NOTHING
    return found


def _patterns(counted: Counted, wordnet: WordNet) -> dict[tuple[str, str], Counter[str]]:
    """By two verbs in order, the patterns that set forms of one kind of them, or nouns made of them, side by side."""
    nouns = _nouns_of_verbs(wordnet)
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (a, b), how in counted.beside.items():
        formed = _verbs_formed(a, b, nouns, wordnet)
        plain = (a, b) if ("v", a) in wordnet.senses and ("v", b) in wordnet.senses else None
        for pattern, times in how.items():
            verbs = plain if pattern.startswith(PLAIN) else formed
            pattern = pattern.removeprefix(PLAIN)
            if verbs and verbs[0] != verbs[1] and pattern in PATTERNS:
                found[min(verbs), max(verbs)][pattern] += times
    return found


def _verbs_formed(a: str, b: str, nouns: Mapping[str, str], wordnet: WordNet) -> tuple[str, str] | None:
    """The verbs that two words with one ending are forms of, or nouns made of; in -s, nouns if both are."""
    ending = next((e for e in _ENDINGS if a.endswith(e) and b.endswith(e)), None)
    if ending is None:
        return None
    as_nouns = [nouns.get(wordnet.lemma(word, "n") or "") for word in (a, b)]
    as_verbs = [wordnet.lemma(word, "v") for word in (a, b)]
    if ending in ("ing", "ed"):
        one, other = as_verbs
    elif ending == "s" and not all(as_nouns):
        one, other = (noun or verb for noun, verb in zip(as_nouns, as_verbs, strict=True))
    else:
        one, other = as_nouns
    return (one, other) if one and other else None


def _nouns_of_verbs(wordnet: WordNet) -> dict[str, str]:
    """Nouns that WordNet derives from a verb that begins alike: inhibition, of inhibit."""
    found: dict[str, str] = {}
    for key, pointer in wordnet.pointers("+"):
        if key[0] == "v" and pointer.synset[0] == "n" and pointer.source and pointer.target:
            verb, noun = wordnet.words(key, pointer.source)[0], wordnet.words(pointer.synset, pointer.target)[0]
            if noun[:4] == verb[:4] and noun != verb and re.fullmatch(r"[a-z]{4,}", verb):
                found.setdefault(noun, verb)
    return found


def _seeds(wordnet: WordNet, patterns: Mapping[tuple[str, str], Counter[str]]) -> tuple[str, str]:
    """(more, less): WordNet's antonyms that stand with ``or`` between them most often; more is the one whose gloss
    says so."""
    antonyms = {
        tuple(sorted((wordnet.words(key, p.source)[0], wordnet.words(p.synset, p.target)[0])))
        for key, p in wordnet.pointers("!")
        if key[0] == "v"
    }
    best = max(sorted(antonyms), key=lambda pair: patterns[pair]["or"] if pair in patterns else 0)  # type: ignore[index]
    first, second = best
    gloss = wordnet.synsets[wordnet.senses["v", first][0]].gloss
    return (second, first) if re.search(r"\b(less|smaller|decrease)\b", gloss) else (first, second)


def _spread(graph: Graph, seeds: Mapping[str, float], *, signed: bool) -> dict[str, float]:
    """A random walk that starts again at the seeds; an edge below 0 turns what goes along it."""
    degree = {a: sum(map(abs, near.values())) for a, near in graph.items()}
    held = dict(seeds)
    for _ in range(ROUNDS):
        after: dict[str, float] = defaultdict(float)
        for a, value in held.items():
            share = (1 - RESTART) * value / degree[a]
            for b, weight in graph[a].items():
                after[b] += share * (weight if signed else abs(weight))
        for seed, value in seeds.items():
            after[seed] += RESTART * value
        held = dict(after)
    return held


def _acts(word: str, wordnet: WordNet) -> bool:
    senses = wordnet.senses.get(("v", word), [])[:SENSES]
    return any(wordnet.synsets[key].frames & CAUSES for key in senses)


def _pasts(word: str, counted: Counted) -> int:
    return counted.words[f"{word}ed"] + counted.words[f"{word}d"]
