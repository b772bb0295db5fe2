"""Figures of what rewards pay: the normaliser's lines, one clause more, repeats, the noise of a gradient.

As in `figures.py`, each function takes numbers and returns a matplotlib figure and the numbers in it. Bars and bands
are 95% bootstrap intervals over answers, of one set of scorers: none of them says anything about other seeds.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.diagnostics import GREY
from report.lines import ends
from report.look import canvas, names, style
from study.words import AT_END, EDITS, TRUTH

MARKS = dict(zip(EDITS, (("#117733", "^"), (GREY, "o"), ("#999933", "s"), ("#CC6677", "X"), ("#332288", "D"))))
BESIDE = {"textcoords": "offset points", "fontsize": 8.5}
FITS = {"huber": ("black", "-", "Huber (Appendix F)"), "ols": ("#CC6677", "--", "least squares (Section 2.3)")}


def look(method: str) -> dict:
    """`look.style` of a payer: the truth, a row, or a row and how it is paid."""
    if method == TRUTH:
        return {"color": "black", "marker": "*", "linestyle": ":", "label": "True return"}
    name = method.removesuffix(AT_END).removesuffix(", raw")
    found = style(name)
    end = {"linestyle": "--", "markerfacecolor": "white"} if method.endswith(AT_END) else {}
    return found | end | {"label": found["label"] + method.removeprefix(name)}


def above(figure: Figure, ax) -> None:
    """The legend of one of the axes above all of them, in one line."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, columnspacing=1.2)


def log_linear(found: dict[str, dict[str, pd.DataFrame]], raw: dict[str, pd.DataFrame]):
    """Scores by location, a column of panels per method (`found`: method -> estimator -> `locations.lines`; `raw`: some
    single scores, log_p and score). Top: single scores (points), means at a location (dots), fitted Mean(p). Middle:
    deviations and fitted Std(p). Bottom: what is left of the means by the first estimator, in Std(p). The
    120 locations with the most scores are drawn; a larger dot has more."""
    figure, axes = canvas(3, len(found), 2.1, sharex="col", sharey="row")
    numbers = []
    for column, (name, fits) in zip(axes.T, found.items()):
        first = next(iter(fits.values()))
        part = first.nlargest(120, "n").sort_values("p")
        sizes = 4 + 40 * part["n"] / part["n"].max()
        column[0].scatter(raw[name].log_p, raw[name].score, s=3, color="#b5b5b5", linewidths=0, label="single scores")
        for ax, y, text in zip(column, ("mean", "std", "residual"), ("mean", "deviation", "residual")):
            ax.scatter(part.log_p, part[y], s=sizes, color=style(name)["color"], alpha=0.7, linewidths=0, label=text)
        for estimator, lines in fits.items():
            colour, line, text = FITS[estimator]
            for ax, y in zip(column, ("mean_line", "std_line")):
                ax.plot(lines.log_p, lines[y], color=colour, linestyle=line, linewidth=1.6, label=text)
            numbers.append(lines.assign(method=name, estimator=estimator))
        column[2].axhline(0, color="black", linewidth=1)
        for row in part[part.p == 1].itertuples():
            column[2].annotate("the last, p = 1", (row.log_p, row.residual), (-9, 0), va="center", ha="right", **BESIDE)
        column[2].set_xlim(part.log_p.min() - 0.1, 0.1)
        column[2].set_xlabel("log location, log p")
        column[0].set_title(style(name)["label"])
    low, high = np.quantile(pd.concat(raw.values()).score, (0.005, 0.995))
    axes[0, 0].set_ylim(low, high)
    for ax, text in zip(axes[:, 0], ("segment score\n(raw)", "its deviation\n(raw)", "mean less Mean(p)\n(in Std(p))")):
        ax.set_ylabel(text)
    above(figure, axes[0, -1])
    return figure, pd.concat(numbers)


