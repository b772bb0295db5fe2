"""Best of n: the true return of the answer that a reward model picks among n that the SFT model sampled.

Follows adaptive-mask Figure 2, which sets reward models of outcomes against those of process by it. From N samples of a
prompt the mean over all subsets of n is exact: with scores in ascending order the i-th sample (i = 1..N) is the best of
C(i - 1, n - 1) of the C(N, n) subsets, so no draw of subsets adds noise. Among equal scores each is as likely.

A process model scores steps; AGGREGATES make one number of them, as whoever uses it for outcomes must (the paper does
not say which). Intervals are 95% percentile bootstraps over prompts. Left out: a judge's win rates, which the paper
draws; the true return stands for them.
"""

import numpy as np
import pandas as pd
import torch
from scipy.special import gammaln

from study.measures.constants import estimate, resamples
from study.stats import mean_interval


def weights(N: int, ns) -> np.ndarray:
    """Chance that the i-th of N scores in ascending order is the best of n, [N, len(ns)]; columns sum to 1. ValueError
    for an n beyond 1..N."""
    ns = np.asarray(list(ns))
    if not ns.size or ns.min() < 1 or ns.max() > N:
        raise ValueError(f"n = {ns.tolist()} of {N} samples: give whole numbers from 1 to {N}")
    below = np.arange(N)[:, None]  # samples that score less
    free = np.maximum(below - ns + 1, 0)  # keeps gammaln finite where there are too few of them
    chosen = gammaln(below + 1) - gammaln(ns) - gammaln(free + 1)
    every = gammaln(N + 1) - gammaln(ns + 1) - gammaln(N - ns + 1)
    return np.where(below >= ns - 1, np.exp(chosen - every), 0.0)


def best_of(scores, returns, ns) -> np.ndarray:
    """Expected true return of the best of n by score, [P, len(ns)], of scores and returns [P, N] of N samples for each
    of P prompts. ValueError where a score is not a number, or the shapes differ."""
    scores, returns = np.asarray(scores, float), np.asarray(returns, float)
    if scores.shape != returns.shape or scores.ndim != 2:
        raise ValueError(f"scores are {scores.shape}, returns {returns.shape}; give both as [prompts, samples]")
    if np.isnan(scores).any():
        raise ValueError(
            f"prompt {np.isnan(scores).any(1).argmax()}: a score is not a number; look at its reward model"
        )
    order = scores.argsort(1, kind="stable")
    scores, returns = (np.take_along_axis(x, order, 1) for x in (scores, returns))
    group = np.pad(scores[:, 1:] > scores[:, :-1], ((0, 0), (1, 0))).cumsum(1)  # equal scores share a number
    group += np.arange(len(scores))[:, None] * scores.shape[1]
    size = np.bincount(group.ravel(), minlength=scores.size)
    total = np.bincount(group.ravel(), returns.ravel(), minlength=scores.size)
    return (total[group] / size[group]) @ weights(scores.shape[1], ns)


def _mean(scores, spans, ends):
    return (scores * spans).sum(1) / spans.sum(1)


def _min(scores, spans, ends):
    return scores.masked_fill(~spans, float("inf")).min(1).values


def _last(scores, spans, ends):
    where = torch.arange(spans.size(1)) * spans  # [B, T]
    return scores.gather(1, where.argmax(1, keepdim=True))[:, 0]


def _product(scores, spans, ends):
    return (torch.nn.functional.logsigmoid(scores) * spans).sum(1)


def _sum(scores, spans, ends):
    return (scores * ends).sum(1)


AGGREGATES = {  # name: (scores [B, T], spans [B, T], ends [B, T] of `steps`) -> a score of each answer [B]
    "sum": _sum,  # over all steps, the end among them: what a true return is of credits
    "mean": _mean,  # this and the others: over spans
    "min": _min,
    "last": _last,
    "product": _product,  # of sigmoid(score), as if it were a step's chance to be good; here its logarithm
}


def summed(values: dict[str, np.ndarray], ns, against: str, draw: np.random.Generator) -> pd.DataFrame:
    """Columns reader, n, mean, low, high, and `lead` over the reader `against` with lead_low, lead_high, of the values
    [P, len(ns)] of each reader, paired by prompt. Random: `draw` (the same resamples for all)."""
    draws = resamples(len(values[against]), draw)
    draws /= draws.sum(1, keepdims=True)  # [1 + R, P]
    rows = []
    for name, found in values.items():
        means, leads = draws @ found, draws @ (found - values[against])  # [1 + R, len(ns)]
        for i, n in enumerate(ns):
            row = {"reader": name, "n": n, **dict(zip(("mean", "low", "high"), estimate(means[:, i])))}
            rows.append(row | dict(zip(("lead", "lead_low", "lead_high"), estimate(leads[:, i]))))
    return pd.DataFrame(rows)


def pooled(records: list[dict], part: str = "values") -> tuple[dict[str, np.ndarray], list[int]]:
    """({reader: values [P, len(ns)]}, ns) of records of one setting, a record per seed: each prompt's mean over seeds;
    `part` is "values" or "accuracy" (best of n), "search" or "search_accuracy" (step by step). ValueError where records
    differ in n or in readers."""
    first = records[0]
    for r in records[1:]:
        if r["ns"] != first["ns"] or r[part].keys() != first[part].keys():
            raise ValueError(f"seeds {first['seed']} and {r['seed']} hold other n or other readers; make them alike")
    return {name: np.mean([r[part][name] for r in records], axis=0) for name in first[part]}, first["ns"]


def over_seeds(records: list[dict], against: str) -> pd.DataFrame:
    """Columns reader, lead, low, high, seeds: at the largest n, the mean over prompts of each reader less that of
    `against`, and its t interval over seeds."""
    rows = []
    for name in records[0]["values"]:
        gaps = [np.mean(r["values"][name], 0)[-1] - np.mean(r["values"][against], 0)[-1] for r in records]
        if name != against:
            rows.append((name, *mean_interval(gaps), len(gaps)))
    return pd.DataFrame(rows, columns=["reader", "lead", "low", "high", "seeds"])
