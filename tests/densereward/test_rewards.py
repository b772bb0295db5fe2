"""Normalisers and interpolation: a policy follows whatever is wrong here, and calls it reward."""

import json
import math
import statistics
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import HuberRegressor

from densereward.reward.rewards import FLOOR, Normaliser, correct, fit_normaliser, interpolate, location, normalise
from densereward.reward.segments import at_ends, ngram, segment_ids


def ragged(rows, dtype=torch.float64, width=None):
    """Scores [B, S] and their mask from lists of unequal length, NaN where a row has no segment."""
    width = width or max(map(len, rows))
    scores = torch.tensor([row + [math.nan] * (width - len(row)) for row in rows], dtype=dtype)
    return scores, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


@st.composite
def calibration(draw, least=2):
    """Scores of 6 to 20 responses of up to 8 segments, whose mean and deviation change along the response."""
    lengths = draw(st.lists(st.integers(least, 8), min_size=6, max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    offset, scale = draw(st.sampled_from([(0, 1), (-3, 0.05), (40, 10)]))
    return [[float(offset + scale * (t / T + rng.normal() * (1 + t / T))) for t in range(T)] for T in lengths]


def reference_line(rows, estimator):
    """Slow and obvious: a dict from the fraction (t + 1) / T to its scores; one point for each that has two or more."""
    scores_at = {}
    for row in rows:
        for t, score in enumerate(row):
            scores_at.setdefault(Fraction(t + 1, len(row)), []).append(score)
    scores_at = {p: scores for p, scores in scores_at.items() if len(scores) >= 2}
    points = {p: (statistics.fmean(scores), statistics.stdev(scores)) for p, scores in scores_at.items()}
    lines = []
    for part in (0, 1):
        x, y = [math.log(p) for p in points], [point[part] for point in points.values()]
        if estimator == "ols":
            slope = statistics.covariance(x, y) / statistics.variance(x)
            lines += [slope, statistics.fmean(y) - slope * statistics.fmean(x)]
        else:
            fit = HuberRegressor(max_iter=10_000).fit([[value] for value in x], y)
            lines += [fit.coef_[0], fit.intercept_]
    return lines, len(points), sum(map(len, scores_at.values()))


def line_of(normaliser):
    return [normaliser.w_mean, normaliser.b_mean, normaliser.w_std, normaliser.b_std]


# --- fits


@pytest.mark.parametrize("estimator", ["ols", "huber"])
@given(rows=calibration())
@settings(max_examples=40, deadline=None)
def test_regression_equals_a_dict_of_locations(estimator, rows):
    """Eq. 6 and 11: each distinct p counts once, locations with one score do not count, deviations divide by n - 1."""
    expected, locations, samples = reference_line(rows, estimator)
    assume(expected[3] > 0)
    normaliser = fit_normaliser("regression", *ragged(rows), estimator=estimator)
    tolerance = {"ols": 1e-8, "huber": 1e-3}[estimator] * max(1, *map(abs, expected))  # Huber stops at 1e-5, by order
    assert line_of(normaliser) == pytest.approx(expected, abs=tolerance)
    assert (normaliser.locations, normaliser.samples) == (locations, samples)
    assert (normaliser.kind, normaliser.estimator) == ("regression", estimator)


def released_points(rows):
    """segment-ppo's released statistics: a dict from p to three decimals to every score there, and log(p + 1e-10)."""
    scores_at = {}
    for row in rows:
        for t, score in enumerate(row):
            scores_at.setdefault(f"{(t + 1) / len(row):.3f}", []).append(score)
    x = [math.log(float(p) + 1e-10) for p in scores_at]
    return x, *([f(scores) for scores in scores_at.values()] for f in (statistics.fmean, statistics.pstdev))


@pytest.mark.parametrize("estimator", ["ols", "huber"])
def test_the_released_fit_equals_a_dict_of_rounded_locations(estimator):
    """Long answers, whose locations fall together when rounded, and short ones, whose locations have one score."""
    rng = np.random.default_rng(0)
    rows = [list(rng.normal(size=T) * (1 + 0.1 * np.arange(T) / T)) for T in (*range(1, 40), *[150] * 9, 1500, 2900)]
    x, means, stds = released_points(rows)
    fitted = fit_normaliser("released", *ragged(rows), estimator=estimator, floor=None)
    assert 0.0 in stds and (fitted.locations, fitted.samples, fitted.floor) == (len(x), sum(map(len, rows)), None)
    expected = []
    for y in (means, stds):
        if estimator == "ols":
            slope = statistics.covariance(x, y) / statistics.variance(x)
            expected += [slope, statistics.fmean(y) - slope * statistics.fmean(x)]
        else:
            fit = HuberRegressor(max_iter=10_000).fit(np.array(x)[:, None], y)
            expected += [fit.coef_[0], fit.intercept_]
    assert line_of(fitted) == pytest.approx(expected, abs={"ols": 1e-8, "huber": 1e-3}[estimator])
    assert fit_normaliser("regression", *ragged(rows), estimator=estimator).locations < fitted.locations
    scores, mask = ragged(rows[5:8])
    z = normalise(scores, mask, fitted)
    for row, found in zip(rows[5:8], z, strict=True):
        for t, score in enumerate(row):
            log_p = math.log((t + 1) / len(row) + 1e-10)
            mean, std = fitted.w_mean * log_p + fitted.b_mean, fitted.w_std * log_p + fitted.b_std
            assert found[t].item() == pytest.approx((score - mean) / std, rel=1e-12)


def test_the_released_fit_needs_more_than_one_location():
    with pytest.raises(ValueError, match="one location, 2 are needed"):
        fit_normaliser("released", *ragged([[1.0], [2.0]]), floor=None)


@pytest.mark.parametrize("estimator", ["ols", "huber"])
def test_regression_recovers_a_line_that_is_there(estimator):
    """Two responses at mean +- d have exactly that mean, and deviation d times the root of 2."""
    mean, std = (lambda p: 0.7 * math.log(p) + 2.0), (lambda p: -0.2 * math.log(p) + 0.5)
    rows = [[mean(t / 5) + sign * std(t / 5) / math.sqrt(2) for t in range(1, 6)] for sign in (-1, 1)]
    scores, mask = ragged(rows)
    normaliser = fit_normaliser("regression", scores, mask, estimator=estimator)
    assert line_of(normaliser) == pytest.approx([0.7, 2.0, -0.2, 0.5], abs={"ols": 1e-9, "huber": 1e-3}[estimator])
    z = normalise(scores, mask, normaliser)
    assert z.abs().flatten().tolist() == pytest.approx([1 / math.sqrt(2)] * 10, abs=5e-3)


def test_huber_resists_an_outlier_that_moves_ols():
    """One location with a wild mean, 20 without: why the paper's Appendix F and Section 2.3 need not agree."""
    rows = [[0.1 * math.log(t / 21) + sign * 0.1 + 50 * (t == 1) for t in range(1, 22)] for sign in (-1, 1)]
    huber, ols = (fit_normaliser("regression", *ragged(rows), estimator=name).w_mean for name in ("huber", "ols"))
    assert huber == pytest.approx(0.1, abs=0.02) and ols < -5


def test_locations_are_fractions():
    """1/3 of a response and 2/6 of another are one location; 1/6, 3/6 and 5/6, with one score each, do not count."""
    rows = [[0.0, 1.0, 2.0], [9.0, 1.0, 9.0, 2.0, 9.0, 4.0]]
    normaliser = fit_normaliser("regression", *ragged(rows), estimator="ols")
    assert (normaliser.locations, normaliser.samples) == (3, 6)


def test_global_and_last_are_scalar_statistics():
    """segment-ppo Table 5 (A, B, C): slopes are zero; the deviation is the sample's, as for the regression."""
    rows = [[1.0, 5.0], [2.0, 3.0, 4.0], [9.0]]
    every, last = [1.0, 5.0, 2.0, 3.0, 4.0, 9.0], [5.0, 4.0, 9.0]
    for kind, scores in (("global", every), ("last", last)):
        normaliser = fit_normaliser(kind, *ragged(rows))
        assert line_of(normaliser) == pytest.approx([0, statistics.fmean(scores), 0, statistics.stdev(scores)])
        assert (normaliser.samples, normaliser.estimator) == (len(scores), None)
    scores, mask = ragged(rows)
    assert torch.equal(normalise(scores, mask, fit_normaliser("none", scores, mask)), scores.nan_to_num(0))


@given(scores=st.lists(st.integers(-1000, 1000), min_size=2, max_size=20, unique=True))
@settings(max_examples=30, deadline=None)
def test_bandit_is_z_scored_by_its_final_rewards(scores):
    """One segment each: the regression is its fit at p = 1, the same as global and last, and no error."""
    rows = [[score / 100] for score in scores]
    fits = [fit_normaliser(kind, *ragged(rows)) for kind in ("regression", "global", "last")]
    assert len({tuple(line_of(fit)) for fit in fits}) == 1
    z = normalise(*ragged(rows), fits[0]).flatten()
    assert z.mean().item() == pytest.approx(0, abs=1e-9) and z.std().item() == pytest.approx(1)


@given(rows=calibration(), kind=st.sampled_from(["none", "global", "last", "regression"]))
@settings(max_examples=40, deadline=None)
def test_padding_never_leaks_into_fit_or_scores(rows, kind):
    """More columns, and other rubbish beyond a response's last segment, change nothing."""
    assume(reference_line(rows, "ols")[0][3] > 0)
    (scores, mask), (wide, wide_mask) = ragged(rows), ragged(rows, width=11)
    wide[wide_mask == 0] = 1e6
    normaliser = fit_normaliser(kind, scores, mask, estimator="ols")
    assert fit_normaliser(kind, wide, wide_mask, estimator="ols") == normaliser
    z, wide_z = normalise(scores, mask, normaliser), normalise(wide, wide_mask, normaliser)
    assert torch.equal(wide_z[:, : z.shape[1]], z) and not wide_z[wide_mask == 0].any() and not z[mask == 0].any()


# --- applying


@pytest.mark.parametrize("floor", [FLOOR, None])
@given(rows=calibration(least=1))
@settings(max_examples=40, deadline=None)
def test_normalise_equals_the_formula(floor, rows):
    """Eq. 12, segment by segment, at p = (t + 1) / T."""
    fitted = Normaliser("regression", 0.3, -1.0, 0.4, 0.8, floor, "ols", 9, 99)
    scores, mask = ragged(rows, torch.float32)
    z, p = normalise(scores, mask, fitted), location(mask)
    assert (p[mask == 0] == 1).all()
    for b, row in enumerate(rows):
        for t, score in enumerate(row):
            x = math.log((t + 1) / len(row))
            std = max(0.4 * x + 0.8, -math.inf if floor is None else floor)
            assert p[b, t].item() == pytest.approx((t + 1) / len(row))
            assert z[b, t].item() == pytest.approx((score - (0.3 * x - 1.0)) / std, rel=1e-3, abs=1e-3)


def test_a_deviation_below_zero_is_floored_or_as_released_flips_the_sign():
    """Std(p) = .5 log p + 1 is below zero before p = .135: a good early segment would be punished."""
    scores, mask = torch.ones(1, 20), torch.ones(1, 20)
    released = Normaliser("regression", w_mean=0.0, b_mean=0.0, w_std=0.5, b_std=1.0, floor=None)
    assert normalise(scores, mask, released)[0, 0] < 0
    floored = normalise(scores, mask, replace(released, floor=0.1))
    assert floored[0, 0].item() == pytest.approx(10) and (floored > 0).all()
    assert floored[0, -1].item() == pytest.approx(1)


@given(rows=calibration(), scale=st.sampled_from([1e-3, 8.0]), kind=st.sampled_from(["global", "last", "regression"]))
@settings(max_examples=30, deadline=None)
def test_normalised_scores_do_not_depend_on_the_scorers_scale(rows, scale, kind):
    """The floor is a share of the scores' deviation: a scaled scorer gets the same rewards."""
    assume(reference_line(rows, "ols")[0][3] > 0)
    scores, mask = ragged(rows)
    z, scaled = (
        normalise(s, mask, fit_normaliser(kind, s, mask, estimator="ols")) for s in (scores, scale * scores - 1.0)
    )
    assert torch.allclose(z, scaled, atol=1e-4)


# --- no silent identity


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([[1.0, 2.0], [3.0, math.nan]], "global", "row 1: a segment score is not finite"),
        ([[1.0, 2.0], [3.0, math.nan]], "none", "row 1: a segment score is not finite"),
        ([[1.0, math.inf], [3.0, 4.0]], "regression", "row 0: a segment score is not finite"),
        ([[1.0, 2.0]], "regression", "0 locations have two scores"),
        ([[1.0], [1.0, 2.0, 3.0]], "regression", "1 locations have two scores"),
        ([[1.0, 2.0], [1.0, 2.0]], "regression", "do not vary"),
        ([[0.1], [0.1], [0.1]], "regression", "do not vary"),
        ([[0.1, 0.1], [0.1, 0.1]], "global", "do not vary"),
        ([[1.0, 7.0], [2.0, 7.0]], "last", "do not vary"),
        ([[1.0, 7.0]], "last", "1 scores have no deviation"),
        ([[1.0, 2.0, 5.0], [9.0, 4.0, 5.0]], "regression", r"Std\(1\) is -.*not above 0"),
        ([[1.0], [2.0]], "linear", "unknown normaliser 'linear'; choose one of none, global, last, regression"),
    ],
)
def test_a_missing_or_degenerate_fit_is_an_error(rows, kind, message):
    """The released code skips normalisation without a word; a study would compare something else than it says."""
    with pytest.raises(ValueError, match=message):
        fit_normaliser(kind, *ragged(rows), estimator="ols")


