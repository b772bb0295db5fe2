"""Figures of answers set against each other, of a discriminator's probabilities, and of policies under other rewards.

As in `figures.py`, each function takes numbers and returns a matplotlib figure and the numbers in it.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from report import lines
from report.figures import curves
from report.look import canvas, style
from report.strips import ABOVE, BELOW
from study.summary import label, order

WIN, TIE, LOSS = (ABOVE, "won"), ("#e2e2e2", "tied"), (BELOW, "lost")


def win_matrix(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Win rates (%, `wins.matrix`) of the methods down the side against those along the top; violet is above 50."""
    names = order(numbers.method)
    rates = numbers.pivot(index="method", columns="other", values="rate").reindex(index=names, columns=names) * 100
    figure, axes = canvas(1, 1, 1.6 + 0.34 * len(names))
    ax = axes[0, 0]
    shades = ax.imshow(rates, cmap="PuOr", vmin=0, vmax=100, aspect="auto")
    for (row, column), rate in np.ndenumerate(rates.to_numpy()):
        if not np.isnan(rate):
            light = luminance(shades.to_rgba(rate)[:3])
            colour = "#fefefe" if light < 0.2 else "#1a1a1a"  # the same in dark mode, as the shades
            ax.text(column, row, f"{rate:.0f}", ha="center", va="center", fontsize=9, color=colour)
    ax.grid(visible=False)
    ax.set_yticks(range(len(names)), [label(name) for name in names])
    ax.set_xticks(range(len(names)), [label(name) for name in names], rotation=45, ha="left")
    ax.xaxis.tick_top()
    ax.set_xlabel("against (share of prompts won, ties half, %)")
    figure.colorbar(shades, ax=ax, label="win rate (%)", shrink=0.8)
    return figure, numbers


def luminance(colour) -> float:
    """WCAG's relative luminance of a colour (red, green, blue; 0 to 1 each)."""
    parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


def win_bars(numbers: pd.DataFrame, printed: dict[str, float] | None = None) -> tuple[Figure, pd.DataFrame]:
    """One method against others, or any pairs of two (rows of `wins.matrix`): prompts won, tied, lost (%), a bar for
    each; the dot is the win rate with its interval, a diamond what the paper prints (`printed`: other -> %)."""
    numbers = numbers.assign(printed=numbers.other.map(printed or {}).astype(float))
    figure, axes = canvas(1, 1, 1.3 + 0.42 * len(numbers))
    ax, y = axes[0, 0], np.arange(len(numbers))
    left = np.zeros(len(numbers))
    for name, (colour, text) in zip(("win", "tie", "loss"), (WIN, TIE, LOSS)):
        ax.barh(y, 100 * numbers[name], 0.62, left=left, color=colour, label=text)
        left += 100 * numbers[name].to_numpy()
    ax.hlines(y, 100 * numbers.low, 100 * numbers.high, color="black", linewidth=2)
    ax.plot(100 * numbers.rate, y, "o", color="black", label="win rate, ties half")
    if numbers.printed.notna().any():
        ax.plot(numbers.printed, y, "D", color="#AA0000", markerfacecolor="white", label="as printed")
    ax.axvline(50, color="black", linestyle=":", linewidth=1)
    ax.set_yticks(y, pairs(numbers))
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("share of prompts (%)")
    legend(ax)
    return figure, numbers


def pairs(numbers: pd.DataFrame) -> list[str]:
    """Names of rows of `wins.matrix`: the other's where one method meets all, the method's where all meet one other."""
    if numbers.method.nunique() == 1:
        return [label(name) for name in numbers.other]
    if numbers.other.nunique() == 1:
        return [label(name) for name in numbers.method]
    return [f"{label(a)}\nagainst {label(b)}" for a, b in zip(numbers.method, numbers.other)]


