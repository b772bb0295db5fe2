"""adaptive-mask's claim, pair by pair: each method with a mask less the same method without one.

As in `tables.py`, printed are benchmark accuracies and ours are true returns: order and sign compare. None of Table 1's
printed averages is the mean of its column, so differences and ranks are given by both, printed and recomputed.
"""

import numpy as np
import pandas as pd

from report import tables, wins
from report.published_rows import ROWS, printed
from study import effort, summary
from study.methods import METHODS
from study.stats import mean_interval

PAPER = "adaptive-mask"
TWINS = {"appo": "bandit", "adpo": "online-dpo", "ars": "rs"}  # masked method: the same without a mask
TRIGGERED = {f"{masked}-schmitt": twin for masked, twin in TWINS.items()}  # Section 4.1: its runs had a trigger
BY_ORACLE = {f"{masked}-oracle": twin for masked, twin in TWINS.items()}  # a control: what if the mask were right?
DENSE = ("appo-dense", "appo-td")  # on token rewards, so that `token` is their twin


def base(method: str) -> str:
    """What a row with a mask is compared with: its twin without one; where it varies a mask, the masked method that it
    changes one thing of; `token` and `dpo` where its own rewards, or its pairs, are others."""
    if method in TWINS or method == "dpo-masked":
        return TWINS.get(method, "dpo")
    return "token" if method in DENSE else method.partition("-")[0]


def variants() -> list[str]:
    """The rows with a mask that are not in Table 1, as `methods.py` lists them."""
    return [name for name, row in METHODS.items() if row.mask is not None and name not in TWINS]


def averages() -> pd.DataFrame:
    """Table 1's averages by method: `printed`, and `recomputed`, the mean of the twelve values that are printed."""
    cells = printed(1, PAPER).astype(float)
    cells.index = [ROWS[PAPER][1][row] for row in cells.index]
    return pd.DataFrame({"printed": cells["AVG"], "recomputed": cells.drop(columns="AVG").mean(axis=1)})


def gains(runs: list[dict], name: str = tables.RETURN) -> pd.DataFrame:
    """A line per pair of `TWINS`: method, its twin, the gain as printed and recomputed, and here: difference paired by
    seed with its t interval, seeds, wins, and one of `tables.SIGNS` against the printed gain."""
    means, lines = averages(), []
    for masked, twin in TWINS.items():
        found = tables.contrasts(runs, 1, twin, name, PAPER).set_index("here").loc[summary.label(masked)]
        line = {"method": summary.label(masked), "less": summary.label(twin), "printed": found["paper"]}
        line["recomputed"] = means.recomputed[masked] - means.recomputed[twin]
        lines.append(line | dict(found[["difference", "low", "high", "seeds", "wins", "sign"]]))
    return pd.DataFrame(lines)


def through_training(runs: list[dict]) -> pd.DataFrame:
    """Win rate against the reference over training (Figure 5), each method of `TWINS` less its twin, paired by seed and
    round: the mean over rounds with its t interval over seeds, and the share of rounds that it is ahead in (ties half).
    Without PPO's first rounds, which teach the critic alone. Pairs without a seed whose records both hold win rates are
    left out."""
    rates = {}
    for r in runs:
        if "win_rate" in (r.get("curves") or [{}])[0]:
            still = effort.warming(r)
            rates[r["method"], r["seed"]] = np.array([row["win_rate"] for row in r["curves"]])[still:]
    lines = []
    for masked, twin in TWINS.items():
        seeds = sorted(seed for name, seed in rates if name == masked and (twin, seed) in rates)
        gaps = [rates[masked, seed] - rates[twin, seed] for seed in seeds]
        if gaps:
            line = {"method": summary.label(masked), "less": summary.label(twin)}
            line |= dict(zip(("difference", "low", "high"), mean_interval([gap.mean() for gap in gaps]), strict=True))
            ahead = np.concatenate([(np.sign(gap) + 1) / 2 for gap in gaps]).mean()
            lines.append(line | {"rounds ahead (share)": ahead, "seeds": len(seeds)})
    return pd.DataFrame(lines)


def changes(runs: list[dict], names, name: str = tables.RETURN, less=base) -> pd.DataFrame:
    """Each of the rows `names` less what `less` names, paired by seed; a line per row, with nan where no seed has
    both."""
    lines = []
    for method in names:
        pair = [r for r in runs if r["method"] in (method, less(method))]
        here = summary.contrasts(pair, name, less(method))
        line = {"row": summary.label(method), "less": summary.label(less(method))}
        found = here.iloc[0].drop("method").to_dict() if len(here) else dict.fromkeys(here.columns[1:], np.nan)
        lines.append(line | found | {"seeds": found["seeds"] if len(here) else 0})
    return pd.DataFrame(lines)


def duels(runs: list[dict], reference: str | None = None) -> pd.DataFrame:
    """Rows of `wins.matrix` in which Table 1's six methods meet `reference`, or the masked ones their twins."""
    pairs = {name: reference for pair in TWINS.items() for name in reversed(pair)} if reference else TWINS
    every = wins.matrix([r for r in runs if r["method"] in {*pairs, *pairs.values()}])
    rows = [every[(every.method == method) & (every.other == other)] for method, other in pairs.items()]
    return pd.concat(rows, ignore_index=True)


def orders(runs: list[dict]) -> pd.DataFrame:
    """`tables.kendall` of our true returns with the printed average, the recomputed one, and each of Table 1's twelve
    columns, a line each."""
    columns = {"AVG": "AVG", "average, recomputed": averages().recomputed}
    columns |= {name: name for name in printed(1, PAPER) if name != "AVG"}
    return pd.DataFrame([{"printed": n} | tables.kendall(runs, 1, c, paper=PAPER) for n, c in columns.items()])


def verdict(frame: pd.DataFrame) -> str:
    """The claim in a sentence, from `gains`."""
    parts = []
    for x in frame.to_dict("records"):
        pair = f"{x['method']} less {x['less']}"
        if not x["seeds"]:
            parts.append(f"{pair}: no record")
            continue
        interval = summary.interval_text(x["difference"], x["low"], x["high"])
        seeds = "1 seed" if x["seeds"] == 1 else f"{x['seeds']} seeds"
        parts.append(f"{pair}: {interval} credit over {seeds}, {tables.SIGNS[x['sign']]}")
    return f"True return, the mask's gain: {'; '.join(parts)}."
