"""Figures of single stages: the testbed's answers and pairs, entropies and boundaries, scorers, normalisers.

As in `figures.py`, each function returns a matplotlib figure and the numbers in it; it takes the numbers of one run, so
that there are no intervals over seeds here. What the marks mean is said in the docstrings and on the axes.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from report import lines
from report.look import canvas, style
from report.strips import visible
from study.summary import order

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b6b6b"


def span_shares(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Share of each kind among all spans (columns kind, share, credit); blue is worth something, orange costs."""
    figure, axes = canvas(1, 1, 2.6)
    ax = axes[0, 0]
    colours = [BLUE if c > 0 else GREY if c == 0 else ORANGE for c in numbers.credit]
    ax.barh(numbers.kind.str.replace("_", " "), numbers.share, color=colours)
    for y, row in enumerate(numbers.itertuples()):
        said = f"{row.share:.3f}, credit {row.credit:g}"
        ax.annotate(said, (row.share, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_xlim(0, numbers.share.max() * 1.35)
    ax.invert_yaxis()
    ax.set_xlabel("share of spans")
    return figure, numbers


def returns_by_quality(answers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Distribution of the true return for each latent quality (columns quality, return_additive)."""
    figure, axes = canvas(1, 1, 2.6)
    ax, edges = axes[0, 0], np.arange(-9.5, 8.5, 1.0)
    for (quality, part), colour, line in zip(answers.groupby("quality"), (RED, ORANGE, BLUE), (":", "--", "-")):
        density = np.histogram(part.return_additive, edges)[0] / len(part)
        text = f"quality {quality:g}: mean {part.return_additive.mean():+.2f}, sd {part.return_additive.std():.2f}"
        ax.stairs(density, edges, color=colour, linestyle=line, linewidth=1.8, label=text)
    ax.set_xlabel("true return (credit)")
    ax.set_ylabel("share of answers\nper unit of credit")
    figure.legend(frameon=False, loc="outside upper left")
    return figure, answers.groupby("quality").return_additive.describe().reset_index()


def label_noise(pairs: pd.DataFrame, temperature: float, levels: dict[str, float]) -> tuple[Figure, pd.DataFrame]:
    """How often the label agrees with the true order, by the size of the gap in true return; the curve is the
    Bradley-Terry chance, horizontal lines are `levels`."""
    size = pairs.gap.abs()
    decided = pairs[size > 1e-9].assign(size=size)
    decided["bin"] = np.minimum(np.floor(decided["size"]), 7) + 0.5
    numbers = decided.groupby("bin").gap.agg(agree=lambda g: (g > 0).mean(), pairs="size").reset_index()
    numbers["se"] = np.sqrt(numbers.agree * (1 - numbers.agree) / numbers.pairs)
    figure, axes = canvas(1, 1, 2.6)
    ax, x = axes[0, 0], np.linspace(0, 8, 100)
    ax.plot(x, 1 / (1 + np.exp(-x / temperature)), color=GREY, label="Bradley-Terry")
    ax.vlines(numbers.bin, numbers.agree - 2 * numbers.se, numbers.agree + 2 * numbers.se, color=BLUE)
    ax.plot(numbers.bin, numbers.agree, "o", color=BLUE, label="pairs, two standard errors")
    for (text, level), line in zip(levels.items(), ("--", ":", "-.")):
        ax.axhline(level, color=RED, linestyle=line, linewidth=1.2, label=f"{text}: {level:.3f}")
    ax.set_xlabel("size of the gap in true return (credit)")
    ax.set_ylabel("label agrees\nwith the truth (share)")
    lines.ends(ax)
    return figure, numbers


def length_gaps(pairs: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Histogram of the length of the chosen answer minus that of the rejected one, in characters; in the title the
    share of pairs in which the longer one is preferred, with two standard errors of an even chance."""
    limit = max(20, int(np.ceil(pairs.characters.abs().max() / 20) * 20))
    edges = np.arange(-limit, limit + 1, 20)
    counts = np.histogram(pairs.characters, edges)[0]
    longer, shorter = (pairs.characters > 0).sum(), (pairs.characters < 0).sum()
    figure, axes = canvas(1, 1, 2.3)
    ax = axes[0, 0]
    ax.bar(edges[:-1], counts, 19, align="edge", color=np.where(edges[:-1] < 0, ORANGE, BLUE))
    share, error = longer / (longer + shorter), 0.5 / (longer + shorter) ** 0.5
    even = len(pairs) - longer - shorter
    said = f"the longer answer is preferred in {longer} of {longer + shorter} pairs ({share:.3f}, ±{2 * error:.3f})"
    ax.set_title(f"{said}; {even} are equally long" if even else said)
    ax.set_xlabel("length of the preferred answer minus that of the other (characters)")
    ax.set_ylabel("pairs")
    return figure, pd.DataFrame({"from": edges[:-1], "to": edges[1:], "pairs": counts})


def token_entropies(tokens: list[str], entropies, cutoff: float) -> tuple[Figure, pd.DataFrame]:
    """Entropy (nats) of the distribution that predicts each token of one answer; above the line a segment starts."""
    numbers = pd.DataFrame({"token": tokens, "entropy": [float(e) for e in entropies]})
    numbers["starts"] = (numbers.entropy > cutoff) | (numbers.index == 0)
    figure, axes = canvas(1, 1, 3.0, width=max(7.4, 0.16 * len(tokens)))
    ax = axes[0, 0]
    ax.bar(numbers.index, numbers.entropy, 0.8, color=np.where(numbers.starts, RED, "#a9c9e2"))
    ax.axhline(cutoff, color="black", linestyle="--", linewidth=1.2)
    ax.set_title(f"dashed: the cut-off, {cutoff:g} nats", loc="right")
    names = [visible(t).replace("\n", "↵").replace(" ", "·") for t in tokens]
    ax.set_xticks(numbers.index, names, rotation=90, family="monospace", parse_math=False)
    ax.set_xlim(-0.7, len(numbers) - 0.3)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("predictive entropy (nats)")
    ax.set_xlabel("tokens of one answer (· is a space); orange bars start a segment")
    return figure, numbers


def cutoffs(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Mean segment length over cut-offs (columns cutoff, segment_length) and, where there are true spans, precision and
    recall of the boundaries."""
    known = "precision" in numbers
    figure, axes = canvas(1, 2 if known else 1, 2.5)
    axes[0, 0].plot(numbers.cutoff, numbers.segment_length, color=RED, marker="D")
    axes[0, 0].set_ylabel("mean segment\nlength (tokens)")
    if known:
        axes[0, 1].plot(numbers.cutoff, numbers.precision, color=BLUE, marker="o", label="precision")
        axes[0, 1].plot(numbers.cutoff, numbers.recall, color=ORANGE, marker="s", linestyle="--", label="recall")
        axes[0, 1].set_ylim(0, 1.03)
        axes[0, 1].set_ylabel("share of boundaries")
        lines.ends(axes[0, 1])
    for ax in axes[0]:
        ax.set_xlabel("entropy cut-off (nats)")
    return figure, numbers


def learning_curves(metrics: dict[str, dict]) -> tuple[Figure, pd.DataFrame]:
    """Label accuracy on validation pairs while scorers train (`metrics`: method -> its metrics), with the style-only
    level, the gate and the ceiling of the first of them."""
    rows = [{"method": name, **row} for name, found in metrics.items() for row in found["curve"]]
    numbers = pd.DataFrame(rows, columns=["method", "pairs", "accuracy"])
    figure, axes = canvas(1, 1, 2.7)
    ax = axes[0, 0]
    for name in order(metrics):
        part = numbers[numbers.method == name]
        ax.plot(part.pairs, part.accuracy, **style(name))
    first = next(iter(metrics.values()))
    for text, name, line in (("ceiling", "ceiling", "-"), ("gate", "gate", "--"), ("style only", "style", ":")):
        if f"{name}_validation" in first:
            ax.axhline(first[f"{name}_validation"], color=GREY, linestyle=line, linewidth=1.2, label=text)
    ax.set_xlabel("preference pairs seen")
    ax.set_ylabel("label accuracy on\nvalidation pairs (share)")
    lines.ends(ax)
    return figure, numbers


def normaliser_fit(fitted: dict[str, tuple]) -> tuple[Figure, pd.DataFrame]:
    """Segment scores against the log of their location, one panel per method (`fitted`: method -> scores [B, S], mask,
    normaliser): dots are the mean at a location, thin bars one standard deviation, the line and its band what Eq. 6
    fits."""
    figure, axes = canvas(1, len(fitted), 2.7)
    frames = []
    for ax, (name, (scores, mask, normaliser)) in zip(axes[0], fitted.items()):
        mask = np.asarray(mask)
        p = mask.cumsum(1) / mask.sum(1, keepdims=True)  # `rewards.location`
        frame = pd.DataFrame({"p": p[mask], "score": np.asarray(scores)[mask].astype(float)})
        part = frame.groupby(frame.p.round(9)).score.agg(["mean", "std", "size"]).query("size > 1").reset_index()
        x = np.log(part.p)
        if len(part) > 60:  # the fit uses all of them; a page shows the most frequent
            part = part.nlargest(60, "size").sort_values("p")
            x = np.log(part.p)
        ax.errorbar(x, part["mean"], part["std"], fmt="none", ecolor="#b5b5b5", elinewidth=0.8)
        ax.plot(x, part["mean"], **{**style(name), "linestyle": "none", "markersize": 3.5})
        _line(ax, normaliser, x)
        ax.set_title(style(name)["label"])
        ax.set_xlabel("log location, log p")
        frames.append(part.assign(method=name))
    axes[0, 0].set_ylabel("segment score (raw)")
    return figure, pd.concat(frames)


def _line(ax, n, x) -> None:
    grid = np.linspace(min(x.min(), -0.05), 0, 50)
    mean, std = n.w_mean * grid + n.b_mean, n.w_std * grid + n.b_std
    std = np.maximum(std, n.floor or 0)
    ax.plot(grid, mean, color="black", linewidth=1.6)
    ax.fill_between(grid, mean - std, mean + std, color="black", alpha=0.1, linewidth=0)