def most_preferred(numbers: pd.DataFrame, printed: dict[str, float] | None = None) -> tuple[Figure, pd.DataFrame]:
    """How often each method's answer is the best of all (%, `wins.most_preferred`): mean with its interval; a thin line
    spans the seeds; a diamond is what the paper prints."""
    numbers = numbers.assign(printed=numbers.method.map(printed or {}).astype(float))
    figure, axes = canvas(1, 1, 1.0 + 0.36 * len(numbers))
    ax = axes[0, 0]
    for y, row in enumerate(numbers.itertuples()):
        look = style(row.method) | {"linestyle": "none", "label": "_"}
        ax.hlines(y, 100 * row.lowest, 100 * row.highest, color=look["color"], linewidth=0.8)
        ax.hlines(y, 100 * row.low, 100 * row.high, color=look["color"], linewidth=3, alpha=0.6)
        ax.plot([100 * row.share], [y], **look)
    if numbers.printed.notna().any():
        ax.plot(numbers.printed, range(len(numbers)), "D", color="#AA0000", markerfacecolor="white", label="as printed")
        legend(ax)
    ax.set_yticks(range(len(numbers)), [label(name) for name in numbers.method])
    ax.set_ylim(len(numbers) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("most preferred of all, ties shared (% of prompts)")
    return figure, numbers


def legend(ax) -> None:
    """The legend in one line above the axes."""
    n = len(ax.get_legend_handles_labels()[1])
    ax.legend(frameon=False, ncols=n, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, columnspacing=1.2)


def reliability(found: dict[str, list[list[dict]]]) -> tuple[Figure, pd.DataFrame]:
    """Share of positive tokens against the discriminator's probability, on tokens that are not neutral (`found`: name
    -> a reliability curve of `discriminator_metrics` for each seed), a panel per name; larger dots hold more tokens.
    No interval: the tokens of an answer are no independent draws."""
    figure, axes = canvas(1, len(found), 2.9, sharey=True)
    numbers = []
    for ax, (name, seeds) in zip(axes[0], found.items()):
        ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
        for seed, curve in enumerate(seeds):
            part = pd.DataFrame(curve)
            size = 12 + 90 * part.tokens / part.tokens.max()
            ax.plot(part.said, part.true, color=style("tlcr")["color"], linewidth=0.8, alpha=0.6)
            ax.scatter(part.said, part.true, s=size, color=style("tlcr")["color"], alpha=0.6, linewidths=0)
            numbers.append(part.assign(name=name, curve=seed))
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(name, loc="left")
        ax.set_xlabel("mean probability of positive\n(of a bin)")
    axes[0, 0].set_ylabel("share of positive\n(of edited tokens in it)")
    return figure, pd.concat(numbers)


def bands(numbers: pd.DataFrame, used: float) -> tuple[Figure, pd.DataFrame]:
    """How neutral is decided (`discrimination.bands`): over the confidence below which a token counts as neutral, the
    three-label accuracy beside the largest label's share, the share called neutral, and how many of the others are
    right; the dashed line is the confidence that is used."""
    figure, axes = canvas(1, 1, 2.7)
    ax = axes[0, 0]
    shown = {
        "accuracy": ("#882255", "d", "-", "accuracy, three labels"),
        "majority": ("black", "", ":", "largest label"),
        "called_neutral": ("#6b6b6b", "s", "--", "called neutral"),
        "decided": ("#44AA99", "^", "-", "right where called otherwise, of edited tokens"),
    }
    for name, (colour, marker, line, text) in shown.items():
        ax.plot(numbers.confidence, numbers[name], color=colour, marker=marker, linestyle=line, label=text)
    ax.axvline(used, color="black", linestyle="--", linewidth=1)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("share of tokens")
    ax.set_xlabel("confidence below which a token is neutral (probability)")
    lines.ends(ax)
    return figure, numbers


def one_sided(runs: list[dict]) -> tuple[Figure, pd.DataFrame]:
    """tlcr Figure 7: length, KL and perplexity per token over rollout batches (`figures.curves`).

    Perplexity is that of a policy's own samples, for itself and for the SFT model: exp(H) and exp(H + KL / length), H
    the mean entropy per token (nats), which is the expectation of the negative log-probability of a sampled token."""

    def with_perplexity(row: dict) -> dict:
        if not {"entropy", "kl", "length"} <= row.keys():
            return row
        surprise = row["entropy"] + row["kl"] / row["length"]
        return row | {"perplexity": np.exp(row["entropy"]), "perplexity_sft": np.exp(surprise)}

    runs = [r | {"curves": [with_perplexity(row) for row in r["curves"]]} if "curves" in r else r for r in runs]
    figure, numbers = curves(runs, ("length", "kl", "perplexity", "perplexity_sft"))
    for ax in figure.axes:
        of = {"perplexity": "perplexity for\nitself (per token)", "perplexity_sft": "perplexity for\nSFT (per token)"}
        ax.set_ylabel(of.get(ax.get_ylabel(), ax.get_ylabel()))
    return figure, numbers


def under(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Policies under each of several rewards (`cross.under`): a panel per reward, methods down the side, mean total per
    answer with its interval; a ring marks the reward that a policy was trained on."""
    rewards, names = list(dict.fromkeys(numbers.reward)), order(numbers.method)
    figure, axes = canvas(1, len(rewards), 1.0 + 0.34 * len(names), sharey=True)
    for ax, reward in zip(axes[0], rewards):
        for row in numbers[numbers.reward == reward].itertuples():
            y, look = names.index(row.method), style(row.method) | {"linestyle": "none", "label": "_"}
            ax.hlines(y, row.low, row.high, color=look["color"], linewidth=2.5, alpha=0.6)
            ax.plot([row.mean], [y], **look)
            if row.method == reward:
                ax.plot([row.mean], [y], "o", color="black", markersize=11, markerfacecolor="none")
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(label(reward), loc="left")
        ax.set_xlabel("total per answer\n(reward)")
    axes[0, 0].set_yticks(range(len(names)), [label(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return figure, numbers
