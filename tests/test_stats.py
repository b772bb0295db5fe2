"""Intervals and adjusted comparisons equal scipy's, numpy's, or numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from densereward.evaluation.stats import (
    at_matched_kl,
    bootstrap_ci,
    length_controlled,
    mean_interval,
    paired_contrast,
)


def test_three_seeds_get_the_wide_interval_of_the_t_table():
    """With the normal's 1.96 in place of 4.303 a reader would take noise for a finding."""
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / np.sqrt(3)  # t table, 2 degrees of freedom; the values' deviation is 1
    assert (mean, low, high) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-6)


def test_mean_interval_equals_scipy_at_other_levels_and_sizes():
    values = np.random.default_rng(0).normal(3, 2, 7)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.8)
    assert mean_interval(values, 0.8)[1:] == pytest.approx((expected.low, expected.high))


def test_one_seed_has_a_mean_and_no_interval():
    mean, low, high = mean_interval([0.5])
    assert mean == 0.5 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_missing_or_broken_values_are_refused_not_averaged(values):
    with pytest.raises(ValueError):
        mean_interval(values)


def test_bootstrap_equals_resampling_by_hand_and_repeats_with_its_seed():
    values = np.random.default_rng(1).exponential(size=60)
    low, high = bootstrap_ci(values, np.random.default_rng(2))
    draws = np.random.default_rng(3).integers(0, 60, (10_000, 60))
    assert (low, high) == pytest.approx(tuple(np.quantile(values[draws].mean(1), [0.025, 0.975])), abs=0.02)
    assert (low, high) == bootstrap_ci(values, np.random.default_rng(2))
    narrow = bootstrap_ci(values, np.random.default_rng(2), level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_bootstrap_of_equal_values_is_a_point_and_of_few_is_refused():
    assert bootstrap_ci([0.25] * 20, np.random.default_rng(0)) == (0.25, 0.25)
    with pytest.raises(ValueError, match="mean_interval"):
        bootstrap_ci([1.0, 2.0, 3.0], np.random.default_rng(0))


def test_paired_contrast_equals_scipys_paired_test_whatever_the_order_of_seeds():
    a = {0: 1.0, 1: 3.0, 2: 2.5, 3: 4.0}
    b = {3: 3.1, 2: 2.0, 1: 2.2, 0: 0.1}
    expected = scipy_stats.ttest_rel([a[s] for s in range(4)], [b[s] for s in range(4)])
    found = paired_contrast(a, b)
    interval = expected.confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["difference"] == pytest.approx(0.775)
    assert (found["seeds"], found["wins"], found["sign"]) == (4, 4, 1)
    mirror = paired_contrast(pd.Series(b), pd.Series(a))
    assert mirror["difference"] == pytest.approx(-0.775)
    assert (mirror["wins"], mirror["sign"]) == (0, -1)


def test_an_undecided_contrast_and_a_single_seed_have_no_sign():
    assert paired_contrast({0: 1.0, 1: 0.0, 2: 1.1}, {0: 0.0, 1: 1.0, 2: 0.0})["sign"] == 0
    assert paired_contrast({0: 1.0}, {0: 0.0})["sign"] == 0


def test_a_seed_missing_or_doubled_on_one_side_is_named():
    with pytest.raises(ValueError, match=r"\[2\]"):
        paired_contrast({0: 1.0, 2: 1.0}, {0: 1.0})
    with pytest.raises(ValueError, match="twice"):
        paired_contrast(pd.Series([1.0, 2.0], index=[0, 0]), {0: 1.0})


def test_length_control_equals_a_line_fitted_by_numpy():
    rng = np.random.default_rng(4)
    lengths = rng.integers(10, 60, 200)
    returns = 0.1 * lengths + rng.normal(size=200)
    line = np.polynomial.Polynomial.fit(lengths, returns, 1)
    assert length_controlled(returns, lengths, 30) == pytest.approx(line(30))


def test_length_control_removes_what_length_alone_earns():
    """Two policies that differ in length only must come out equal."""
    short, long = np.arange(10, 40), np.arange(20, 60)
    assert length_controlled(0.5 * short, short, 30) == pytest.approx(length_controlled(0.5 * long, long, 30))


def test_length_control_does_not_extrapolate():
    assert length_controlled([1.0, 2.0], [10, 20], 21) is None
    assert length_controlled([1.0, 2.0], [10, 10], 10) == 1.5
    with pytest.raises(ValueError, match="lengths"):
        length_controlled([1.0, 2.0], [10], 10)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_matched_kl_equals_numpys_interpolation_on_rising_curves(steps, share):
    kls = np.cumsum([0.0, *steps])
    returns = np.sin(7 * kls)
    kl = share * kls[-1]
    assert at_matched_kl(kls, returns, kl) == pytest.approx(np.interp(kl, kls, returns), abs=1e-9)


def test_matched_kl_takes_the_first_crossing_and_none_when_never_reached():
    kls, returns = [0.0, 2.0, 1.0, 4.0], [0.0, 10.0, 20.0, 30.0]
    assert at_matched_kl(kls, returns, 1.5) == 7.5
    assert at_matched_kl(kls, returns, 4.1) is None
    assert at_matched_kl([1.0, 2.0], [0.0, 1.0], 0.5) is None
