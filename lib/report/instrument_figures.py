"""Figures of what was wrong with the instrument.

As in `figures.py`, each returns a matplotlib figure and its numbers."""

import pandas as pd
from matplotlib.figure import Figure

from report import lines
from report.figures import looks
from report.look import canvas, head
from study import summary


def shares(found: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """`in_time.shares`: of credit, the share that a segment's even split pays in time, of all spans and of items
    alone, beside the share that is decided at a segment's first token."""
    looks = {
        "even": ("#0072B2", "split evenly, all spans"),
        "items": ("#56B4E9", "split evenly, items alone"),
        "begins": ("#bbbbbb", "decided at a segment's first token"),
    }
    figure, axes = canvas(1, 1, 1.4 + 0.42 * len(found))
    ax = axes[0, 0]
    for i, (name, (colour, text)) in enumerate(looks.items()):
        ax.barh([y + 0.26 * (i - 1) for y in range(len(found))], found[name], height=0.24, color=colour, label=text)
    ax.axvline(1, color="#444444", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(found)), found.segmentation)
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlim(0, 1.03)
    ax.set_xlabel("credit (share)")
    head(ax)
    return figure, found


def over_rounds(groups: dict[str, list[dict]], metric: str, text: str, level: float | None = None):
    """A metric of the training curves over rollout batches, a panel for each group of runs by its title: mean over
    seeds, band from lowest to highest seed; `level` is a dotted line, `text` the axis label. Returns figure and
    numbers."""
    found = {title: summary.curve(runs, metric) for title, runs in groups.items()}
    found = {title: frame for title, frame in found.items() if len(frame)}
    figure, axes = canvas(1, len(found), 3.4, sharey=True)
    for ax, (title, frame) in zip(axes[0], found.items()):
        for name, look in looks(summary.order(frame.method), frame, "mean").items():
            part = frame[frame.method == name]
            ax.plot(part.rollout, part["mean"], **look, markevery=max(1, len(part) // 8), linewidth=1.6)
            if look["color"] != lines.OTHER:
                ax.fill_between(part.rollout, part.low, part.high, color=look["color"], alpha=0.15, linewidth=0)
        if level is not None:
            ax.axhline(level, color="black", linestyle=":", linewidth=1)
        ax.set_xlabel("rollout batches")
        ax.xaxis.get_major_locator().set_params(integer=True)
        lines.ends(ax, title)
    axes[0, 0].set_ylabel(text)
    return figure, pd.concat([frame.assign(group=title) for title, frame in found.items()])
