"""Statistics are exact, whatever the values, the blocks and the order in which parts are merged."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manifests.products import MOST_DIM, Products
from manifests.statistics import BLOCK, Statistics, Summing, different, statistics_file
from manifests.stored import Stored

FEATURES = hnp.arrays(
    np.float16,
    st.tuples(st.integers(0, 20), st.just(3)),
    elements=st.floats(width=16, allow_nan=False, allow_infinity=False),
)


def summed(parts: Sequence[np.ndarray]) -> Statistics:
    summing = Summing()
    for part in parts:
        summing.add(Stored(part))
    return summing.statistics()


def exact(rows: np.ndarray) -> list[list[int]]:
    """Sums of products in units of 2^-48, by whole numbers of Python."""
    units = [[int(value) for value in row] for row in (rows.astype(np.float64) * 2.0**24).tolist()]
    dim = rows.shape[1]
    return [[sum(row[i] * row[j] for row in units) for j in range(dim)] for i in range(dim)]


def integers(products: Products) -> list[list[int]]:
    return [
        [(int(high) << 60) + int(low) for high, low in zip(*row, strict=True)]
        for row in zip(products.high, products.low, strict=True)
    ]


@given(st.lists(FEATURES, min_size=1, max_size=5))
def test_statistics_are_exact_and_merge_in_any_order(parts: list[np.ndarray]) -> None:
    def merged(order: list[np.ndarray]) -> Statistics:
        whole = Statistics()
        for part in order:
            whole.merge(summed([part]))
        return whole

    at_once = summed(parts)
    assert merged(parts) == merged(parts[::-1]) == at_once
    rows = np.concatenate(parts)
    if len(rows):
        assert at_once.products is not None
        assert integers(at_once.products) == exact(rows)
        assert at_once.square == [exact(rows)[i][i] for i in range(3)]
        assert at_once.total == [sum(int(value * 2**24) for value in column) for column in rows.T.tolist()]
        assert (at_once.low, at_once.high) == (rows.min(0).tolist(), rows.max(0).tolist())


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 30.0, 65504.0])
def test_blocks_full_of_the_largest_values_are_exact(scale: float) -> None:
    """Beside the largest value of a block lie the smallest that float16 has, in every frame of it."""
    random = np.random.default_rng(0)
    rows = np.clip(random.normal(size=(BLOCK + 100, 3)) * scale, -65504, 65504).astype(np.float16)
    rows[:, 0] = scale
    rows[:, 1] = np.float16(2.0**-24)
    assert integers(summed([rows]).products) == exact(rows)  # type: ignore[arg-type]
    assert summed(np.array_split(rows, 7)) == summed([rows])


def test_wide_features_have_squares_and_no_products() -> None:
    rows = np.random.default_rng(0).normal(size=(50, MOST_DIM + 1)).astype(np.float16)
    wide = summed([rows])
    assert wide.products is None
    assert wide.square[:3] == [exact(rows[:, :3])[i][i] for i in range(3)]
    assert "covariance" not in wide.arrays()


def test_arrays_are_the_moments_and_whiten() -> None:
    random = np.random.default_rng(0)
    rows = (random.normal(size=(5000, 6)) @ random.normal(size=(6, 6)) - 3).astype(np.float16)
    arrays, values = summed([rows]).arrays(), rows.astype(np.float64)
    np.testing.assert_allclose(arrays["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(arrays["covariance"], np.cov(values.T, bias=True), rtol=1e-9)
    np.testing.assert_array_equal(np.diagonal(arrays["covariance"]), arrays["variance"])
    assert (np.diff(arrays["eigenvalues"]) < 0).all()
    white = (values - arrays["mean"]) @ arrays["eigenvectors"] / np.sqrt(arrays["eigenvalues"])
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-9)


@settings(max_examples=20)
@given(hnp.arrays(np.float16, (30, 4), elements=st.floats(-100, 100, width=16)))
def test_covariances_are_the_float_next_to_the_exact_value(rows: np.ndarray) -> None:
    found = summed([rows]).arrays()["covariance"]
    values = [[Fraction(value) for value in row] for row in rows.astype(np.float64).tolist()]
    for i in range(4):
        for j in range(4):
            mean = sum(row[i] for row in values) * sum(row[j] for row in values) / 900
            assert found[i, j] == float(sum(row[i] * row[j] for row in values) / 30 - mean)


def test_a_table_gives_the_products_back_and_another_one_is_refused() -> None:
    products = summed([np.random.default_rng(0).normal(size=(9, 5)).astype(np.float16)]).products
    assert products is not None
    table = products.table()
    assert Products.of_table(table) == products
    assert Products.of_table(table.slice(0, 0)) is None
    with pytest.raises(ValueError, match="14 rows are no triangle"):
        Products.of_table(table.slice(1))


def test_products_that_one_part_lacks_the_whole_lacks() -> None:
    rows = np.ones((4, 2), np.float16)
    whole, without = summed([rows]), summed([rows])
    without.products = None
    whole.merge(without)
    assert (whole.count, whole.products) == (8, None)


def test_what_two_files_of_statistics_hold_differently_is_named() -> None:
    """Eigenvectors of equal eigenvalues may be any, others not."""
    rows = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]], np.float16)
    expected = safetensors.numpy.load(statistics_file({"train": summed([rows])}))
    turned = np.array([[1, 1, 0], [1, -1, 0], [0, 0, 2**0.5]]) / 2**0.5
    assert list(different(expected | {"eigenvectors": turned}, expected)) == []
    assert list(different(expected | {"eigenvectors": turned[:, ::-1]}, expected)) == ["eigenvectors"]
    assert list(different(expected | {"eigenvectors": turned * 2}, expected)) == ["eigenvectors"]
    other = expected["train.covariance"] + np.diag([1e-15, 0, 0])
    assert list(different(expected | {"train.covariance": other}, expected)) == ["train.covariance"]
    values = expected["train.eigenvalues"]
    assert list(different(expected | {"train.eigenvalues": values + 1e-14}, expected)) == []
    assert list(different(expected | {"train.eigenvalues": values + 1e-3}, expected)) == ["train.eigenvalues"]
    assert list(different({name: expected[name] for name in expected if name != "min"}, expected)) == ["min"]
