"""Figures of adaptive masks: what they keep, whether it is right, and what policies that learn from it become.

As in `figures.py`, each function takes numbers or records and returns a matplotlib figure and the numbers in it. Bands
of measured masks are 95% bootstrap intervals over answers, those of policies the range over seeds.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from report import lines
from report.look import canvas, style
from report.twins import TWINS
from study.summary import curve, label, order, values
from study.words import DECISIONS, SIDES

SCORERS = {"token": ("#E69F00", "s"), "segment": ("#D55E00", "D")}  # colours of the rows that these are
LINES = {"threshold": "-", "three-way": "-", "schmitt": "--"}
WORTH = {"chosen": "in a span worth something", "rejected": "in a span that costs"}
KEPT = {  # of `training.appo.shares`: colour, marker, of which answers
    "kept": ("#332288", "H", "all answers"),
    "kept_chosen": ("#000000", "^", "the best"),
    "kept_rejected": ("#6b6b6b", "v", "the worst"),
}
TRAINING = {
    "win_rate": "win rate against\nthe SFT model",
    "true_return": "true return\n(credit)",
    "proxy_reward": "sequence reward\n(z-score)",
}


def over(numbers: pd.DataFrame, x: str, text: str, mark: pd.DataFrame | None = None) -> tuple[Figure, pd.DataFrame]:
    """`mask_quality.sweep` over its column `x` (axis label `text`), a column per side: the share that is kept, and,
    with credit, the share of kept tokens that are right, with the share of all tokens as a dotted line; `mark`: further
    rows, drawn as a black ring (the baseline that training uses)."""
    rows = {"kept": "kept\n(share of tokens)"}
    rows |= {"right": "right\n(share of kept tokens)"} if "right" in numbers else {}
    figure, axes = canvas(len(rows), len(SIDES), 2.2, sharex=True, sharey="row")
    for i, (name, axis) in enumerate(rows.items()):
        for ax, side in zip(axes[i], SIDES):
            for (by, decision), part in numbers[numbers.side == side].groupby(["by", "decision"], sort=False):
                colour, marker = SCORERS[by]
                words = f"{by} rewards" + ("" if decision == "threshold" else f", {DECISIONS[decision]}")
                look = {"color": colour, "marker": marker, "linestyle": LINES[decision], "label": words}
                ax.plot(part[x], part[name], **look, linewidth=1.5)
                low, high = part[f"{name}_low"], part[f"{name}_high"]
                ax.fill_between(part[x], low, high, color=colour, alpha=0.13, linewidth=0)
            for row in () if mark is None else mark[mark.side == side].to_dict("records"):
                ax.plot([row[x]], [row[name]], "o", color="black", markersize=10, markerfacecolor="none")
            if name == "right":
                part = numbers[numbers.side == side]
                ax.axhline(part.right_all.iloc[0], color="black", linestyle=":", linewidth=1.2)
                ax.set_title(f"{side}: {WORTH[side]}", loc="left", fontsize=9)
            else:
                ax.set_title(f"{side} answers", loc="left", fontsize=9)
            ax.set_ylim(-0.03, 1.03)
            lines.ends(ax, ax.get_title(loc="left"))
        axes[i, 0].set_ylabel(axis)
    for ax in axes[-1]:
        ax.set_xlabel(text)
    return figure, numbers if mark is None else pd.concat([numbers, mark.assign(marked=True)])


def changes(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Changes of class per answer, neutral being one, and the share of answers that no token is left of, over the
    offset (`mask_quality.over_offsets`), both sides together. Memory empties no other answers."""
    means = numbers.groupby(["by", "decision", "delta"], sort=False)[["changes", "emptied"]].mean().reset_index()
    rows = {"changes": "changes of class\n(per answer)", "emptied": "emptied\n(share of answers)"}
    figure, axes = canvas(1, len(rows), 2.8)
    for ax, (name, text) in zip(axes[0], rows.items()):
        for (by, decision), part in means.groupby(["by", "decision"], sort=False):
            colour, marker = SCORERS[by]
            words = f"{by} rewards, {DECISIONS[decision]}"
            ax.plot(part.delta, part[name], color=colour, marker=marker, linestyle=LINES[decision], label=words)
        ax.set_ylim(bottom=0)
        ax.set_ylabel(text)
        ax.set_xlabel("offset δ (deviations of rewards)")
        lines.ends(ax)
    return figure, means


