"""N-grams lie within a stretch of speech, and are counted by clip as one by one."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from studies.ngrams import Corpus, count_ngrams

STRETCHES = st.lists(st.lists(st.sampled_from("abcd"), max_size=7), max_size=4)
CLIPS = st.lists(STRETCHES, max_size=4)


def named(clips: list[list[list[str]]]) -> Corpus:
    return Corpus.of((str(number), stretches) for number, stretches in enumerate(clips))


def plainly(stretches: list[list[str]], n: int) -> Counter[tuple[str, ...]]:
    """N-grams of one clip, one by one."""
    return Counter(tuple(part[at : at + n]) for part in stretches for at in range(len(part) - n + 1))


@given(one=CLIPS, other=CLIPS, n=st.integers(1, 6))
def test_counts_are_those_of_counting_one_by_one(one: list, other: list, n: int) -> None:
    counts = count_ngrams([named(one), named(other)], n)
    for clips, found in zip((one, other), counts, strict=True):
        assert found.shape[0] == len(clips)
        for stretches, row in zip(clips, found.toarray(), strict=True):
            assert sorted(row[row > 0]) == sorted(plainly(stretches, n).values())
    total = [sum((plainly(stretches, n) for stretches in clips), Counter()) for clips in (one, other)]
    assert counts[0].shape[1] == len(total[0] | total[1])
    shared = np.minimum(*(found.sum(axis=0) > 0 for found in counts)).sum()
    assert shared == len(total[0].keys() & total[1].keys())


def test_n_grams_cross_no_pause_and_no_clip() -> None:
    corpus = Corpus.of([("x", [["a", "b"], ["c"]]), ("y", [["d", "a", "b"]])])
    bigrams, trigrams = (count_ngrams([corpus], n)[0] for n in (2, 3))
    assert bigrams.toarray().sum(axis=1).tolist() == [1, 2]  # ab; da, ab
    assert bigrams.shape[1] == 2
    assert trigrams.toarray().sum(axis=1).tolist() == [0, 1]


def test_a_long_alphabet_and_long_n_grams_are_counted_without_overflow() -> None:
    symbols = [f"s{number}" for number in range(5000)]
    corpus = Corpus.of([("x", [symbols]), ("y", [symbols[::-1], symbols])])
    (counts,) = count_ngrams([corpus], 8)
    assert counts.toarray().sum(axis=1).tolist() == [4993, 2 * 4993]
    assert counts.shape[1] == 2 * 4993
