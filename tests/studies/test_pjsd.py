"""pJSD: what must hold of the divergence, of its interval, its baseline and its correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markov_sources import Source
from scipy.spatial.distance import jensenshannon

from studies.ngrams import Corpus
from studies.pjsd import compare, divergence

COUNTS = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        *[arrays(np.float64, size, elements=st.integers(0, 1000).map(float)).filter(np.any) for _ in "ab"]
    )
)


@given(COUNTS)
def test_it_is_scipys_symmetric_and_between_0_and_1_bit(counts: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = counts
    found = divergence(a, b)
    assert found == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-9)
    assert found == divergence(b, a)
    assert 0 <= found <= 1


@given(COUNTS, st.integers(1, 50))
def test_it_is_0_for_equal_shares_and_1_where_nothing_is_shared(counts: tuple, times: int) -> None:
    a = counts[0]
    assert divergence(a, a * times) == pytest.approx(0, abs=1e-12)
    assert divergence(a, a) == 0
    nothing = np.zeros_like(a)
    assert divergence(np.concatenate([a, nothing]), np.concatenate([nothing, a])) == pytest.approx(1)


def test_half_of_each_kl_divergence_by_hand() -> None:
    """P = (1/2, 1/2), Q = (1, 0), M = (3/4, 1/4): half of 1/2 log2(2/3) + 1/2 log2(2), and half of log2(4/3)."""
    by_hand = 0.5 * (0.5 * np.log2(2 / 3) + 0.5 * np.log2(2)) + 0.5 * np.log2(4 / 3)
    assert divergence(np.array([5.0, 5.0]), np.array([3.0, 0.0])) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="no n-grams"):
        divergence(np.array([0.0]), np.array([1.0]))


def test_equal_corpora_are_0_apart_whatever_their_ids() -> None:
    clips = Source(0).clips(20, 60)
    a, b = (Corpus.of((f"{name}{n}", [clip]) for n, clip in enumerate(clips)) for name in "ab")
    for order in compare(a, b, draws=50):
        assert order.pjsd is not None
        assert order.pjsd.value == 0
        assert order.a == order.b
        assert order.shared == order.a.distinct


def test_sides_that_are_swapped_have_the_same_values() -> None:
    a, b = (Source(seed).corpus(f"{seed}-", 20, 50) for seed in (0, 1))
    for one, other in zip(compare(a, b, (1, 3), 50), compare(b, a, (1, 3), 50), strict=True):
        assert one.pjsd is not None
        assert other.pjsd is not None
        assert one.pjsd.value == other.pjsd.value
        assert (one.a, one.b, one.shared) == (other.b, other.a, other.shared)


def test_equal_seeds_give_equal_results() -> None:
    a, b = Source(0).corpus("a", 20, 40), Source(1).corpus("b", 24, 40)
    assert compare(a, b, (1, 2), 60, seed=3) == compare(a, b, (1, 2), 60, seed=3)
    assert compare(a, b, (1,), 60, seed=3)[0].pjsd != compare(a, b, (1,), 60, seed=4)[0].pjsd


def test_the_baseline_tells_one_source_from_two() -> None:
    """At equal sample sizes halves of one source are as far apart as two samples of it, and another one is further."""
    same = compare(Source(0).corpus("a", 60, 80, 1), Source(0).corpus("b", 60, 80, 2), (1, 2, 3), 50)
    other = compare(Source(0).corpus("a", 60, 80, 1), Source(0, mixed=0.4).corpus("b", 60, 80, 2), (1, 2, 3), 50)
    for alike, apart in zip(same, other, strict=True):
        matched, far = alike.matched, apart.matched
        assert matched.between is not None
        assert matched.within_a is not None
        assert matched.within_b is not None
        assert matched.phones == 60 * 80 // 2
        assert matched.within_a.low <= matched.between.value <= matched.within_a.high
        assert far.between is not None
        assert far.within_a is not None
        assert far.between.low > far.within_a.high


def test_the_value_falls_as_the_sample_grows_and_the_curve_says_so() -> None:
    (order,) = compare(Source(0).corpus("a", 64, 50, 1), Source(0).corpus("b", 64, 50, 2), (2,), 50)
    values = [point.pjsd for point in order.curve]
    assert values == sorted(values, reverse=True)
    assert [point.phones_a for point in order.curve] == [400, 800, 1600, 3200]
    assert order.pjsd is not None
    assert values[-1] == order.pjsd.value


@pytest.mark.parametrize("mixed", [0.0, 0.3])
def test_the_correction_comes_closer_to_a_known_truth_and_its_interval_holds_it(mixed: float) -> None:
    """Two sources whose divergence is known exactly, sampled many times."""
    one, other = Source(0), Source(0, mixed=mixed)
    truth = one.truth(other, 2)
    plain, corrected, held = [], [], []
    for seed in range(12):
        a, b = one.corpus("a", 100, 200, 2 * seed), other.corpus("b", 100, 200, 2 * seed + 1)
        (order,) = compare(a, b, (2,), 60, seed)
        assert order.pjsd is not None
        assert order.corrected is not None, order
        plain.append(order.pjsd.value - truth)
        corrected.append(order.corrected.value - truth)
        held.append(order.corrected.low <= truth <= order.corrected.high)
    assert abs(np.mean(corrected)) < 0.2 * abs(np.mean(plain))
    assert np.sqrt(np.mean(np.square(corrected))) < 0.4 * np.sqrt(np.mean(np.square(plain)))
    assert np.mean(held) >= 0.75


def test_no_correction_is_given_where_it_would_leave_most_of_the_bias() -> None:
    """Five hundred trigrams of 20 symbols each are far too few: extrapolating them would still be far off."""
    one = Source(0)
    (order,) = compare(one.corpus("a", 40, 50, 1), one.corpus("b", 40, 50, 2), (4,), 50)
    assert order.pjsd is not None
    assert order.pjsd.value > 0.3  # of one source: all of it is bias
    assert order.corrected is None
    assert "too small" in order.notes[0]


def test_a_part_is_compared_with_its_whole_by_clips_they_share() -> None:
    whole = Source(0).corpus("x", 60, 60)
    part = Corpus.of((clip, stretches) for clip, stretches in _clips(whole) if int(clip[1:]) % 3 == 0)
    (order,) = compare(part, whole, (2,), 60)
    matched = order.matched
    assert matched.between is not None
    assert matched.within_b is not None
    # Samples of the whole that hold no clip of the part's sample: a random part differs as much as chance makes it.
    assert matched.within_b.low <= matched.between.value <= matched.within_b.high
    (alone,) = compare(part, Source(0).corpus("y", 60, 60, 9), (2,), 60)
    assert order.pjsd is not None
    assert alone.pjsd is not None
    assert order.pjsd.value < alone.pjsd.value


def _clips(corpus: Corpus) -> list[tuple[str, list[list[str]]]]:
    symbols = np.array(corpus.alphabet)[corpus.phones]
    return [(clip, [symbols[corpus.clip_of == place].tolist()]) for place, clip in enumerate(corpus.clips)]


def test_what_little_sound_cannot_tell_is_left_out_with_a_note() -> None:
    a, b = (Corpus.of([("x", [["a", "b"]]), ("y", [])]), Corpus.of([("z", [["a"], ["b"]])]))
    one, two = compare(a, b, (1, 2), 50)
    assert one.pjsd is not None
    assert (one.pjsd.value, one.pjsd.low) == (0.0, None)
    assert one.matched.within_b is None
    assert "fewer than 8 clips" in one.notes[0]
    assert two.pjsd is None
    assert two.notes == ("a side has no stretch of speech of 2 phones",)
