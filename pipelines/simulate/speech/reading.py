"""Converts texts to words with their phonemes in IPA, by espeak-ng.

espeak-ng merges some words, such as "in the", into one group of phonemes. Such groups are divided by an alignment with
the words as they are read alone. If a word would get no phonemes, all words of the clause are read alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runtime import espeak_ng
from runtime.errors import SpeechmillError

VOICE = "en-us"
INTERJECTIONS = {
    "mm-hm": ("m", "h", "ˈm"),
    "mhm": ("m", "h", "ˈm"),
    "mm": ("ˈmː",),
    "hm": ("h", "ˈm"),
    "hmm": ("h", "ˈmː"),
}
"""Interjections that espeak-ng would spell letter by letter."""
MARKS = {",": ",", ";": ";", ":": ":", ".": ".", "…": ".", "!": "!", "?": "?", "-": ",", "–": ",", "—": ","}
EDGES = re.compile(r"^[^\w']*(.*?)([^\w']*)$", re.DOTALL)
LANGUAGE = re.compile(r"\([a-z-]+\)")
VOWELS = set("aeiouyæɐɑɒɔəɚɛɜɞɘɤɨɪʉʊʌɯᵻøœ")
MODIFIERS = set("ˈˌː")
AT_ONCE = 100
"""Number of texts that one call of espeak-ng reads."""


@dataclass(frozen=True)
class Word:
    """A word as it is written, with its punctuation, and its phonemes."""

    text: str
    phones: tuple[str, ...]
    """IPA with marks of stress and length."""
    mark: str
    """The mark of punctuation that follows it, one of `,;:.!?`, or nothing."""


def read(texts: Sequence[str]) -> list[tuple[Word, ...]]:
    """Return the words of each text. Raises SpeechmillError for a text without words."""
    written = [list(_written(text)) for text in texts]
    for text, words in zip(texts, written, strict=True):
        if not words:
            raise SpeechmillError(f"{text!r:.80}: a text without a word", "write words, or remove the line")
    runs = [list(_runs(words)) for words in written]
    alone = {core for words in written for _, core, _ in words}
    spoken = _spoken(sorted(alone | {" ".join(core for _, core, _ in run) for found in runs for run in found}))
    return [tuple(word for run in found for word in _read_run(run, spoken)) for found in runs]


Written = tuple[str, str, str]
"""A word as it is written, the word without punctuation, and the punctuation mark that follows it."""


def _written(text: str) -> Iterator[Written]:
    held: Written | None = None
    for part in espeak_ng.one_line(text).split(" "):
        found = EDGES.match(part)
        assert found is not None
        core = found[1]
        mark = next((MARKS[sign] for sign in (found[2] if core else part) if sign in MARKS), "")
        if core.strip("'"):
            if held:
                yield held
            held = part, core, mark
        elif held and part:  # a dash or another sign that stands alone belongs to the previous word
            held = f"{held[0]} {part}", held[1], held[2] or mark
    if held:
        yield held


def _runs(words: Sequence[Written]) -> Iterator[list[Written]]:
    """Yield words that are read together: those between punctuation marks, and each interjection by itself."""
    run: list[Written] = []
    for word in words:
        if word[1].lower() in INTERJECTIONS:
            if run:
                yield run
            yield [word]
            run = []
            continue
        run.append(word)
        if word[2]:
            yield run
            run = []
    if run:
        yield run


def _spoken(texts: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return, for each text, the groups of phonemes that espeak-ng separates by spaces."""
    found = {}
    for at in range(0, len(texts), AT_ONCE):
        some = texts[at : at + AT_ONCE]
        lines = _lines("\n\n".join(some))
        if len(lines) != len(some):  # espeak-ng reads one of the texts as several clauses or as none
            lines = [" ".join(_lines(text)) for text in some]
        for text, line in zip(some, lines, strict=True):
            found[text] = [_symbols(group) for group in line.split()]
    return found


def _lines(text: str) -> list[str]:
    phonemes = LANGUAGE.sub(" ", espeak_ng.read(text, VOICE, "install a complete espeak-ng"))
    return [line for line in phonemes.splitlines() if line.strip()]


