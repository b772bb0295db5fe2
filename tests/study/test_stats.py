"""Intervals and adjusted comparisons equal scipy's, numpy's, or numbers worked out by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from study.stats import (
    at_matched_kl,
    bootstrap_ci,
    detectable,
    holm,
    improvement,
    iqm_interval,
    length_controlled,
    mean_interval,
    paired_contrast,
    sign_flip_p,
    within_p,
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
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["sd"] == pytest.approx(np.std([0.9, 0.8, 0.5, 0.9], ddof=1))
    narrow, interval = paired_contrast(a, b, 0.5), expected.confidence_interval(0.5)
    assert (narrow["low"], narrow["high"]) == pytest.approx((interval.low, interval.high))
    mirror = paired_contrast(pd.Series(b), pd.Series(a))
    assert mirror["difference"] == pytest.approx(-0.775)
    assert (mirror["wins"], mirror["sign"]) == (0, -1)


def test_an_undecided_contrast_and_a_single_seed_have_no_sign():
    assert paired_contrast({0: 1.0, 1: 0.0, 2: 1.1}, {0: 0.0, 1: 1.0, 2: 0.0})["sign"] == 0
    assert paired_contrast({0: 1.0}, {0: 0.0})["sign"] == 0
    assert np.isnan(paired_contrast({0: 1.0}, {0: 0.0})["p"])


def test_methods_that_are_equal_on_every_seed_are_not_told_apart_and_a_constant_gap_is():
    same = dict(enumerate([0.1, 0.7, 0.2]))
    assert paired_contrast(same, same)["p"] == 1 and paired_contrast(same, same)["wins"] == 0, "a tie is no win"
    assert paired_contrast({s: x + 1 for s, x in same.items()}, same)["p"] < 1e-12


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


# --- over ten seeds --------------------------------------------------------------------------------------------------


def gen(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(4,), (12,), (3, 4), (10, 2)])
def test_iqm_is_scipys_trimmed_mean_where_quartiles_fall_between_values(shape):
    values = gen().standard_cauchy(shape)
    assert iqm_interval(values, gen())[0] == pytest.approx(scipy_stats.trim_mean(values, 0.25, axis=None))


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=30))
def test_iqm_of_any_number_of_seeds_is_that_of_each_value_four_times(values):
    """Four copies make every number a multiple of 4: an independent reference for the weights."""
    wanted = scipy_stats.trim_mean(np.repeat(values, 4), 0.25)
    assert iqm_interval(values, gen())[0] == pytest.approx(wanted, abs=1e-9)


def test_one_collapsed_seed_moves_the_mean_and_not_the_iqm():
    values = np.linspace(1.9, 2.1, 10)
    assert iqm_interval([-14.0, *values[1:]], gen())[0] == pytest.approx(iqm_interval(values, gen())[0])


def test_the_iqm_interval_is_a_bootstrap_within_conditions_and_repeats_with_its_seed():
    """Drawn across conditions, the spread between them would be taken for noise of seeds."""
    values = gen(1).normal(size=(10, 3)) + [0.0, 50.0, 100.0]
    found = iqm_interval(values, gen(2))
    assert found == iqm_interval(values, gen(2))
    draws = gen(3)
    by_hand = [
        scipy_stats.trim_mean(np.repeat([draws.choice(values[:, c], 10) for c in range(3)], 4), 0.25)
        for _ in range(4000)
    ]
    assert found[1:] == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), abs=0.05)
    assert found[2] - found[1] < 2
    assert np.isnan(iqm_interval(values[:9], gen())[1:]).all(), "9 seeds are too few to resample"


def test_the_iqm_interval_of_ten_seeds_covers_what_the_docstring_says():
    draws = gen(4)
    hit = [low < 0 < high for _, low, high in (iqm_interval(draws.normal(size=10), draws, n=500) for _ in range(1000))]
    assert 0.90 < np.mean(hit) < 0.96


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_improvement_over_any_seed_is_mann_whitneys_u(a, b):
    wanted = scipy_stats.mannwhitneyu(a, b).statistic / len(a) / len(b)
    found = improvement(a, b, gen(), paired=False, n=50)[0]
    assert found == pytest.approx(wanted)
    assert improvement(b, a, gen(), paired=False, n=50)[0] == pytest.approx(1 - found)


def test_improvement_on_the_same_seed_sees_what_the_spread_of_seeds_hides():
    a = np.arange(10.0)
    assert improvement(a + 0.1, a, gen(), paired=True) == (1, 1, 1)
    share, low, high = improvement(a + 0.1, a, gen(), paired=False)
    assert share == pytest.approx(0.55) and low < 0.4 < 0.7 < high
    tied = np.where(a < 4, a, a + np.where(a < 6, -1, 1))  # 4 ties, 2 losses, 4 wins
    share, low, high = improvement(tied, a, gen(), paired=True)
    assert share == pytest.approx(0.6)
    assert (low, high) == pytest.approx((0.35, 0.85), abs=0.051)  # standard error .12


def test_the_interval_of_improvement_is_that_of_seeds_drawn_by_hand():
    a, b = gen(5).normal(0.5, 1, (12, 2)), gen(6).normal(0, 1, (10, 2))
    found = improvement(a, b, gen(7), paired=False)
    draws = gen(8)
    by_hand = [
        np.mean([(draws.choice(a[:, c], 12)[:, None] > draws.choice(b[:, c], 10)).mean() for c in range(2)])
        for _ in range(4000)
    ]
    assert found[1:] == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), abs=0.015)


def test_improvement_refuses_what_is_no_pair():
    for other in ([1.0], [[1.0, 2.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match="the same of both"):
            improvement([1.0, 2.0], other, gen(), paired=True)
    with pytest.raises(ValueError, match=r"b\[1\] is not finite"):
        improvement([1.0, 2.0], [1.0, np.nan], gen(), paired=False)


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_sign_flips_equal_scipys_exact_permutation_test(n):
    gaps = gen(n).normal(0.4, 1, n).round(1)  # rounded, so that sums tie
    wanted = scipy_stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(gaps) == pytest.approx(wanted)


def test_ten_wins_of_ten_are_the_least_p_that_sign_flips_can_give():
    assert sign_flip_p(np.linspace(0.1, 1, 10)) == 2**-9
    assert sign_flip_p([0.0, 0.0]) == 1
    for gaps in ([1.0], np.ones(13)):
        with pytest.raises(ValueError, match="2 to 12"):
            sign_flip_p(gaps)


def test_holm_by_hand():
    """Of .01, .04, .03, .005: 4 x .005, 3 x .01, 2 x .03, and .04, which may not fall below the .06 before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1, 1] and holm([]).size == 0
    with pytest.raises(ValueError):
        holm([1.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_by_bonferroni(p):
    """By definition: a claim stands if Bonferroni rejects every set of claims that holds it."""
    n = len(p)
    sets = [s for k in range(1, n + 1) for s in combinations(range(n), k)]
    wanted = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(n)]
    assert holm(p) == pytest.approx(wanted)
    order = np.argsort(p)  # statsmodels' multipletests(method="holm"), its source
    steps = np.minimum(np.maximum.accumulate(np.array(p)[order] * np.arange(n, 0, -1)), 1)
    assert holm(p)[order] == pytest.approx(steps)


def test_a_claim_that_was_not_tested_costs_the_others_nothing():
    assert holm([np.nan, 0.02, np.nan, 0.01]) == pytest.approx([np.nan, 0.02, np.nan, 0.02], nan_ok=True)


@pytest.mark.parametrize(("seeds", "alpha"), [(3, 0.05), (10, 0.05), (10, 0.05 / 22)])
def test_an_effect_of_the_detectable_size_is_found_four_times_in_five(seeds, alpha):
    """By simulation, where the normal approximation would promise half of it at three seeds."""
    effect = detectable(0.7, seeds, alpha)
    draws = gen(9).normal(effect, 0.7, (40_000, seeds))
    found = scipy_stats.ttest_1samp(draws, 0, axis=1)
    assert ((found.pvalue < alpha) & (found.statistic > 0)).mean() == pytest.approx(0.8, abs=0.008)


def test_the_detectable_effect_grows_with_noise_alone_and_one_seed_has_none():
    assert detectable(2.0, 10) == pytest.approx(2 * detectable(1.0, 10)) and detectable(0.0, 10) == 0
    assert detectable(1.0, 10) == pytest.approx(0.996, abs=1e-3)  # Cohen's table: 10 pairs find d = 1 at power .8
    assert np.isnan(detectable(1.0, 1))


def test_seeds_are_drawn_anew_within_each_condition():
    """rliable's: one draw for all conditions would take their seeds for pairs, here for pairs that cancel."""
    values = np.random.default_rng(0).normal(size=12)
    middle, low, high = iqm_interval(np.stack([values, -values], 1), np.random.default_rng(0), n=500)
    assert middle == pytest.approx(0, abs=1e-12) and low < -0.1 and high > 0.1


def test_a_lower_level_is_a_narrower_interval():
    values, other = np.random.default_rng(0).normal(size=(2, 12))

    def widths(level):
        for low, high in (
            iqm_interval(values, np.random.default_rng(1), level, 500)[1:],
            improvement(values, other, np.random.default_rng(1), True, level, 500)[1:],
            improvement(values, other, np.random.default_rng(1), False, level, 500)[1:],
        ):
            yield high - low

    assert all(0 < half < 0.6 * most for half, most in zip(widths(0.5), widths(0.95), strict=True))


def test_equivalence_is_the_larger_of_two_one_sided_t_tests():
    gaps, margin = np.array([0.1, 0.2, -0.1, 0.05, 0.12]), 0.3
    low = scipy_stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue
    high = scipy_stats.ttest_1samp(gaps, margin, alternative="less").pvalue
    p = within_p(gaps.mean(), gaps.std(ddof=1), 5, margin)
    assert p == pytest.approx(max(low, high)) and p < 0.05
    assert within_p(-gaps.mean(), gaps.std(ddof=1), 5, margin) == pytest.approx(p)
    assert (within_p(0.1, 0.0, 3, margin), within_p(0.4, 0.0, 3, margin)) == (0, 1)
    assert np.isnan(within_p(0.1, float("nan"), 1, margin))
