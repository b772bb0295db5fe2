"""Figures of best of n: outcome and process reward models over the number of samples.

As in `figures.py`, each function takes numbers (`best_of_n.summed`) and returns a matplotlib figure and the numbers in
it. Bars are 95% bootstrap intervals over prompts, of values that are means over seeds first.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from densereward.figures import canvas, style

GREEN, PURPLE, BLACK = "#009E73", "#CC79A7", "#000000"
AGGREGATES = {"sum": ("o", "-"), "mean": ("s", "--"), "min": ("v", ":"), "last": ("X", "-."), "product": ("D", "--")}
WORDS = {"steps": "step by step", "oracle": "the oracle"}


def words(reader: str) -> str:
    """What figures and tables call a reader: a row of `methods.py`, the oracle, or process-NOISE-USE."""
    if not reader.startswith("process-"):
        return WORDS.get(reader) or f"outcome: {style(reader)['label']}"
    _, noise, use = reader.split("-")
    return f"process, {WORDS.get(use, use)}" + (f", label noise {noise}" if float(noise) else "")


def look(reader: str) -> dict:
    """Keywords of `Axes.plot` for a reader."""
    if reader == "oracle":
        return {"color": BLACK, "marker": "*", "linestyle": ":", "label": words(reader)}
    if not reader.startswith("process-"):
        return style(reader) | {"label": words(reader)}
    _, noise, use = reader.split("-")
    marker, line = AGGREGATES.get(use, ("^", "-"))
    colour = PURPLE if float(noise) else GREEN
    return {"color": colour, "marker": marker, "linestyle": line, "label": words(reader)}


def over_n(panels: dict[str, pd.DataFrame], column: str = "mean") -> tuple[Figure, pd.DataFrame]:
    """`best_of_n.summed` over n, a panel per title; `column` is "mean" (true return) or "lead" (over the reader that
    it was summed against)."""
    low, high = ("low", "high") if column == "mean" else ("lead_low", "lead_high")
    figure, axes = canvas(1, len(panels), 4.4, sharey=True)
    for ax, (title, numbers) in zip(axes[0], panels.items()):
        readers = list(dict.fromkeys(numbers.reader))
        for i, reader in enumerate(readers):
            part, drawn = numbers[numbers.reader == reader], look(reader)
            x = part.n * 2 ** (0.05 * (i - (len(readers) - 1) / 2))
            ax.plot(x, part[column], **drawn, linewidth=1.4)
            ax.vlines(x, part[low], part[high], color=drawn["color"], linewidth=2, alpha=0.45)
        ns = sorted(set(numbers.n))
        ax.set_xscale("log", base=2)
        ax.set_xticks(ns, [str(n) for n in ns])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("answers to choose from, n (log)")
        ax.set_title(title, loc="left")
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=8.5)
    axes[0, 0].set_ylabel("true return of the chosen (credit)" if column == "mean" else "lead (credit)")
    return figure, pd.concat([numbers.assign(panel=title) for title, numbers in panels.items()])
