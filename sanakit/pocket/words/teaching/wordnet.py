"""WordNet's nouns for physical things, and the kinds of a thing: "poodle" is a kind of dog.

Source: the files data.noun and index.noun of WordNet 3.1, in the format of its manual page wndb(5).
"""

from __future__ import annotations

import re

# lexicographer files: animal, artifact, body, cognition (where ghosts are), food, location, object, person,
# phenomenon, plant, shape, substance
PHYSICAL = frozenset({5, 6, 8, 9, 13, 15, 17, 18, 19, 20, 25, 27})
WIDE = 400  # kinds; of a thing with more ("person"), only the frequent ones are taught


class Nouns:
    """All nouns with their senses."""

    def __init__(self, data: str, index: str) -> None:
        """Read the texts of data.noun and index.noun."""
        self._synsets: dict[str, tuple[int, list[str], list[str], str]] = {}  # file, words, kinds, gloss
        for line in data.splitlines():
            if line.startswith(" "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split(" ")
            count = int(fields[3], 16)
            words = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
            rest = fields[5 + 2 * count :]
            below = [rest[i + 1] for i, mark in enumerate(rest) if mark in ("~", "~i")]
            self._synsets[fields[0]] = (int(fields[1]), words, below, re.split("[;:]", gloss)[0].strip())
        self._senses: dict[str, list[str]] = {}
        for line in index.splitlines():
            if not line.startswith(" "):
                word, *rest = line.split(" ")
                senses = [key for key in rest if key in self._synsets]
                self._senses[word.replace("_", " ")] = senses

    def frequent(self, frequent: set[str]) -> dict[str, str]:
        """Return the nouns of one or two frequent words, with the gloss of their first physical sense."""
        found: dict[str, str] = {}
        for word, senses in self._senses.items():
            if re.fullmatch(r"[a-z]{2,}([ -][a-z]+)?", word) and set(re.split("[ -]", word)) <= frequent:
                physical = [self._synsets[key] for key in senses[:3] if self._synsets[key][0] in PHYSICAL]
                if physical:
                    found[word] = physical[0][3]
        return found

    def kinds(self, names: set[str], frequent: set[str]) -> dict[str, str]:
        """Return the kinds of named things, each with the name of the nearest of those things."""
        found: dict[str, tuple[int, str]] = {}
        for name in sorted(names):
            senses = [key for key in self._senses.get(name, [])[:2] if self._synsets[key][0] in PHYSICAL]
            below = self._below(senses[0]) if senses else {}
            for key, depth in below.items():
                for word in self._synsets[key][1]:
                    plain = re.fullmatch(r"[A-Za-z]{3,}([ -][A-Za-z]+)?", word)
                    known = set(re.split("[ -]", word.lower())) <= frequent
                    if (
                        plain
                        and (known or len(below) <= WIDE)
                        and depth < found.get(word.lower(), (99, ""))[0]
                    ):
                        found[word.lower()] = (depth, name)
        return {word: name for word, (_, name) in found.items() if word not in names}

    def _below(self, key: str) -> dict[str, int]:
        """Return all synsets below one, itself included, with their depth."""
        depths, waiting = {key: 0}, [key]
        while waiting:
            here = waiting.pop(0)
            for kind in self._synsets[here][2]:
                if kind in self._synsets and kind not in depths:
                    depths[kind] = depths[here] + 1
                    waiting.append(kind)
        return depths