def test_bad_options_are_refused():
    scores, mask = ragged([[1.0], [2.0]])
    with pytest.raises(ValueError, match="unknown estimator 'ransac'"):
        fit_normaliser("regression", scores, mask, estimator="ransac")
    with pytest.raises(ValueError, match="floor is 0"):
        fit_normaliser("regression", scores, mask, floor=0)
    with pytest.raises(ValueError, match="unknown interpolation 'split'; choose one of none, repeat, even"):
        interpolate(scores, torch.zeros(2, 1, dtype=torch.long), "split")


def test_a_score_that_is_not_finite_is_never_paid():
    scores, mask = ragged([[1.0, 2.0], [3.0]])
    normaliser = fit_normaliser("global", scores, mask)
    scores[1, 0] = math.nan
    with pytest.raises(ValueError, match="row 1"):
        normalise(scores, mask, normaliser)


# --- records


@pytest.mark.parametrize("kind", ["none", "global", "last", "regression"])
def test_a_normaliser_survives_json(kind):
    """Stages cache it: what comes back must normalise the same, to the last bit."""
    rng = np.random.default_rng(0)
    normaliser = fit_normaliser(kind, *ragged([list(rng.normal(size=T)) for T in (3, 4, 6, 6, 4, 3)]))
    record = json.loads(json.dumps(asdict(normaliser), allow_nan=False))
    assert Normaliser(**record) == normaliser
    assert {"kind", "estimator", "locations", "samples", "floor"} < set(record)


