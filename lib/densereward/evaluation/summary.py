"""From records to the numbers that figures and tables show: which runs are the comparison, means and intervals over
seeds, contrasts. Records are those of `study.run_method`; a dotted name reaches into them ("final.true_return").

Intervals are Student's t over seeds, 95% (`stats.mean_interval`); one seed has none.
"""

from collections import Counter

import numpy as np
import pandas as pd

from densereward.evaluation.stats import mean_interval, paired_contrast
from densereward.methods import METHODS
from densereward.records import canonical, latest, to_frame


def label(method: str) -> str:
    return METHODS[method].label if method in METHODS else method


def order(methods) -> list[str]:
    """Methods as `methods.py` lists them, then any other by name."""
    names = list(METHODS)
    return sorted(set(methods), key=lambda m: (names.index(m) if m in names else len(names), m))


def study(records: list[dict]) -> list[dict]:
    """The runs of the comparison: of the groups that share everything but method and seed (dataset, profile, model,
    contrast), the one with the most methods, then the most runs; of each method and seed the newest record. All other
    runs are ablations."""
    runs = [r for r in records if r["kind"] == "run"]
    groups = [canonical([r["dataset"], {k: v for k, v in r["params"].items() if k != "method"}]) for r in runs]
    methods = {group: {r["method"] for r, g in zip(runs, groups) if g == group} for group in groups}
    best = max(methods, key=lambda group: (len(methods[group]), Counter(groups)[group]), default=None)
    return latest([r for r, group in zip(runs, groups) if group == best], ("method", "seed"))


def values(records: list[dict], name: str) -> pd.DataFrame:
    """method, seed, value of every record that has the dotted `name`; methods in order, then seeds."""
    frame = to_frame(records)
    if name not in frame:
        return pd.DataFrame({"method": [], "seed": [], "value": []})
    frame = frame[["method", "seed", name]].set_axis(["method", "seed", "value"], axis=1).dropna()
    rank = frame.method.map({method: i for i, method in enumerate(order(frame.method))})
    return frame.assign(rank=rank).sort_values(["rank", "seed"]).drop(columns="rank")


def intervals(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """mean, low, high and number of seeds of the column `value` for each group; low and high are nan for one seed."""
    rows = [
        (*key, *mean_interval(group["value"].astype(float)), len(group)) for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


def curve(records: list[dict], metric: str) -> pd.DataFrame:
    """method, rollout, and mean, lowest and highest (columns low, high) over seeds of a metric of the training curves.

    "proxy_reward" is centred and divided by the standard deviation of each run's own curve: proxies of different
    methods share no scale, only their shapes compare."""
    frames = [pd.DataFrame(columns=["method", "rollout", "value"])]
    for r in records:
        rows = pd.DataFrame(r.get("curves") or [])
        if metric in rows and rows[metric].notna().any():
            y = rows[metric].astype(float)
            y = (y - y.mean()) / max(float(y.std(ddof=0)), 1e-12) if metric == "proxy_reward" else y
            frames.append(pd.DataFrame({"method": r["method"], "rollout": rows["rollout"], "value": y}))
    grouped = pd.concat(frames[1:] or frames).groupby(["method", "rollout"])["value"]
    return grouped.agg(mean="mean", low="min", high="max").reset_index()


def contrasts(records: list[dict], name: str = "final.true_return", against: str = "bandit") -> pd.DataFrame:
    """Every method minus `against` on the seeds that both have: difference, low, high, seeds, wins (seeds above)."""
    column = {m: dict(zip(g.seed, g["value"])) for m, g in values(records, name).groupby("method", sort=False)}
    rows = []
    for m in column:
        shared = sorted(column[m].keys() & column.get(against, {}).keys())
        if m != against and shared:
            rows.append({"method": label(m), **paired_contrast(*({s: column[x][s] for s in shared} for x in (m, against)))})
    return pd.DataFrame(rows, columns=["method", "difference", "low", "high", "seeds", "wins"])


def table(records: list[dict], columns: dict[str, str], digits: int = 2) -> pd.DataFrame:
    """One row per method: "mean [low, high]" of each dotted name in `columns` (name: heading), and how many seeds."""
    rows = {m: {"method": label(m), "seeds": 0} for m in order(r["method"] for r in records)}
    for r in records:
        rows[r["method"]]["seeds"] += 1
    for name, heading in columns.items():
        for row in intervals(values(records, name), ["method"]).itertuples():
            rows[row.method][heading] = interval_text(row.mean, row.low, row.high, digits)
    return pd.DataFrame(rows.values(), columns=["method", "seeds", *columns.values()])


def interval_text(mean: float, low: float, high: float, digits: int = 2) -> str:
    """"1.23 [1.01, 1.45]", or the mean alone where there is no interval."""
    return f"{mean:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")