def clauses(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Change of the total by one more clause (`constants.gains` with a column `group`): methods down the side, a panel
    per group of answers, a mark per kind of clause; the star's row is the truth."""
    methods, groups = list(dict.fromkeys(numbers.method)), list(dict.fromkeys(numbers.group))
    figure, axes = canvas(1, len(groups), 0.9 + 0.42 * len(methods), sharey=True, sharex=True)
    for ax, group in zip(axes[0], groups):
        for i, (edit, (colour, marker)) in enumerate(MARKS.items()):
            part = numbers[(numbers.group == group) & (numbers.edit == edit)]
            y = part.method.map(methods.index) + 0.14 * (i - 2)
            ax.hlines(y, part.low, part.high, color=colour, linewidth=2, alpha=0.6)
            ax.plot(part["mean"], y, color=colour, marker=marker, linestyle="none", label=edit)
        ax.axvline(0, color="black", linewidth=1)
        ax.set_title(group, loc="left")
        ax.set_xlabel("change of the total\n(deviations of totals)")
    axes[0, 0].set_yticks(range(len(methods)), [look(m)["label"] for m in methods])
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    above(figure, axes[0, 0])
    return figure, numbers


def foretold(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What a segment of a good answer earns (`constants.foretold`), measured on answers, against what policies trained
    on it repeat; each point with its name."""
    figure, axes = canvas(1, 1, 3.4)
    ax = axes[0, 0]
    ax.axvline(0, color="#444444", linewidth=1)
    for row in numbers.itertuples():
        drawn = look(row.method)
        ax.plot([row.low, row.high], [row.repetition] * 2, color=drawn["color"], linewidth=1.5)
        ax.plot([row.wage], [row.repetition], **drawn | {"linestyle": "none", "markersize": 7})
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(-0.3, max(30, 1.5 * numbers.repetition.max()))
    ax.set_yticks([0, 0.5, 1, 3, 10, 30], ["0", "0.5", "1", "3", "10", "30"])
    ax.margins(x=0.18)
    ax.set_xlabel("what a segment of a good answer earns (deviations of totals), before training")
    ax.set_ylabel("repetitions after training\n(spans per answer)")
    names(ax, [(row.wage, row.repetition, look(row.method)["label"]) for row in numbers.itertuples()])
    return figure, numbers


def repeats(numbers: pd.DataFrame, rows: dict[str, str]) -> tuple[Figure, pd.DataFrame]:
    """Reward against the number of the repeat (columns measure, method, k, mean, low, high): a row of panels for each
    measure of `rows` (measure: axis label), before normalisation left, after it right; the truth in both."""
    figure, axes = canvas(len(rows), 2, 2.5, sharex=True, sharey="row")
    for row, (measure, text) in zip(axes, rows.items()):
        for ax, raw in zip(row, (True, False)):
            part = numbers[numbers.measure == measure]
            for name in dict.fromkeys(part.method):
                if name == TRUTH or name.endswith(", raw") == raw:
                    line = part[part.method == name]
                    drawn = look(name) | (
                        {} if name == TRUTH else {"label": style(name.removesuffix(", raw"))["label"]}
                    )
                    ax.plot(line.k, line["mean"], **drawn)
                    ax.fill_between(line.k, line.low, line.high, color=drawn["color"], alpha=0.15, linewidth=0)
            ax.axhline(0, color="black", linewidth=0.8)
            ends(ax, f"{'before' if raw else 'after'} normalisation" if ax in axes[0] else "")
        row[0].set_ylabel(text)
    for ax in axes[-1]:
        ax.set_xlabel("number of the repeat")
    return figure, numbers


def to_go(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Variance of the reward to go over token index (`variance.per_token`), a panel for rewards from one scorer: dense
    as it is paid (solid) and the same total at the end (dashed)."""
    names = [name for name in dict.fromkeys(numbers.method) if name + AT_END in set(numbers.method)]
    alone = [name for name in dict.fromkeys(numbers.method) if not name.endswith(AT_END) and name not in names]
    figure, axes = canvas(1, len(names), 2.6, sharey=True)
    for ax, name in zip(axes[0], names):
        for method in (name, name + AT_END, *alone):
            part, drawn = numbers[numbers.method == method], look(method)
            drawn |= {"label": {name: "as paid", name + AT_END: "same total at the end"}.get(method, drawn["label"])}
            ax.plot(part.token, part.variance, **drawn, markevery=6, linewidth=1.6)
            ax.fill_between(part.token, part.low, part.high, color=drawn["color"], alpha=0.12, linewidth=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("token of the answer (index)")
        ends(ax, style(name)["label"])
    axes[0, 0].set_ylabel("variance of the reward to go\n(totals have variance 1)")
    return figure, numbers


def gradient_noise(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Trace of the covariance of one response's gradient, and signal to noise (`variance.gradients` with a column
    `baseline`): methods down the side, filled and hollow for the two baselines; bars: 95% bootstrap intervals."""
    methods, baselines = list(dict.fromkeys(numbers.method)), list(dict.fromkeys(numbers.baseline))
    panels = {
        "trace": "trace of the covariance\n(of one response's gradient)",
        "snr": "signal to noise\n(of one response)",
    }
    figure, axes = canvas(1, 2, 1.2 + 0.42 * len(methods), sharey=True)
    for ax, (name, text) in zip(axes[0], panels.items()):
        for row in numbers.itertuples():
            first, drawn = row.baseline == baselines[0], look(row.method)
            y, colour = methods.index(row.method) + (-0.14 if first else 0.14), drawn["color"]
            ax.hlines([y], getattr(row, f"{name}_low"), getattr(row, f"{name}_high"), color=colour, linewidth=2)
            fill = colour if first else "white"
            ax.plot([getattr(row, name)], [y], color=colour, marker=drawn["marker"], markerfacecolor=fill)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_xlabel(text)
    axes[0, 0].set_yticks(range(len(methods)), [look(m)["label"] for m in methods])
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    return figure, numbers
