"""Figures of what lies beyond the papers: gains over length, returns over reward-model data and over reviser error.

As in `figures.py`, each function takes numbers (`horizon.values`, `horizon.gains`) and returns a matplotlib figure and
the numbers in it; a dot is a seed, a bar Student's t interval of the mean over seeds, 95%
(fewer than three seeds have none).
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from report.figures import shown
from report.lines import SETTINGS, ends
from report.look import canvas, style
from study.methods import METHODS
from study.summary import intervals, label

LEVELS = {"style": "style only", "gate": "gate", "ceiling": "ceiling"}  # of a reward model's label accuracy


def over(ax, frame: pd.DataFrame, looks: dict[str, dict], log: bool = True) -> pd.DataFrame:
    """Draw columns at, line, seed, value: for each line of `looks` (keywords of `Axes.plot`) a dot per seed, means
    joined, intervals. Lines stand a little apart at each setting. Returns the intervals."""
    numbers = intervals(frame.sort_values("at"), ["line", "at"])
    lines, ticks = [line for line in looks if line in set(frame.line)], sorted(set(frame["at"]))
    width = (np.log(max(ticks) / min(ticks)) if log else max(ticks) - min(ticks)) or 1.0
    for i, line in enumerate(lines):
        shift, look = 0.02 * (i - (len(lines) - 1) / 2) * width, looks[line]
        part, seeds = numbers[numbers.line == line], frame[frame.line == line]
        x, x_seeds = ((at * np.exp(shift) if log else at + shift) for at in (part["at"], seeds["at"]))
        ax.plot(x, part["mean"], **look | {"marker": None}, linewidth=1.5)
        ax.plot(x_seeds, seeds["value"], **look | {"linestyle": "none", "label": "_"}, alpha=0.7)
        few = shown(part)
        ax.vlines(x, few.low, few.high, color=look["color"], linewidth=2.5, alpha=0.5)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.margins(x=0.12)
    ax.xaxis.set_gid(SETTINGS)
    ax.set_xticks(ticks, [f"{x:,.0f}" if log else f"{x:g}" for x in ticks])
    return numbers


def gains(gaps: pd.DataFrame, text: str = "gain in true return (credit)") -> tuple[Figure, pd.DataFrame]:
    """Gain in true return (`horizon.gains`; `text` says in what units) over the mean length of the SFT model's answers:
    learned rewards left, the oracle controls right; the line at 0 is the row that the gain is over."""
    gaps = gaps.assign(line=gaps.method + "/" + gaps.against)
    oracle = gaps.method.map(lambda m: METHODS[m].scorer == "oracle")
    groups = {t: part for t, part in (("learned rewards", gaps[~oracle]), ("oracle", gaps[oracle])) if len(part)}
    figure, axes = canvas(1, len(groups), 3.4)
    numbers = []
    for ax, (title, part) in zip(axes[0], groups.items()):
        looks = {}
        for line, method, against in part[["line", "method", "against"]].drop_duplicates().itertuples(index=False):
            other = {"linestyle": "--", "markerfacecolor": "white"} if against != "bandit" else {"linestyle": "-"}
            looks[line] = style(method) | other | {"label": f"{label(method)} over {label(against)}"}
        numbers.append(over(ax, part, looks))
        ax.axhline(0, color="black", linewidth=1)
        ax.set_xlabel("SFT model's answers, mean length\n(tokens; log)")
        ends(ax, title)
    axes[0, 0].set_ylabel(text)
    return figure, pd.concat(numbers)


def by_pairs(returns: pd.DataFrame, accuracy: pd.DataFrame, levels: dict[str, float]) -> tuple[Figure, pd.DataFrame]:
    """True return (left) and the reward model's held-out label accuracy (right) over its preference pairs, both columns
    at, method, seed, value; `levels` of the accuracy by the names of LEVELS."""
    figure, axes = canvas(1, 2, 3.2)
    numbers = []
    for ax, (frame, text) in zip(
        axes[0], ((returns, "true return (credit)"), (accuracy, "agrees with held-out labels\n(share of pairs)"))
    ):
        looks = {method: style(method) for method in dict.fromkeys(frame.method)}
        numbers.append(over(ax, frame.assign(line=frame.method), looks).assign(measure=" ".join(text.split())))
        ax.set_xlabel("preference pairs (log)")
        ax.set_ylabel(text)
    for name, height in levels.items():
        axes[0, 1].axhline(height, color="#444444", linestyle="--", linewidth=1, label=LEVELS[name])
    for ax in axes[0]:
        ends(ax)
    return figure, pd.concat(numbers)


def by_error(returns: pd.DataFrame, auc: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """TLCR's true return by the reviser's error (left; columns at, seed, value; none where nothing is measured yet) and
    the area under the ROC curve of its labels on tokens (right; columns error, auc, low, high: bootstrap over
    answers)."""
    figure, axes = canvas(1, 2 if len(returns) else 1, 3.0, width=7.4 if len(returns) else 4.2)
    looks, numbers = {"tlcr": style("tlcr")}, [auc]
    if len(returns):
        numbers.append(over(axes[0, 0], returns.assign(line="tlcr"), looks, log=False))
        axes[0, 0].set_ylabel("true return (credit)")
    ax, colour = axes[0, -1], looks["tlcr"]["color"]
    ax.plot(auc.error, auc.auc, **looks["tlcr"])
    ax.vlines(auc.error, auc.low, auc.high, color=colour, linewidth=2.5, alpha=0.5)
    ax.axhline(0.5, color="#444444", linestyle="--", linewidth=1, label="chance")
    ends(ax)
    ax.set_ylabel("labels tell costly tokens\n(area under the ROC curve)")
    for ax in axes[0]:
        ax.set_xlabel("reviser's error per span (probability)")
    return figure, pd.concat(numbers)
