"""Intervals, comparisons and tests for few seeds and many responses.

Two kinds of spread are kept apart. Over seeds (3 to 10 values) the interval is Student's t: at 3 seeds it is wide, 4.3
standard errors to either side at 95%, and that width is the honest one. A bootstrap of 3 values has ten distinct
resamples and covers 73% where it says 95; of 5 values 90%, of 10 93% (normal values, `iqm_interval`), so that below 10
there is none. Over prompts or responses (10 values or more) it is the percentile bootstrap.

`iqm_interval` and `improvement` are those of rliable (Agarwal et al. 2021, arXiv 2108.13264, Sections 4.2 and 4.3),
whose runs are our seeds and whose tasks are our conditions. Two departures: quartiles that fall within a value take
their share of it (`scipy.stats.trim_mean` drops it whole, or keeps it), and one seed in all methods may be a pair.
"""

from collections.abc import Mapping

import numpy as np
import scipy  # its parts load when they are used

FEW = 10  # values below which a percentile bootstrap is too narrow
EXACT = 12  # seeds up to which all sign flips are tried
ALPHA = 0.05
POWER = 0.8


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
    half = scipy.stats.t.ppf((1 + level) / 2, n - 1) * column.std(ddof=1) / np.sqrt(n)
    return float(mean), float(mean - half), float(mean + half)


def bootstrap_ci(values, rng: np.random.Generator, level: float = 0.95, n: int = 10_000) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of the mean over independent prompts or responses, `n` resamples.

    Raises ValueError for fewer than 10 values, where it is too narrow: use `mean_interval`.
    """
    column = _column(values)
    if column.size < FEW:
        raise ValueError(f"{column.size} values are too few for a bootstrap; use mean_interval")
    batch = max(1, 10**6 // column.size)  # 8 MB at a time
    found = scipy.stats.bootstrap(
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

    Returns difference, low, high, seeds (how many), wins (seeds at which a is above b), sign: 1 or -1 when the whole
    interval lies on that side of zero, 0 when it does not or when there is one seed; sd of the differences and p, of
    the two-sided paired t test, both nan for one seed. Raises ValueError when the seeds differ: a pair with one side
    missing is no pair.
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
        "sd": float(gaps.std(ddof=1)) if gaps.size > 1 else float("nan"),
        "p": _t_test(gaps),
    }


def _t_test(gaps: np.ndarray) -> float:
    """Two-sided p of a mean of zero. Differences that are all the same leave no doubt: 0, or 1 where they are zero."""
    if gaps.size == 1:
        return float("nan")
    error = gaps.std(ddof=1) / np.sqrt(gaps.size)
    if error == 0:
        return float(gaps[0] == 0)
    return float(2 * scipy.stats.t.sf(abs(gaps.mean()) / error, gaps.size - 1))


def sign_flip_p(differences) -> float:
    """Exact two-sided p of paired differences over 2 to 12 seeds: the share of all 2^n choices of their signs whose
    mean is as far from zero. It supposes that a difference and its negative are equally likely, and no normality; it
    is never below 2^(1-n), .25 at 3 seeds, .002 at 10. Raises ValueError for another number of seeds.
    """
    gaps = _column(differences, "differences")
    if not 2 <= gaps.size <= EXACT:
        raise ValueError(f"{gaps.size} differences: sign flips are tried for 2 to {EXACT}; use paired_contrast")
    signs = 1 - 2 * (np.arange(2**gaps.size)[:, None] >> np.arange(gaps.size) & 1)  # [2^n, n]
    means = np.abs(signs @ gaps)
    return float((means >= means[0] * (1 - 1e-12)).mean())


def holm(p) -> np.ndarray:
    """p values of a family of tests, adjusted by Holm's step-down (1979): the chance of one false finding among all is
    at most the level, however tests depend on each other. nan (no test) stays nan and counts for nothing. Raises
    ValueError for values outside 0..1."""
    p = np.asarray(p, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p values lie in 0..1")
    order = np.argsort(p)[: np.isfinite(p).sum()]  # nan last
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)), 1)
    return adjusted


def within_p(mean: float, sd: float, seeds: int, margin: float) -> float:
    """p of the claim that a true mean difference is smaller than `margin` to either side: the larger of two one-sided t
    tests (Schuirmann 1987). One less it is the p that the difference is beyond the margin on the side where it was
    found. nan for one seed."""
    if seeds < 2:
        return float("nan")
    if sd == 0:
        return float(abs(mean) >= margin)
    return float(scipy.stats.t.sf((margin - abs(mean)) / sd * np.sqrt(seeds), seeds - 1))


def detectable(sd: float, seeds: int, alpha: float = ALPHA) -> float:
    """Smallest mean difference that a two-sided paired t test finds, with its sign, at power .8: differences of
    standard deviation `sd` over `seeds` pairs, level `alpha`, by the noncentral t. In units of `sd`; nan for one seed.

    At 10 seeds it is 1.00 sd, at 3 it is 3.26: the normal approximation says 0.89 and 1.62.
    """
    if seeds < 2:
        return float("nan")
    cut = scipy.stats.t.isf(alpha / 2, seeds - 1)
    shift = scipy.optimize.brentq(lambda x: scipy.stats.nct.sf(cut, seeds - 1, x) - POWER, 0, 2 * (cut + 1))
    return float(shift * sd / np.sqrt(seeds))


def _middle(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the last axis, [..., N] -> [...]."""
    n = values.shape[-1]
    place = np.arange(n)  # the value of rank i fills i..i+1
    share = np.clip(np.minimum(place + 1, 0.75 * n) - np.maximum(place, 0.25 * n), 0, None)
    return np.sort(values, axis=-1) @ share / share.sum()


