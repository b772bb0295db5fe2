"""Segment scores to dense rewards: normalisers and within-segment interpolation.

Follows segment-ppo Section 2.3, Appendix F and H, Tables 5 and 6. All its normalisers subtract Mean(p) and divide by
Std(p), where Mean(p) = w_mean log p + b_mean and Std(p) = w_std log p + b_std (Eq. 6, 11, 12); none, global and last
have slopes of zero. The location of segment t = 0..T-1 is p = (t + 1) / T: the paper's t / T would take the logarithm
of 0. Sample deviations divide by n - 1. Std(p) has a floor, which neither the paper nor its code gives it: at small p
the line can come near zero, or below it, and blow up or flip the rewards. What its released code does otherwise is the
normaliser "released".

A new fit is a function (values, t, T, estimator) -> Line and a row of FITS. What looks at more than p (centring per
response, a cost per segment) is a row of CORRECTIONS.

Leaves out: weights (each distinct p counts once, as in the paper); the released code's silent identity where a fit is
missing.

Book: ppo.md
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import HuberRegressor

from densereward.checked import checked
from densereward.reward.log_odds import READINGS
from densereward.reward.segments import choose, segment_ends, segment_lengths, spread

RELEASED = 1e-10  # what segment-ppo's released code adds to p before the logarithm
FLOOR = 0.1  # least Std(p), as a share of the deviation of all calibration scores; ours


@checked
class Normaliser:
    """Coefficients of Eq. 6 and what they rest on; every field is a plain number or string, so it is JSON as it is."""

    kind: str  # none, a key of FITS, or of log_odds.READINGS (of a discriminator's log-odds; nothing is fitted)
    w_mean: float
    b_mean: float
    w_std: float
    b_std: float
    floor: float | None = None  # least Std(p), in units of the scores; None: never floored, as released
    estimator: str | None = None  # of the two regressions: huber or ols
    locations: int = 0  # distinct p with two samples or more; released: all
    samples: int = 0  # scores that the fit rests on
    unit: float = 1.0  # what token rewards are divided by (`dense.fitted`)

    def __post_init__(self):
        choose("normaliser", self.kind, ["none", *FITS, *READINGS])


class Line(NamedTuple):
    """What a fit returns: the coefficients of Eq. 6, how many locations and how many scores made them."""

    w_mean: float
    b_mean: float
    w_std: float
    b_std: float
    locations: int
    samples: int


def fit_normaliser(kind: str, scores, segment_mask, estimator="huber", floor: float | None = FLOOR) -> Normaliser:
    """Fit a normaliser on the calibration responses' raw scores [B, S] with segment_mask [B, S]. segment-ppo Table 5.

    kind: none, global (all scores), last (each response's last score), regression (Eq. 6 on log p; where every response
    has one segment this is the fit at p = 1, the bandit z-score), released (the regression as segment-ppo's released
    code fits and applies it; give floor None with it), or one of `READINGS`, which fit nothing. estimator, of the two
    regressions: huber (Appendix F) or ols (Section 2.3). floor: least Std(p) as a share of the deviation of all
    scores; None never floors, as released. ValueError: unknown names, a score that is not finite, no deviation, too few
    locations, Std(1) not above zero.
    """
    choose("normaliser", kind, ["none", *FITS, *READINGS])
    choose("estimator", estimator, ESTIMATORS)
    if floor is not None and not floor > 0:
        raise ValueError(f"floor is {floor!r}; give a share of the scores' deviation above 0, or None")
    mask = segment_mask.bool()
    _refuse_not_finite(scores, mask)
    if kind not in FITS:
        return Normaliser(kind, 0.0, 0.0, 0.0, 1.0)
    mask = mask.cpu().numpy()
    values = scores.detach().cpu().double().numpy()[mask]
    t = (np.cumsum(mask, 1) - 1)[mask]
    T = np.broadcast_to(mask.sum(1, keepdims=True), mask.shape)[mask]
    line = FITS[kind](values, t, T, estimator)
    if not line.b_std > 0:
        raise ValueError(f"normaliser {kind!r}: Std(1) is {line.b_std:.3g}, not above 0; give more varied responses")
    return Normaliser(
        kind,
        *line[:4],
        floor=None if floor is None else floor * float(values.std(ddof=1)),
        estimator=estimator if kind in ("regression", "released") else None,
        locations=line.locations,
        samples=line.samples,
    )


def _fit_global(values, t, T, estimator):
    return _constant("global", values)


def _fit_last(values, t, T, estimator):
    return _constant("last", values[t + 1 == T])


def _fit_regression(values, t, T, estimator):
    """Eq. 6 and 11: one point (log p, mean, deviation) for each distinct p that two scores or more share."""
    if (T == 1).all():
        return _constant("regression", values)
    divisor = np.gcd(t + 1, T)
    lowest = np.stack([(t + 1) // divisor, T // divisor])  # fractions, free of rounding
    fractions, which = np.unique(lowest, axis=1, return_inverse=True)
    which = which.ravel()  # numpy 2.0 gives it two axes
    n = np.bincount(which)
    means = np.bincount(which, values) / n
    squares = np.bincount(which, (values - means[which]) ** 2)
    enough = n >= 2
    if enough.sum() < 2:
        raise ValueError(
            f"normaliser 'regression': {enough.sum()} locations have two scores or more, "
            "2 are needed; give more calibration responses"
        )
    n, means, squares = n[enough], means[enough], squares[enough]
    numerator, denominator = fractions[:, enough]
    stds = np.sqrt(squares / (n - 1))
    _refuse_flat("regression", stds.max(), values)
    fit, log_p = ESTIMATORS[estimator], np.log(numerator / denominator)
    return Line(*fit(log_p, means), *fit(log_p, stds), len(log_p), int(n.sum()))


def _fit_released(values, t, T, estimator):
    """Eq. 6 as segment-ppo's released code fits it: p rounded to three decimals, deviations that divide by n, every
    location, one with a single score too, and log(p + 1e-10). As here each location counts once."""
    p, which = np.unique(np.round((t + 1) / T, 3), return_inverse=True)
    if len(p) < 2:
        raise ValueError("normaliser 'released': one location, 2 are needed; give responses of several segments")
    n = np.bincount(which)
    means = np.bincount(which, values) / n
    stds = np.sqrt(np.bincount(which, (values - means[which]) ** 2) / n)
    _refuse_flat("released", stds.max(), values)
    fit, log_p = ESTIMATORS[estimator], np.log(p + RELEASED)
    return Line(*fit(log_p, means), *fit(log_p, stds), len(p), len(values))


def _constant(kind, values):
    if len(values) < 2:
        raise ValueError(f"normaliser {kind!r}: {len(values)} scores have no deviation; give two responses or more")
    std = float(values.std(ddof=1))
    _refuse_flat(kind, std, values)
    return Line(0.0, float(values.mean()), 0.0, std, 1, len(values))


def _refuse_flat(kind, std, values):
    if not std > 1e-9 * np.abs(values).max():  # rounding of a mean leaves 1e-16
        raise ValueError(f"normaliser {kind!r}: scores do not vary; look for a scorer that ignores its input")


def _ols(x, y):
    slope, intercept = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]
    return float(slope), float(intercept)


def _huber(x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            fit = HuberRegressor(max_iter=10_000).fit(x[:, None], y)
        except (ConvergenceWarning, ValueError) as error:
            raise ValueError(f"normaliser 'regression': the Huber fit failed ({error}); use ols") from error
    return float(fit.coef_[0]), float(fit.intercept_)


FITS = {"global": _fit_global, "last": _fit_last, "regression": _fit_regression, "released": _fit_released}
ESTIMATORS = {"huber": _huber, "ols": _ols}


def location(segment_mask):
    """p = (t + 1) / T of each segment, float64 [B, S]; 1 beyond a response's last segment, where log p is harmless."""
    mask = segment_mask.bool()
    p = mask.cumsum(1).double() / mask.sum(1, keepdim=True)
    return p.masked_fill(~mask, 1.0)


