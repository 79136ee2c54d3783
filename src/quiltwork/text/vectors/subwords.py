"""fastText's runs of letters: which buckets a word's vector is made of (Bojanowski et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_WORD = 200
"""Letters; what is longer is no word, and its runs are not looked at."""


@dataclass(frozen=True)
class Subwords:
    """shortest, longest : letters of a run. buckets : how many vectors there are; runs of the same hash share one."""

    shortest: int
    longest: int
    buckets: int

    def of(self, word: str) -> list[int]:
        """Buckets of the runs of ``<word>``, as fastText's own programme and gensim find them; none for a word that is
        longer than LONGEST_WORD."""
        if not word or len(word) > LONGEST_WORD:
            return []
        letters = [letter.encode("utf-8", "surrogatepass") for letter in f"<{word}>"]
        found = []
        for begin in range(len(letters)):
            hashed = _OFFSET
            for length, letter in enumerate(letters[begin : begin + self.longest], 1):
                for byte in letter:
                    # The original takes bytes as signed numbers.
                    hashed = (hashed ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * _PRIME & 0xFFFFFFFF
                alone = length == 1 and begin in (0, len(letters) - 1)
                if length >= self.shortest and not alone:
                    found.append(hashed % self.buckets)
        return found


_OFFSET, _PRIME = 2166136261, 16777619
"""FNV-1a's, 32 bits."""
