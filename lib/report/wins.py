"""Which of two policies gives the better answer, prompt by prompt: win rates, and how often each is the most preferred.

Follows tlcr Figures 4 and 5 and adaptive-mask Figure 4, with the oracle's true return in place of a judge: the answers
of a seed's policies to the same test prompts (`final.answers` of a record) are compared, and equal returns are a tie.
A judge that must choose would split ties: a win rate counts a tie half.

Intervals are 95% percentile bootstraps over prompts, all seeds of a prompt together: what other prompts would give.
What other seeds would give is the spread of the single seeds, `lowest` and `highest`. Left out: position bias, which
an oracle has not, and corrections for many comparisons.
"""

import numpy as np
import pandas as pd
import scipy  # its parts load when they are used

from densereward.seeding import rng
from study.summary import order

COLUMNS = ["method", "other", "win", "tie", "loss", "rate", "low", "high", "lowest", "highest", "seeds", "prompts"]


def answers(runs: list[dict]) -> dict[str, dict[int, np.ndarray]]:
    """method -> seed -> true return of each test answer, in the order of the prompts, of the records that hold them.
    Raises ValueError for a method and seed that occur twice, or numbers of prompts that differ."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for r in runs:
        told = r.get("final", {}).get("answers", {}).get("true_return")
        if told is not None:
            if r["seed"] in found.setdefault(r["method"], {}):
                raise ValueError(f"{r['method']} has two records of seed {r['seed']}: keep the newest")
            found[r["method"]][r["seed"]] = np.asarray(told, dtype=float)
    sizes = {len(x) for seeds in found.values() for x in seeds.values()}
    if len(sizes) > 1:
        raise ValueError(f"answers to {sorted(sizes)} prompts: compare runs with the same test prompts")
    return {name: found[name] for name in order(found)}


def matrix(runs: list[dict]) -> pd.DataFrame:
    """Every ordered pair of methods that share a seed: shares of wins, ties and losses of `method` against `other`
    (they add up to 1), `rate` = win + tie / 2 with its interval (low, high), the rates of the lowest and highest seed,
    and how many seeds and prompts. Raises as `answers`."""
    found, rows = answers(runs), []
    for i, method in enumerate(found):
        for other in list(found)[i + 1 :]:
            if shared := sorted(found[method].keys() & found[other].keys()):
                sign = np.sign([found[method][s] - found[other][s] for s in shared])  # [seeds, prompts]
                rows += [_row(method, other, sign), _row(other, method, -sign)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    place = {name: i for i, name in enumerate(found)}
    return frame.sort_values(["method", "other"], key=lambda names: names.map(place)).reset_index(drop=True)


def against(runs: list[dict], reference: str) -> pd.DataFrame:
    """The rows of `matrix` in which every other method meets `reference`. Raises as `answers`."""
    found = matrix(runs)
    return found[found.other == reference].reset_index(drop=True)


def most_preferred(runs: list[dict]) -> pd.DataFrame:
    """How often each method's answer is the best of all, on the seeds that all share; the k best of a prompt have 1/k
    each, so that shares add up to 1: method, share, low, high, lowest, highest, seeds, prompts. Empty where the methods
    share no seed. Raises as `answers`."""
    found = answers(runs)
    shared = sorted(set.intersection(*(set(seeds) for seeds in found.values()))) if found else []
    columns = ["method", "share", "low", "high", "lowest", "highest", "seeds", "prompts"]
    if not shared:
        return pd.DataFrame(columns=columns)
    returns = np.array([[seeds[s] for s in shared] for seeds in found.values()])  # [methods, seeds, prompts]
    best = returns == returns.max(0)
    credit = best / best.sum(0)
    rows = []
    for name, part in zip(found, credit):  # [seeds, prompts]
        each = part.mean(1)
        rows.append((name, part.mean(), *_interval(part.mean(0)), each.min(), each.max(), *part.shape))
    return pd.DataFrame(rows, columns=columns)


def _row(method: str, other: str, sign: np.ndarray) -> tuple:
    """One row of `matrix` from the sign of the difference [seeds, prompts]."""
    shares = [(sign == x).mean() for x in (1, 0, -1)]
    rates = (1 + sign) / 2
    each = rates.mean(1)
    return (method, other, *shares, rates.mean(), *_interval(rates.mean(0)), each.min(), each.max(), *sign.shape)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """(low, high) of the mean over prompts [P], every call with the same draws; nan for fewer than 10 prompts, which a
    bootstrap is too narrow for."""
    if len(values) < 10:
        return np.nan, np.nan
    found = scipy.stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=rng(0, "wins"))
    return tuple(map(float, found.confidence_interval))