def test_a_damaged_record_is_refused():
    record = asdict(fit_normaliser("global", *ragged([[1.0], [2.0]])))
    with pytest.raises(ValueError, match="normaliser lacks w_std"):
        Normaliser(**{name: value for name, value in record.items() if name != "w_std"})
    with pytest.raises(ValueError, match="has no field 'alpha'"):
        Normaliser(**record, alpha=1)
    with pytest.raises(ValueError, match="b_std is nan"):
        Normaliser(**record | {"b_std": math.nan})
    with pytest.raises(ValueError, match="unknown normaliser 'globe'"):
        Normaliser(**record | {"kind": "globe"})


# --- interpolation


@st.composite
def segmented(draw, dtype=torch.float32):
    """Segment ids [B, T] with padding, and scores [B, S] with rubbish where a row has no such segment."""
    rows = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4))
    width = max(map(sum, rows)) + draw(st.integers(0, 2))
    numbers = [[s for s, n in enumerate(row) for _ in range(n)] for row in rows]
    ids = torch.tensor([row + [-1] * (width - len(row)) for row in numbers])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = 3 * torch.randn(len(rows), max(map(len, rows)), generator=generator, dtype=dtype)
    return scores, ids, rows


@pytest.mark.parametrize("how", ["none", "repeat", "even", "next"])
@given(case=segmented())
@settings(max_examples=40, deadline=None)
def test_interpolation_equals_a_loop(how, case):
    scores, ids, rows = case
    rewards = interpolate(scores, ids, how)
    for b, lengths in enumerate(rows):
        expected = []
        for s, n in enumerate(lengths):
            score = scores[b, s].item()
            at_last = [0.0] * (n - 1) + [score]
            expected += {"none": at_last, "repeat": [score] * n, "even": [score / n] * n, "next": at_last}[how]
        expected = [0.0, *expected[:-1]] if how == "next" else expected
        expected += [0.0] * (ids.shape[1] - len(expected))
        assert rewards[b].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_even_split_conserves_each_segments_reward(dtype, tolerance, data):
    """Section 2.3: what the tokens of a segment get sums to its score, so the return is that of `none`."""
    scores, ids, rows = data.draw(segmented(dtype))
    rewards = interpolate(scores, ids, "even")
    assert rewards.dtype == dtype
    for b, lengths in enumerate(rows):
        for s in range(len(lengths)):
            assert rewards[b, ids[b] == s].sum().item() == pytest.approx(scores[b, s].item(), rel=9 * tolerance)


