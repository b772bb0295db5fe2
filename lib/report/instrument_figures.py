"""Figures of what was wrong with the instrument.

As in `figures.py`, each returns a matplotlib figure and its numbers."""

import pandas as pd
from matplotlib.figure import Figure

from report import instrument, lines
from report.figures import looks
from report.look import EDGE, canvas, head
from study import summary
from study.stats import mean_interval

WAYS = (  # by setting
    {"color": "#6b6b6b", "marker": "o"},
    {"color": "#56B4E9", "marker": "s"},
    {"color": "#0072B2", "marker": "D"},
    {"color": "#D55E00", "marker": "v"},
)


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


def way(of: dict[str, list[dict]], mark: float, least: float = -0.2) -> tuple[Figure, pd.DataFrame]:
    """`instrument.ways` at settings (their names: runs, the SFT model's too), of the rows of the last: share of the way
    from the SFT model to a perfect answer, mean and t interval over seeds; a line at `mark`. The axis ends at `least`,
    where the means beyond it are written."""
    told = [
        (name, m, *mean_interval(x))
        for name, runs in of.items()
        for m, x in instrument.ways(runs).items()
        if len(x) > 1
    ]
    found = pd.DataFrame(told, columns=["setting", "method", "mean", "low", "high"])
    methods = summary.order(set(found.method[found.setting == [*of][-1]]))
    figure, axes = canvas(1, 1, 1.4 + 0.42 * len(methods))
    ax, apart = axes[0, 0], 0.8 / len(of)  # of a row
    for i, (name, look) in enumerate(zip(of, WAYS)):
        part = found[(found.setting == name) & found.method.isin(methods)]
        y = part.method.map(methods.index) + apart * (i - (len(of) - 1) / 2)
        ax.hlines(y, part.low.clip(least), part.high.clip(least), colors=look["color"], linewidth=1.6)
        ax.plot(part["mean"].where(part["mean"] >= least), y, linestyle="none", label=name, **look)
        for row, at in zip(part.itertuples(), y):
            if row.mean < least:
                text = f"◂ {row.mean:.1f}".replace("-", "−")
                ax.text(least, at, text, va="center", fontsize=7, color=look["color"], bbox=EDGE)
    for x in (0, mark, 1):
        ax.axvline(x, color="#444444", linestyle="--" if x == mark else ":", linewidth=1)
    ax.set_yticks(range(len(methods)), [summary.label(m) for m in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.set_xlim(least, 1.02)
    ax.set_xlabel("of the way from the SFT model to a perfect answer (share)")
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