def normalise(scores, segment_mask, normaliser: Normaliser):
    """(scores - Mean(p)) / Std(p), zero beyond a response's last segment: [B, S], float32 or wider. segment-ppo Eq. 12.

    Std(p) is at least the normaliser's floor. ValueError, naming the row, where a score is not finite.
    """
    mask = segment_mask.bool()
    _refuse_not_finite(scores, mask)
    if normaliser.kind in READINGS:
        return READINGS[normaliser.kind](scores.float().sigmoid()).masked_fill(~mask, 0)
    log_p = (location(mask) + RELEASED * (normaliser.kind == "released")).log()
    std = normaliser.w_std * log_p + normaliser.b_std
    if normaliser.floor is not None:
        std = std.clamp(min=normaliser.floor)
    z = (scores - (normaliser.w_mean * log_p + normaliser.b_mean)) / std
    return z.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~mask, 0)


def correct(scores, segment_mask, kind: str, **settings):
    """Normalised scores [B, S] with the constant per segment dealt with: [B, S]. Ours, in no paper, but for the last.

    A Bradley-Terry model of the mean over segments leaves a constant per segment open, which PPO, summing rewards, pays
    for every further segment. kind: none; centre (a response's total is its mean score, however many segments it has);
    cost (every segment costs `cost`, in the normaliser's deviations); min (the total is about the least score, however
    many segments: PURE, arXiv 2504.15275, at its `temperature`, in deviations). ValueError for another name.
    """
    choose("correction", kind, CORRECTIONS)
    return CORRECTIONS[kind](scores, segment_mask.to(scores.dtype), **settings)