def test_tokens_without_a_segment_get_nothing():
    """As released, EOS is in no segment: only the KL term reaches it."""
    ids = torch.tensor([[0, 0, 1, -1, -1]])
    for how in ("none", "repeat", "even", "next"):
        assert interpolate(torch.tensor([[2.0, 3.0]]), ids, how)[0, 3:].tolist() == [0, 0]


def test_paid_a_token_late_each_score_goes_to_the_following_action():
    """tlcr's released code; the last token's score, EOS's or that of an answer cut off, is paid to none."""
    scores, ids = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 9, 9]]), torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1]])
    expected = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, 0.5, 0.0, 0.0]])
    torch.testing.assert_close(interpolate(scores, ids, "next"), expected)


def test_scores_to_rewards_end_to_end():
    """The whole path of one batch: read at ends, fit, normalise, split."""
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    ids = segment_ids(ngram(mask, 2), mask)
    token_scores = torch.arange(18.0).reshape(3, 6) ** 1.5
    scores, segment_mask = at_ends(token_scores, ids)
    z = normalise(scores, segment_mask, fit_normaliser("global", scores, segment_mask))
    rewards = interpolate(z, ids, "even")
    read = [token_scores[b, t].item() for b, t in ((0, 1), (0, 3), (0, 4), (1, 1), (1, 3), (1, 5), (2, 1), (2, 2))]
    e = [(score - statistics.fmean(read)) / statistics.stdev(read) for score in read]
    assert rewards[0].tolist() == pytest.approx([e[0] / 2, e[0] / 2, e[1] / 2, e[1] / 2, e[2], 0], abs=1e-5)
    assert rewards[2].tolist() == pytest.approx([e[6] / 2, e[6] / 2, e[7], 0, 0, 0], abs=1e-5)