def _by_seed(values, name: str = "values") -> np.ndarray:
    """[seeds, conditions] of a list over seeds, or of such a table."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2):
        raise ValueError(f"{name}: pass [seeds] or [seeds, conditions], not shape {table.shape}")
    _column(table.ravel(), name)
    return table.reshape(len(table), -1)


def iqm_interval(values, rng: np.random.Generator, level: float = 0.95, n: int = 10_000) -> tuple[float, float, float]:
    """(interquartile mean, low, high) of [seeds] or [seeds, conditions], all values as one; the interval is the
    percentile bootstrap that draws seeds anew within each condition, `n` resamples. Below 10 seeds it is nan.

    Follows rliable, see above. Raises ValueError for none or non-finite.
    """
    table = _by_seed(values)
    seeds, conditions = table.shape
    middle = float(_middle(table.ravel()))
    if seeds < FEW:
        return middle, float("nan"), float("nan")
    picks = rng.integers(seeds, size=(n, seeds, conditions))
    drawn = np.take_along_axis(table[None], picks, axis=1).reshape(n, -1)
    return middle, *_quantiles(_middle(drawn), level)


def improvement(
    a, b, rng: np.random.Generator, paired: bool, level: float = 0.95, n: int = 10_000
) -> tuple[float, float, float]:
    """(P(a > b), low, high), a tie counted half, of [seeds] or [seeds, conditions], mean over conditions: `paired`, a
    seed of a against the same of b; else any seed against any (rliable's: Mann-Whitney's U over all pairs).

    The interval is the percentile bootstrap over pairs, or over the seeds of each, within conditions, `n` resamples.
    It is nan below 10 seeds, and a point where one side wins on all: `sign_flip_p` tells more there. Raises ValueError
    for none, non-finite, unequal conditions, or pairs of unequal length.
    """
    a, b = _by_seed(a, "a"), _by_seed(b, "b")
    if a.shape[1] != b.shape[1] or (paired and len(a) != len(b)):
        raise ValueError(f"a has [seeds, conditions] {a.shape} and b {b.shape}; pass the same of both")
    won = (a[:, None] > b) + 0.5 * (a[:, None] == b)  # [seeds of a, seeds of b, conditions]
    if paired:
        won = np.einsum("iic->ic", won)[:, None]  # [seeds, 1, conditions]
    share = float(won.mean())
    if min(len(a), len(b)) < FEW:
        return share, float("nan"), float("nan")
    one, other = (rng.multinomial(k, np.full(k, 1 / k), (n, won.shape[2])) for k in won.shape[:2])  # how often each
    drawn = np.einsum("nca,abc,ncb->n", one, won, other, optimize=True) / won.size
    return share, *_quantiles(drawn, level)


def _quantiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
