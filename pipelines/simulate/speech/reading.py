"""Texts as words with their phonemes in IPA, by espeak-ng, also where that runs words together.

espeak-ng writes "in the" as one group of phonemes. Such groups are divided by an alignment with the words as they are
read alone; where that leaves a word without phonemes, the words of the clause are read alone.
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
"""What espeak-ng would spell letter by letter."""
MARKS = {",": ",", ";": ";", ":": ":", ".": ".", "…": ".", "!": "!", "?": "?", "-": ",", "–": ",", "—": ","}
EDGES = re.compile(r"^[^\w']*(.*?)([^\w']*)$", re.DOTALL)
LANGUAGE = re.compile(r"\([a-z-]+\)")
VOWELS = set("aeiouyæɐɑɒɔəɚɛɜɞɘɤɨɪʉʊʌɯᵻøœ")
MODIFIERS = set("ˈˌː")
AT_ONCE = 100
"""Texts that one call of espeak-ng reads."""


@dataclass(frozen=True)
class Word:
    """A word as it is written, its marks included, with what is said."""

    text: str
    phones: tuple[str, ...]
    """IPA with marks of stress and length."""
    mark: str
    """The mark of punctuation that follows it, one of `,;:.!?`, or nothing."""


def read(texts: Sequence[str]) -> list[tuple[Word, ...]]:
    """The words of each text. Raises SpeechmillError for a text in which nothing is said."""
    written = [list(_written(text)) for text in texts]
    for text, words in zip(texts, written, strict=True):
        if not words:
            raise SpeechmillError(f"{text!r:.80}: a text without a word", "write words, or take the line out")
    runs = [list(_runs(words)) for words in written]
    alone = {core for words in written for _, core, _ in words}
    spoken = _spoken(sorted(alone | {" ".join(core for _, core, _ in run) for found in runs for run in found}))
    return [tuple(word for run in found for word in _read_run(run, spoken)) for found in runs]


Written = tuple[str, str, str]
"""A word as it is written, without its marks, and the mark that follows it."""


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
        elif held and part:  # a dash, or other signs that stand alone, belong to the word before
            held = f"{held[0]} {part}", held[1], held[2] or mark
    if held:
        yield held


def _runs(words: Sequence[Written]) -> Iterator[list[Written]]:
    """Words that are read together: those between marks, and each interjection alone."""
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
    """For each text the groups of phonemes that espeak-ng writes apart."""
    found = {}
    for at in range(0, len(texts), AT_ONCE):
        some = texts[at : at + AT_ONCE]
        lines = _lines("\n\n".join(some))
        if len(lines) != len(some):  # a text that espeak-ng reads as several clauses, or as none
            lines = [" ".join(_lines(text)) for text in some]
        for text, line in zip(some, lines, strict=True):
            found[text] = [_symbols(group) for group in line.split()]
    return found


def _lines(text: str) -> list[str]:
    said = LANGUAGE.sub(" ", espeak_ng.read(text, VOICE, "install a complete espeak-ng"))
    return [line for line in said.splitlines() if line.strip()]


def _symbols(group: str) -> list[str]:
    return [symbol for symbol in group.split("_") if symbol.strip("-")]


def _read_run(run: Sequence[Written], spoken: dict[str, list[list[str]]]) -> Iterator[Word]:
    if len(run) == 1 and (said := INTERJECTIONS.get(run[0][1].lower())):
        yield Word(run[0][0], said, run[0][2])
        return
    alone = [_joined(spoken[core]) for _, core, _ in run]
    groups = spoken[" ".join(core for _, core, _ in run)]
    together = divided(groups, alone)
    for (text, core, mark), phones in zip(run, together or alone, strict=True):
        if not phones:
            raise SpeechmillError(f"espeak-ng reads nothing for {core!r:.50}", "spell it otherwise, or take it out")
        yield Word(text, tuple(phones), mark)


def _joined(groups: Iterable[Sequence[str]]) -> list[str]:
    return [symbol for group in groups for symbol in group]


def divided(groups: Sequence[Sequence[str]], alone: Sequence[Sequence[str]]) -> list[list[str]] | None:
    """The phonemes of `groups` by words, which are read as `alone` when each stands alone; None where one gets none.

    >>> divided([["ɪ", "n", "ð", "ə"], ["h", "ˈaʊ", "s"]], [["ˈɪ", "n"], ["ð", "ˈə"], ["h", "ˈaʊ", "s"]])
    [['ɪ', 'n'], ['ð', 'ə'], ['h', 'ˈaʊ', 's']]
    """
    if len(groups) == len(alone):
        pairs = zip(groups, alone, strict=True)
        if all(_costs(group, phones)[-1][-1] <= len(phones) / 2 + 1 for group, phones in pairs):
            return [list(group) for group in groups]
    said, wanted = _joined(groups), _joined(alone)
    owner = [number for number, phones in enumerate(alone) for _ in phones]
    begins = {sum(map(len, groups[:number])) for number in range(len(groups))}
    made: list[list[str]] = [[] for _ in alone]
    word = 0
    for at, partner in enumerate(_aligned(said, wanted)):
        if partner is not None:
            word = max(word, owner[partner])
        elif at in begins and made[word] and word + 1 < len(alone):
            word += 1
        made[word].append(said[at])
    return made if all(made) else None


def _costs(said: Sequence[str], wanted: Sequence[str]) -> list[list[float]]:
    """The least costs of aligning the first phonemes of both, by how many those are."""
    costs = [[float(column) for column in range(len(wanted) + 1)]]
    for row, one in enumerate(said, 1):
        line = [float(row)]
        for column, other in enumerate(wanted, 1):
            line.append(min(costs[-1][column - 1] + _cost(one, other), costs[-1][column] + 1, line[column - 1] + 1))
        costs.append(line)
    return costs


def _aligned(said: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each phoneme of `said` its partner in `wanted`, by the least sum of costs (Needleman and Wunsch)."""
    costs = _costs(said, wanted)
    partners: list[int | None] = [None] * len(said)
    row, column = len(said), len(wanted)
    while row and column:
        here = costs[row][column]
        if here == costs[row - 1][column - 1] + _cost(said[row - 1], wanted[column - 1]):
            row, column = row - 1, column - 1
            partners[row] = column
        elif here == costs[row - 1][column] + 1:
            row -= 1
        else:
            column -= 1
    return partners


def _cost(one: str, other: str) -> float:
    """0 for equal phonemes, stress and length aside, less than 1 for two vowels, more than that for unlike ones."""
    a, b = ("".join(sign for sign in phone if sign not in MODIFIERS) for phone in (one, other))
    if a == b:
        return 0
    return 0.75 if (a[:1] in VOWELS) == (b[:1] in VOWELS) else 1.75