def _centre(scores, mask):
    """z - (1 - 1/S) mean(z): differences between segments stay, and the total over S segments is mean(z)."""
    count = mask.sum(1, keepdim=True)
    return (scores - (1 - 1 / count) * (scores * mask).sum(1, keepdim=True) / count) * mask


def _cost(scores, mask, cost: float):
    return scores - cost * mask


def _min_form(scores, mask, temperature: float):
    """softmax(-z / temperature) z over the segments of a response."""
    return (-scores / temperature).masked_fill(mask == 0, -math.inf).softmax(1) * scores


CORRECTIONS = {"none": lambda scores, mask: scores, "centre": _centre, "cost": _cost, "min": _min_form}


def interpolate(scores, segment_ids, how: str):
    """Segment scores [B, S] to token rewards [B, T], zero where a token has no segment. segment-ppo Table 6.

    how: none (all of it at the segment's last token), repeat (all of it at every token), even (an equal share for every
    token of the segment, Section 2.3; the shares sum to the score), next (all of it at the token behind the segment, so
    that the last segment's is never paid: tlcr's released code). ValueError for another name.
    """
    choose("interpolation", how, INTERPOLATIONS)
    return INTERPOLATIONS[how](scores, segment_ids)


def _at_last_token(scores, segment_ids):
    return spread(scores, segment_ids).masked_fill(~segment_ends(segment_ids), 0)


def _even_split(scores, segment_ids):
    tokens = spread(segment_lengths(segment_ids), segment_ids)
    return spread(scores, segment_ids) / tokens.clamp(min=1)


def _at_next_token(scores, segment_ids):
    late = torch.nn.functional.pad(_at_last_token(scores, segment_ids)[:, :-1], (1, 0))
    return late.masked_fill(segment_ids < 0, 0)


INTERPOLATIONS = {"none": _at_last_token, "repeat": spread, "even": _even_split, "next": _at_next_token}


def _refuse_not_finite(scores, mask):
    bad = (~scores.isfinite() & mask).any(1)
    if bad.any():
        raise ValueError(f"row {int(bad.nonzero()[0])}: a segment score is not finite; look at the scorer's output")