def test_half_precision_scores_are_normalised_in_full():
    """A reward model in bfloat16 on a GPU: 3 digits of a score must not become 2 of a reward."""
    scores, mask = ragged([[1.0, 2.0], [3.0, 5.0]], torch.bfloat16)
    z = normalise(scores, mask, fit_normaliser("global", scores, mask))
    assert z.dtype == torch.float32 and z.std().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["centre", "cost"])
def test_corrections_deal_with_the_constant_per_segment(kind):
    """A constant added to every score pays nothing for a further segment under centre; a cost takes it away again."""
    scores = torch.tensor([[1.0, 2.0, 6.0], [4.0, 2.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    if kind == "cost":
        found = correct(scores + 0.5 * mask, mask, "cost", cost=0.5)
        torch.testing.assert_close(found, scores * mask)
    else:
        found = correct(scores, mask, "centre")
        torch.testing.assert_close(found.sum(1), torch.tensor([3.0, 3.0]))  # the mean score, whatever the number
        torch.testing.assert_close(found.diff(dim=1)[0], scores.diff(dim=1)[0])  # segments keep their differences
        shifted = correct(scores + 7 * mask, mask, "centre").sum(1) - found.sum(1)
        torch.testing.assert_close(shifted, torch.tensor([7.0, 7.0]))  # not 21 and 14
    assert (found[1, 2] == 0).all()
    with pytest.raises(ValueError, match="choose one of none, centre, cost, min"):
        correct(scores, mask, "centred")


def test_min_form_pays_the_worst_segment_however_many_there_are():
    """PURE's aim: what is no worse than the worst earns nothing, so that saying it again does not pay."""
    z, mask = torch.tensor([[1.0, -2.0, 0.0], [1.0, -2.0, 1.0]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    paid = correct(z, mask, "min", temperature=0.1)
    assert paid[0, 2] == 0 and torch.allclose(paid.sum(1), torch.tensor([-2.0, -2.0]), atol=1e-4)
    even = correct(torch.tensor([[0.5, 0.5]]), torch.ones(1, 2), "min", temperature=0.1)
    assert even.tolist() == [[0.25, 0.25]]
