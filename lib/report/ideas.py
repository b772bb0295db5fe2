"""What each paper pays the tokens of one and the same answer: a drawing for each, in one visual language.

An answer is a row of tokens; below it stands what each token is paid. The answer is made up (asked for fruits, it names
a brick), and so are entropies, scores and confidences; cuts, mask, labels and payments follow from them by the papers'
rules, and a test holds that the library makes the same of them. Each function returns a matplotlib figure, legible on a
phone, and the numbers in it."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from report.look import EDGE, canvas
from report.strips import ABOVE, BELOW, INK, PAPER, SEGMENTS

ANSWER = ("I", "like", "apple", ",", "maybe", "brick", ".", "∎")
REVISED = ("I", "like", "apple", ",", "maybe", "kiwi", ".", "∎")
ENTROPIES, CUTOFF = (0.3, 0.9, 2.3, 0.8, 1.2, 2.6, 0.9, 0.2), 1.75  # nats
SCORES = (0.4, 0.9, -1.5)  # of the three segments, normalised
TOKEN_REWARDS, BASELINE, ADVANTAGE = (0.1, 0.0, 0.9, 0.4, -0.1, -0.8, 0.3, 0.5), 0.2, 0.6
POSITIVE = (0.5, 0.55, 0.7, 0.5, 0.4, 0.1, 0.5, 0.55)  # a discriminator's probability that a token is good
GREY, LINE = "#b5b5b5", "#444444"


def segments() -> tuple[Figure, pd.DataFrame]:
    """segment-ppo: a segment starts where entropy is above the cut-off, and its score is split over its tokens."""
    starts = [i == 0 or entropy > CUTOFF for i, entropy in enumerate(ENTROPIES)]
    ids = np.cumsum(starts) - 1
    paid = np.array(SCORES)[ids] / np.bincount(ids)[ids]
    ax = _sheet(5.5)
    _bars(ax, 4.0, ENTROPIES, 0.4, "Entropy before each token (nats); dashed: the cut-off", GREY, 0.4 * CUTOFF)
    ax.hlines(4.0 + 0.4 * CUTOFF, 0, len(ANSWER), color=INK, linestyle="--", linewidth=1, zorder=0.5)
    _row(ax, 2.75, ANSWER, [SEGMENTS[i % 2] for i in ids], "A cut above it: three segments", starts)
    for i, score in enumerate(SCORES):
        first, last = np.flatnonzero(ids == i)[[0, -1]]
        _say(ax, (first + last + 1) / 2, 2.55, f"score {_signed(score)}", ha="center", va="top")
    _bars(ax, 0.95, paid, 1.1, "Paid: the score, split evenly")
    told = {"token": ANSWER, "entropy": ENTROPIES, "segment": ids + 1, "score": np.array(SCORES)[ids], "paid": paid}
    return ax.figure, pd.DataFrame(told)


def masks() -> tuple[Figure, pd.DataFrame]:
    """adaptive-mask: of a preferred answer only the tokens above the baseline learn from its one advantage."""
    kept = np.array(TOKEN_REWARDS) > BASELINE
    paid = ADVANTAGE * kept
    ax = _sheet(5.3)
    _bars(ax, 4.2, TOKEN_REWARDS, 0.7, "Token rewards; dashed: the baseline", GREY, 0.7 * BASELINE)
    ax.hlines(4.2 + 0.7 * BASELINE, 0, len(ANSWER), color=INK, linestyle="--", linewidth=1, zorder=0.5)
    grounds = [ABOVE if x else PAPER for x in kept]
    _row(ax, 2.0, ANSWER, grounds, "Preferred answer: what is not above it is masked", struck=~kept)
    _bars(ax, 0.25, paid, 1.1, "Learns from: the answer's one advantage, where kept")
    return ax.figure, pd.DataFrame({"token": ANSWER, "reward": TOKEN_REWARDS, "kept": kept, "advantage": paid})


def edits() -> tuple[Figure, pd.DataFrame]:
    """tlcr: what a revision takes out is bad, what it brings in is good; a token is paid the discriminator's
    confidence, from -1 to 1."""
    out = np.array([a != b for a, b in zip(ANSWER, REVISED)])  # a replacement: in the same place
    paid = 2 * np.array(POSITIVE) - 1
    ax = _sheet(5.4)
    grounds = [BELOW if x else PAPER for x in out]
    _row(ax, 4.6, ANSWER, grounds, "Rejected answer: what an edit takes out is bad", struck=out)
    _row(ax, 3.15, REVISED, [ABOVE if x else PAPER for x in out], "Its revision: what the edit brings in is good")
    _bars(ax, 1.1, paid, 1.1, "Paid: a discriminator's confidence, 2 D − 1")
    labels = {"label": np.where(out, 0.0, 0.5), "of the revision": np.where(out, 1.0, 0.5)}
    return ax.figure, pd.DataFrame({"token": ANSWER, "revised": REVISED, **labels, "D": POSITIVE, "paid": paid})


def _sheet(height: float):
    """Axes without an edge, a token wide each and `height` rows high, for the width of a phone."""
    figure, axes = canvas(1, 1, 0.55 * height, width=4.8)
    ax = axes[0, 0]
    ax.set(xlim=(-0.05, len(ANSWER) + 0.05), ylim=(-0.15, height))
    ax.axis("off")
    return ax


def _say(ax, x: float, y: float, text: str, **look) -> None:
    ax.text(x, y, text, **{"fontsize": 9.5, "color": INK} | look)


def _row(ax, y: float, tokens, grounds, head: str, cuts=None, struck=None) -> None:
    """Tokens as boxes from `y` upwards; thick edges where a segment starts, a line through what is struck."""
    _say(ax, 0, y + 0.72, head, fontweight="bold")
    for i, (token, ground) in enumerate(zip(tokens, grounds)):
        ax.add_patch(Rectangle((i, y), 1, 0.58, facecolor=ground, edgecolor=LINE, linewidth=0.6))
        _say(ax, i + 0.5, y + 0.27, token, ha="center", va="center", family="monospace")
        if cuts is not None and cuts[i]:
            ax.vlines(i, y - 0.12, y + 0.66, color=INK, linewidth=2.4)
        if struck is not None and struck[i]:
            ax.hlines(y + 0.27, i + 0.08, i + 0.92, color=INK, linewidth=1.2)


def _bars(ax, y: float, values, scale: float, head: str, ground: str = "", line: float = np.nan) -> None:
    """A bar for each token from the line at `y`, with its number, which a `line` that would cross it sends below; blue
    above zero, orange below, or of one colour."""
    top = max(max(values), 0) * scale
    _say(ax, 0, y + top + 0.5, head, fontweight="bold")
    ax.hlines(y, 0, len(values), color=LINE, linewidth=0.8)
    for i, value in enumerate(values):
        colour = ground or (ABOVE if value > 0 else BELOW)
        ax.add_patch(Rectangle((i + 0.2, y), 0.6, value * scale, facecolor=colour))
        crossed = 0 <= line - value * scale < 0.42 and value >= 0
        side, gap = ("bottom", 0.06) if value >= 0 and not crossed else ("top", -0.06)
        text, at = f"{value:g}".replace("-", "−") if ground else _signed(value), 0 if crossed else value * scale
        _say(ax, i + 0.5, y + at + gap, text, va=side, ha="center", fontsize=9, bbox=EDGE)


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if abs(value) > 0.005 else "0"
