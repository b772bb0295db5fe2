"""Every system of the three papers in one figure, by the paper that it is from.

As in `figures.py`, functions take records and return a matplotlib figure and the numbers in it.
"""

import pandas as pd
from matplotlib.figure import Figure

from report.figures import edges, shown
from report.look import canvas, style
from study.methods import ADAPTIVE, BASELINES, CROSS, TLCR
from study.summary import intervals, label, values

SYSTEMS = {  # heading: rows of `methods.py`
    "without a reward": ("sft", "dpo"),
    "segment-ppo": ("bandit", "sentence", "token", "segment", "bandit-as-segment", "segment-as-bandit"),
    "adaptive-mask": ADAPTIVE,
    "tlcr": TLCR,
    "other baselines": BASELINES,
    "parts of two papers": CROSS,
    "controls": ("random", "random-rewards", "oracle-sequence", "oracle-dense", "oracle-sequence-noisy")
    + ("oracle-dense-noisy", "appo-oracle", "adpo-oracle", "ars-oracle"),
}
COLUMNS = {  # of the table of systems: dotted name of a record, heading
    "final.true_return": "true return (credit)",
    "proxy_gain": "gain in pay (its own units)",
    "final.kl": "KL (nats per response)",
    "final.length": "length (tokens)",
    "final.repetition": "repetitions (spans)",
    "final.junk": "junk (spans)",
    "credit.advantages_credit_pearson": "advantages and credit (correlation)",
    "seconds": "all its stages (seconds)",
}
EVERY = tuple(name for group in SYSTEMS.values() for name in group)


def measured(runs: list[dict]) -> list[dict]:
    """Runs, each with `seconds`: the sum of its stages', those that it shares counted for each; and, where its curves
    have a proxy, `proxy_gain`: the mean of the last rollout batch less that of the first."""
    found = []
    for r in runs:
        paid = [row["proxy_reward"] for row in r.get("curves", []) if row.get("proxy_reward") is not None]
        gain = {"proxy_gain": paid[-1] - paid[0]} if paid else {}
        found.append(r | gain | {"seconds": sum(r["stage_seconds"].values())})
    return found


def systems(runs: list[dict]) -> list[dict]:
    """The runs of SYSTEMS, as `measured`."""
    return measured([r for r in runs if r["method"] in EVERY])


def returns(runs: list[dict], zoom: tuple[float, float] = (-1.0, 4.4)) -> tuple[Figure, pd.DataFrame]:
    """True return after training of every recorded system, grouped by SYSTEMS: all of it, and the part within `zoom`
    (credit) once more; a mean below is written at the edge. Dots are seeds, hollow where the gate was failed; bars
    are t intervals. The dashed line is the bandit's mean."""
    found = values([r for r in runs if r["method"] in EVERY], "final.true_return")
    numbers = intervals(found, ["method"])
    failed = {(r["method"], r["seed"]) for r in runs if r.get("gate") == "failed"}
    places, names, y = {}, [], 0.0
    for heading, group in SYSTEMS.items():
        if here := [name for name in group if name in set(found.method)]:
            names.append((y, heading, "bold"))
            places |= {name: y + 1 + i for i, name in enumerate(here)}
            names += [(places[name], label(name), "normal") for name in here]
            y += len(here) + 1.6
    figure, axes = canvas(1, 2, 0.9 + 0.235 * y, sharey=True)
    for ax, limits in zip(axes[0], (None, zoom)):
        _panel(ax, found, numbers, places, failed)
        if limits:
            ax.set_xlim(limits)
            edges(ax, found, numbers, places, limits)
        ax.set_xlabel("true return (credit)" + (",\nwhere most systems end" if limits else ",\nall of it"))
    axes[0, 0].set_yticks([place for place, _, _ in names], [text for _, text, _ in names])
    for tick, (_, _, weight) in zip(axes[0, 0].get_yticklabels(), names):
        tick.set_fontweight(weight)
    axes[0, 0].set_ylim(y - 0.8, -0.8)
    return figure, numbers


def _panel(ax, found, numbers, places, failed) -> None:
    for row in found.itertuples():
        fill = {"markerfacecolor": "white"} if (row.method, row.seed) in failed else {}
        look = style(row.method) | {"linestyle": "none", "alpha": 0.8, "markersize": 4.5, "clip_on": True}
        ax.plot([row.value], [places[row.method] + 0.15], **look | fill)
    for row in shown(numbers).itertuples():
        place, colour = places[row.method] - 0.15, style(row.method)["color"]
        ax.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot([row.mean], [place], color=colour, marker="|", markersize=8, markeredgewidth=2)
    if "bandit" in places:
        mean = numbers.set_index("method")["mean"]["bandit"]
        ax.axvline(mean, color="#0072B2", linestyle="--", linewidth=1, zorder=0)
