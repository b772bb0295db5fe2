"""Intervals and comparisons for few seeds and many responses.

Two kinds of spread are kept apart. Over seeds (3 to 10 values) the interval is Student's t: at 3 seeds it is wide, 4.3
standard errors to either side at 95%, and that width is the honest one. A bootstrap of 3 values has ten distinct
resamples and is far too narrow. Over prompts or responses (10 values or more) it is the percentile bootstrap. Left
out: corrections for many comparisons, which a claim states for itself.
"""

from collections.abc import Mapping

import numpy as np
from scipy import stats


def _column(values, name: str = "values") -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise ValueError(f"{name}: pass a list of one number or more, not shape {column.shape}")
    if not np.isfinite(column).all():
        raise ValueError(f"{name}[{np.flatnonzero(~np.isfinite(column))[0]}] is not finite; leave that run out openly")
    return column


def mean_interval(values, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval of the mean over seeds, which are taken as independent and near normal.

    One value has no interval: low and high are nan, which plots leave out. Raises ValueError for none or non-finite.
    """
    column = _column(values)
    mean, n = column.mean(), column.size
    if n == 1:
        return float(mean), float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, n - 1) * column.std(ddof=1) / np.sqrt(n)
    return float(mean), float(mean - half), float(mean + half)


def bootstrap_ci(values, rng: np.random.Generator, level: float = 0.95, n: int = 10_000) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of the mean over independent prompts or responses, `n` resamples.

    Raises ValueError for fewer than 10 values, where it is too narrow: use `mean_interval`.
    """
    column = _column(values)
    if column.size < 10:
        raise ValueError(f"{column.size} values are too few for a bootstrap; use mean_interval")
    batch = max(1, 10**6 // column.size)  # 8 MB at a time
    found = stats.bootstrap(
        (column,),
        np.mean,
        n_resamples=n,
        batch=batch,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_contrast(a: Mapping[int, float], b: Mapping[int, float], level: float = 0.95) -> dict:
    """Mean of a - b over the seeds that both share, with its t interval; `a` and `b` map a seed to its result.

    Returns difference, low, high, seeds (how many), wins (seeds at which a is above b) and sign: 1 or -1 when the whole
    interval lies on that side of zero, 0 when it does not or when there is one seed. Raises ValueError when the seeds
    differ: a pair with one side missing is no pair.
    """
    pairs_a, pairs_b = dict(a), dict(b)
    if len(pairs_a) != len(a) or len(pairs_b) != len(b):
        raise ValueError("a seed occurs twice; keep the newest record of each")
    if pairs_a.keys() != pairs_b.keys():
        odd = sorted(pairs_a.keys() ^ pairs_b.keys())
        raise ValueError(f"seeds {odd} have a result on one side only; run them or leave them out of both")
    gaps = _column([pairs_a[seed] - pairs_b[seed] for seed in pairs_a], "differences")
    mean, low, high = mean_interval(gaps, level)
    return {
        "difference": mean,
        "low": low,
        "high": high,
        "seeds": gaps.size,
        "wins": int((gaps > 0).sum()),
        "sign": int(low > 0) - int(high < 0),
    }


def length_controlled(returns, lengths, reference_length: float) -> float | None:
    """Mean return at `reference_length` tokens, by least squares of return on length over one policy's responses.

    None when the reference lies outside the lengths that the policy wrote: a line says nothing there. It removes what
    is linear in length and no more.
    """
    returns, lengths = _column(returns, "returns"), _column(lengths, "lengths")
    if returns.size != lengths.size:
        raise ValueError(f"{returns.size} returns but {lengths.size} lengths; pass one of each per response")
    if not lengths.min() <= reference_length <= lengths.max():
        return None
    if lengths.min() == lengths.max():
        return float(returns.mean())
    centred = lengths - lengths.mean()
    slope = centred @ returns / (centred @ centred)
    return float(returns.mean() + slope * (reference_length - lengths.mean()))


def at_matched_kl(curve_kl, curve_return, kl: float) -> float | None:
    """Return at the first point, over rollouts, where a training curve reaches `kl` (nats), linear between points.

    None when the curve never reaches it, or starts above it. A noisy KL reaches any level early: smooth it first.
    """
    kls, returns = _column(curve_kl, "curve_kl"), _column(curve_return, "curve_return")
    if kls.size != returns.size:
        raise ValueError(f"{kls.size} KLs but {returns.size} returns; pass one of each per rollout")
    reached = np.flatnonzero(kls >= kl)
    if reached.size == 0 or kls[0] > kl:
        return None
    i = reached[0]
    if kls[i] == kl:
        return float(returns[i])
    share = (kl - kls[i - 1]) / (kls[i] - kls[i - 1])
    return float(returns[i - 1] + share * (returns[i] - returns[i - 1]))