def over_tokens(runs: list[dict], twins: dict[str, str] = TWINS) -> tuple[Figure, pd.DataFrame]:
    """adaptive-mask Figure 5, the win rate against the reference (`watched.py`), with the true return and the reward
    that is trained on below, over the tokens sampled so far: a column per masked method and its twin; mean over seeds,
    band from lowest to highest. Dotted: the SFT model, one half or its test answers."""
    found = [along(runs, metric).assign(metric=metric) for metric in TRAINING]
    numbers = pd.concat([frame for frame in found if len(frame)])  # real text has neither of the former
    shown = {masked: twin for masked, twin in twins.items() if {masked, twin} & set(numbers.method)}
    sft = values([r for r in runs if r["method"] == "sft"], "final.true_return_ordinary")["value"].mean()
    levels = {"win_rate": 0.5, "true_return": sft}
    metrics = {metric: text for metric, text in TRAINING.items() if metric in set(numbers.metric)}
    figure, axes = canvas(len(metrics), len(shown), 2.1, sharex="col", sharey="row")
    for row, (metric, text) in zip(axes, metrics.items()):
        for ax, pair in zip(row, shown.items()):
            for name in reversed(pair):
                part, look = numbers[(numbers.method == name) & (numbers.metric == metric)], style(name)
                if part.empty:
                    continue
                ax.plot(part.tokens / 1000, part["mean"], **look, markevery=max(1, len(part) // 6), linewidth=1.5)
                ax.fill_between(part.tokens / 1000, part.low, part.high, color=look["color"], alpha=0.15, linewidth=0)
            if metric in levels and not np.isnan(levels[metric]):
                ax.axhline(levels[metric], color="black", linestyle=":", linewidth=1)
            lines.ends(ax)
        row[0].set_ylabel(text)
    for ax in axes[-1]:
        ax.set_xlabel("sampled so far\n(thousand tokens)")
    return figure, numbers


def along(runs: list[dict], metric: str) -> pd.DataFrame:
    """method, rollout, mean over seeds of the `tokens` sampled up to and with it; mean, low, high of the metric there.
    A round that does not count its tokens (PPO's) has its responses times their mean length."""
    frames = [pd.DataFrame(columns=["method", "rollout", "tokens", "value"])]
    for r in runs:
        rows = pd.DataFrame(r.get("curves") or [])
        if metric in rows:
            counted = rows["length"] * r["params"]["profile"]["rollouts"]
            counted = rows["tokens"] if "tokens" in rows else counted
            found = {"rollout": rows["rollout"], "tokens": counted.cumsum(), "value": rows[metric].astype(float)}
            frames.append(pd.DataFrame(found | {"method": r["method"]}))
    grouped = pd.concat(frames[1:] or frames).groupby(["method", "rollout"])
    spread = grouped["value"].agg(mean="mean", low="min", high="max")
    return spread.assign(tokens=grouped["tokens"].mean()).reset_index()


def kept(runs: list[dict]) -> tuple[Figure, pd.DataFrame]:
    """What masks kept in training over rollout batches, a column per method: APPO of all its answers, the others of
    each prompt's best and worst; mean over seeds, band from lowest to highest."""
    numbers = pd.concat([found.assign(of=name) for name in KEPT if len(found := curve(runs, name))])
    methods = order(numbers.method)
    figure, axes = canvas(1, len(methods), 2.7, sharey=True)
    for ax, method in zip(axes[0], methods):
        for name, (colour, marker, text) in KEPT.items():
            part = numbers[(numbers.method == method) & (numbers.of == name)]
            if len(part):
                look = {"color": colour, "marker": marker, "label": text, "markevery": max(1, len(part) // 6)}
                ax.plot(part.rollout, part["mean"], **look, linewidth=1.5)
                ax.fill_between(part.rollout, part.low, part.high, color=colour, alpha=0.15, linewidth=0)
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel("rollout batches")
        lines.ends(ax, label(method))
    axes[0, 0].set_ylabel("kept\n(share of tokens)")
    return figure, numbers


def emptied(runs: list[dict]) -> pd.DataFrame:
    """A line per masked method: mean share of tokens kept, and samples of which nothing was left, over all rounds and
    seeds."""
    lines = []
    for name in dict.fromkeys(r["method"] for r in runs):
        rounds = pd.DataFrame([row for r in runs if r["method"] == name for row in r.get("curves") or []])
        parts = [part for part in ("", "_chosen", "_rejected") if f"kept{part}" in rounds]
        for part in parts:
            line = {
                "method": label(name),
                "of": KEPT[f"kept{part}"][2],
                "kept (share of tokens)": rounds[f"kept{part}"].mean(),
            }
            lines.append(line | {"emptied (samples, all rounds and seeds)": int(rounds[f"emptied{part}"].sum())})
    return pd.DataFrame(lines)
