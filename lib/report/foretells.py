"""Which measurement of a reward, taken before PPO, foretells where PPO ends: rank correlations over learned rows.

A row counts once, by its means over seeds. Left out: rows without a learned reward, and without advantages; several
measurements at once. Rows are variants of few methods, so intervals over rows are narrower than those over methods.
"""

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from densereward.seeding import rng
from study import summary
from study.methods import LEARNED, METHODS
from study.stats import mean_interval

END = "final.true_return"
BEFORE = {  # dotted name of a record: words
    "credit.advantages_credit_pearson": "advantages agree with credit",
    "credit.advantages_monte_carlo_spearman": "they order spans as Monte Carlo advantages do",
    "credit.gradient_cosine": "cosine with the true policy gradient",
    "credit.rewards_credit_pearson": "rewards agree with credit",
    "credit.causal_share": "pay that comes in time",
    "reward_model.accuracy_test": "agreement with held-out labels",
    "reward_model.flip_test": "the score drops for a wrong item",
    "reward_model.repeat_test": "the score drops for a repetition",
}
FEWEST = 6  # rows, or seeds, of a correlation


def table(runs: list[dict]) -> pd.DataFrame:
    """A line per measurement of BEFORE: Spearman's correlation with the final true return over learned rows, and over
    those that end above the SFT model; each with low, high (95% bootstrap over rows), and how many rows."""
    learned = [r for r in runs if r.get("credit") and METHODS[r["method"]].scorer in LEARNED]
    means = pd.DataFrame({name: _means(learned, name) for name in (END, *BEFORE)})
    above = means[means[END] > _means(runs, END).get("sft", np.nan)]
    lines = []
    for name, words in BEFORE.items():
        line = {"measured before PPO": words}
        for heading, part in (("all learned rows", means), ("those above SFT", above)):
            line |= _correlation(part[[name, END]].dropna(), heading)
        lines.append(line)
    return pd.DataFrame(lines)


def by_wage(wages: list[dict], runs: list[dict]) -> pd.DataFrame:
    """A line per row of `wage_records.py` that was trained: seeds; what an average segment of a good answer earns
    (deviations of totals), with its 95% t interval over them, and under how many it is above zero, interval and all;
    and Spearman's correlation over seeds with the final true return, with its p value (none below FEWEST seeds)."""
    ends = summary.values(runs, END).set_index(["method", "seed"])["value"]
    lines = []
    for name in summary.order({m for r in wages for m in r["earned"]} & set(ends.index.get_level_values("method"))):
        paid = {r["seed"]: r["earned"][name] for r in wages if name in r["earned"] and (name, r["seed"]) in ends.index}
        earned = [x[0] for x in paid.values()]
        line = {"method": summary.label(name), "seeds": len(paid)}
        line["earned (deviations)"] = summary.interval_text(*mean_interval(earned), 3)
        line["seeds above zero"] = sum(low > 0 for _, low, _ in paid.values())
        found = spearmanr(earned, [ends[name, seed] for seed in paid]) if len(paid) >= FEWEST else None
        line |= {"correlation with the end": found and found.statistic, "p": found and summary.p_text(found.pvalue)}
        lines.append(line)
    return pd.DataFrame(lines)


def _means(runs: list[dict], name: str) -> pd.Series:
    return summary.values(runs, name).groupby("method")["value"].mean().astype(float)


def _correlation(both: pd.DataFrame, heading: str) -> dict:
    """The correlation with its interval as columns below a heading; nan where rows are few or a column is constant."""
    found = {heading: np.nan, f"{heading} low": np.nan, f"{heading} high": np.nan, f"rows, {heading}": len(both)}
    if len(both) < FEWEST or (both.nunique() == 1).any():
        return found
    draws = rng(0, "foretells", heading).integers(len(both), size=(2_000, len(both)))
    ranks = both.to_numpy()[draws]  # [R, N, 2]
    ranks = rankdata(ranks, axis=1) - (len(both) + 1) / 2
    norm = np.sqrt((ranks**2).sum(1).prod(1))
    drawn = ranks.prod(2).sum(1)[norm > 0] / norm[norm > 0]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return found | {heading: spearmanr(both).statistic, f"{heading} low": low, f"{heading} high": high}