def _symbols(group: str) -> list[str]:
    return [symbol for symbol in group.split("_") if symbol.strip("-")]


def _read_run(run: Sequence[Written], spoken: dict[str, list[list[str]]]) -> Iterator[Word]:
    if len(run) == 1 and (interjection := INTERJECTIONS.get(run[0][1].lower())):
        yield Word(run[0][0], interjection, run[0][2])
        return
    alone = [_joined(spoken[core]) for _, core, _ in run]
    groups = spoken[" ".join(core for _, core, _ in run)]
    together = divided(groups, alone)
    for (text, core, mark), phones in zip(run, together or alone, strict=True):
        if not phones:
            raise SpeechmillError(f"espeak-ng reads nothing for {core!r:.50}", "change its spelling, or remove it")
        yield Word(text, tuple(phones), mark)


def _joined(groups: Iterable[Sequence[str]]) -> list[str]:
    return [symbol for group in groups for symbol in group]


def divided(groups: Sequence[Sequence[str]], alone: Sequence[Sequence[str]]) -> list[list[str]] | None:
    """Divide `groups` of phonemes between words, whose phonemes are `alone` when each is read alone.

    Returns None if a word would get no phonemes.

    >>> divided([["ɪ", "n", "ð", "ə"], ["h", "ˈaʊ", "s"]], [["ˈɪ", "n"], ["ð", "ˈə"], ["h", "ˈaʊ", "s"]])
    [['ɪ', 'n'], ['ð', 'ə'], ['h', 'ˈaʊ', 's']]
    """
    if len(groups) == len(alone):
        pairs = zip(groups, alone, strict=True)
        if all(_costs(group, phones)[-1][-1] <= len(phones) / 2 + 1 for group, phones in pairs):
            return [list(group) for group in groups]
    spoken, reference = _joined(groups), _joined(alone)
    owner = [number for number, phones in enumerate(alone) for _ in phones]
    begins = {sum(map(len, groups[:number])) for number in range(len(groups))}
    made: list[list[str]] = [[] for _ in alone]
    word = 0
    for at, partner in enumerate(_aligned(spoken, reference)):
        if partner is not None:
            word = max(word, owner[partner])
        elif at in begins and made[word] and word + 1 < len(alone):
            word += 1
        made[word].append(spoken[at])
    return made if all(made) else None


def _costs(spoken: Sequence[str], reference: Sequence[str]) -> list[list[float]]:
    """Return the lowest cost of aligning the first i phonemes of one with the first j of the other, by i and j."""
    costs = [[float(column) for column in range(len(reference) + 1)]]
    for row, one in enumerate(spoken, 1):
        line = [float(row)]
        for column, other in enumerate(reference, 1):
            line.append(min(costs[-1][column - 1] + _cost(one, other), costs[-1][column] + 1, line[column - 1] + 1))
        costs.append(line)
    return costs


def _aligned(spoken: Sequence[str], reference: Sequence[str]) -> list[int | None]:
    """Align (Needleman and Wunsch): return the index in `reference` of each phoneme of `spoken`, or None."""
    costs = _costs(spoken, reference)
    partners: list[int | None] = [None] * len(spoken)
    row, column = len(spoken), len(reference)
    while row and column:
        here = costs[row][column]
        if here == costs[row - 1][column - 1] + _cost(spoken[row - 1], reference[column - 1]):
            row, column = row - 1, column - 1
            partners[row] = column
        elif here == costs[row - 1][column] + 1:
            row -= 1
        else:
            column -= 1
    return partners


def _cost(one: str, other: str) -> float:
    """The cost of a pair: 0 for equal phonemes (without stress and length), 0.75 for vowel pairs and consonant pairs,
    1.75 for a vowel and a consonant."""
    a, b = ("".join(sign for sign in phone if sign not in MODIFIERS) for phone in (one, other))
    if a == b:
        return 0
    return 0.75 if (a[:1] in VOWELS) == (b[:1] in VOWELS) else 1.75
