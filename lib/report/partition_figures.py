"""Figures of the error decomposition: where each granularity wins, what its error is made of, Eq. 12's noise term.

As in `figures.py`, each function takes numbers (`granularity.summed`, `granularity.winners`) and returns a matplotlib
figure and the numbers in it. Bars and bands are 95% bootstrap intervals over answers, of one model and one draw of
answers. Colours are Okabe and Ito's; a partition has one colour and one marker everywhere, and adaptive ones share one.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from report import lines
from report.look import EDGE, canvas
from study.words import PARTITIONS

ADAPTIVE = "#332288"
STYLE = {  # partition: colour, marker, line; shared with the methods of `look.STYLE` where they cut alike
    "sequence": ("#0072B2", "o", "-"),
    "sentence": ("#8C564B", "P", "-"),
    "ngram": ("#555555", "p", "-"),
    "entropy": ("#D55E00", "D", "-"),
    "token": ("#E69F00", "s", "-"),
    "threshold": (ADAPTIVE, "X", "-"),
    "three-way": (ADAPTIVE, "<", "--"),
    "schmitt": (ADAPTIVE, ">", ":"),
    "search": ("#44AA99", "^", "-"),
    "spans": ("#009E73", "v", "--"),
    "optimal": ("#000000", "*", ":"),
}
SEEN = ("sequence", "sentence", "token", "search")
MASKS = ("threshold", "three-way", "schmitt")  # adaptive ones
READS = {"mean": "mean of the segment's tokens", "last": "last token of the segment"}


def look(partition: str) -> dict:
    """Keywords of `Axes.plot` for a partition."""
    colour, marker, line = STYLE[partition]
    return {"color": colour, "marker": marker, "linestyle": line, "label": PARTITIONS[partition]}


def over_noise(
    panels: dict[str, tuple[pd.DataFrame, dict[str, pd.DataFrame]]], reads: str = "mean"
) -> tuple[Figure, pd.DataFrame]:
    """Error over that of the optimal partition's means, against the noise c, read as `reads` says; a panel per truth
    (`panels`: title -> `summed` and, by name, `winners`); grey: neither SEEN, nor the adaptive one of the smallest
    error, nor best anywhere. Below, a row per name: at each noise the partition with the smallest error of those
    compared; hollow where it is not clearly smaller than the next one's."""
    figure, axes = canvas(len(panels), 1, 3.7)
    frames = []
    for ax, (title, (numbers, best)) in zip(axes[:, 0], panels.items()):
        numbers = numbers[numbers.reads == reads]
        means = numbers.groupby("partition").above.mean().reindex([*MASKS]).dropna()
        seen = {*SEEN, *means.nsmallest(1).index, *(x for found in best.values() for x in found.partition)}
        for name in sorted(filter(set(numbers.partition).__contains__, STYLE), key=seen.__contains__):
            part, drawn = numbers[numbers.partition == name], look(name)
            drawn |= {} if name in seen else {"color": lines.OTHER}
            ax.plot(part.c, part.above, **drawn, linewidth=1.5)
            ax.fill_between(part.c, part.above_low, part.above_high, color=drawn["color"], alpha=0.12, linewidth=0)
        for i, (name, found) in enumerate(best.items()):
            height = -0.06 * (i + 1)
            for row in found.itertuples():
                drawn = look(row.partition) | {"linestyle": "none", "label": "_"}
                fill = drawn["color"] if row.clear else "white"
                across = ax.get_xaxis_transform()
                ax.plot(row.c, height, transform=across, clip_on=False, markerfacecolor=fill, **drawn)
            ax.annotate(name, (-0.01, height), xycoords="axes fraction", ha="right", va="center", fontsize=9)
        ticks = numbers.c.unique()
        ax.set(xscale="log", yscale="log", xlabel="noise of a token's reward, c (credit)")
        ax.set_xticks(ticks, [f"{c:g}" for c in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(axis="x", pad=8 + 14 * len(best), length=0)
        lines.ends(ax, title)
        frames.append(numbers.assign(truth=title))
        ax.set_ylabel("error over that of\nthe optimal partition (ratio)")
    return figure, pd.concat(frames)


def parts(numbers: pd.DataFrame, noises: list[float]) -> tuple[Figure, pd.DataFrame]:
    """What the error per token is made of, read as means, at some noises c, a column each: approximation (full) and
    noise (hatched); the tick is Eq. 12, approximation and c^2 K. Whiskers: 95% interval of the total."""
    numbers = numbers[(numbers.reads == "mean") & numbers.c.isin(noises)]
    names = [name for name in STYLE if name in set(numbers.partition)]
    figure, axes = canvas(1, len(noises), 0.9 + 0.26 * len(names), sharey=True)
    for ax, c in zip(axes[0], noises):
        part = numbers[numbers.c == c].set_index("partition").loc[names]
        y, colours = np.arange(len(names)), [STYLE[name][0] for name in names]
        ax.barh(y, part.approximation, color=colours, height=0.7)
        ax.barh(y, part.noise, left=part.approximation, color="white", edgecolor=colours, hatch="////", height=0.7)
        ax.hlines(y, part.total_low, part.total_high, color="black", linewidth=1.2)
        predicted = part.approximation + part.cost
        ax.vlines(predicted, y - 0.42, y + 0.42, color="black", linewidth=2)
        ax.set_xlim(0, min(3 * part.total.median(), 1.05 * part.total_high.max()))  # what is longer has its number
        for i in np.flatnonzero(part.total > ax.get_xlim()[1]):
            place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
            ax.annotate(f"{part.total.iloc[i]:.2g} →", (0.99, i), fontsize=8, bbox=EDGE, **place)
        ax.set_title(f"c = {c:g} credit", loc="left")
        ax.set_xlabel("error per token\n(credit squared)")
    axes[0, 0].set_yticks(range(len(names)), [PARTITIONS[name] for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    grey = {"facecolor": "#6b6b6b", "edgecolor": "#6b6b6b"}
    handles = [Patch(**grey), Patch(**grey | {"facecolor": "white"}, hatch="////")]
    handles.append(axes[0, 0].vlines([], 0, 0, color="black", linewidth=2))
    labels = ["approximation", "noise, measured", "Eq. 12: approximation + c²K"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure, numbers


STRONGER = ("#c9c9c9", "#b5b5b5", "#6b6b6b", "#555555", "#444444", "#000000")  # on either ground: `look.DARK`


def noise_terms(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Measured noise over Eq. 12's c^2 K, 1 where the equation holds: partitions down the side, a column for each way
    to read a segment, a mark per noise c, larger ones stronger."""
    names = [name for name in STYLE if name in set(numbers.partition)]
    noises = sorted(numbers.c.unique())
    shades = [STRONGER[i] for i in np.linspace(0, len(STRONGER) - 1, len(noises)).round().astype(int)]
    figure, axes = canvas(1, 2, 1.1 + 0.28 * len(names), sharey=True)
    for ax, (reads, text) in zip(axes[0], READS.items()):
        for i, (c, shade) in enumerate(zip(noises, shades)):
            part = numbers[(numbers.reads == reads) & (numbers.c == c)]
            y = part.partition.map(names.index) + 0.1 * (i - (len(noises) - 1) / 2)
            ax.hlines(y, part.ratio_low, part.ratio_high, color=shade, linewidth=1.5)
            ax.plot(part.ratio, y, color=shade, marker="o", markersize=3.5, linestyle="none", label=f"{c:g}")
        ax.axvline(1, color="#444444", linestyle="--", linewidth=1.2)
        ax.set_title(text, loc="left")
        ax.set_xlabel("measured noise over c²K (ratio)")
    axes[0, 1].set_xscale("log")
    axes[0, 1].set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes[0, 1].xaxis.set_minor_locator(NullLocator())
    axes[0, 0].set_yticks(range(len(names)), [PARTITIONS[name] for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    place = {"loc": "outside upper center", "ncols": len(labels), "frameon": False}
    figure.legend(handles, labels, title="noise c (credit)", **place)
    return figure, numbers
