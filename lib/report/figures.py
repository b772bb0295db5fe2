"""Every figure that compares methods. Each function takes records (as `record.record` writes them) and returns a
matplotlib figure and the numbers in it, so that a page can offer both.

A dot is a seed, hollow where the run's reward model failed the gate. A bar is Student's t interval of the mean over
seeds, 95% (fewer than three seeds have none). A band around a curve spans the lowest and the highest seed. How figures
look is in `look.py`.

Figures of a single stage (answers, entropies, scorers, normalisers) are in `diagnostics.py`, strips of tokens in
`strips.py`. Left out: interaction, themes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from report import lines
from report.look import EDGE, canvas, head, style
from study.methods import METHODS
from study.records import to_frame
from study.summary import curve, intervals, label, order, values

CURVES = {  # of `DensePPOTrainer.curves`: means per response of a rollout batch
    "true_return": "true return\n(credit)",
    "proxy_reward": "proxy return\n(sd of its curve)",
    "kl": "KL to SFT\n(nats per response)",
    "length": "length\n(tokens)",
    "fact_accuracy": "fact accuracy\n(share of items)",
    "repetition": "repetitions\n(spans per response)",
}


def families(methods: set[str]) -> dict[str, list[str]]:
    """Methods that learn from a reward model, and the oracle controls: figures show them side by side."""
    oracle = {m for m in methods if m in METHODS and METHODS[m].scorer == "oracle"}
    groups = {"learned rewards": order(methods - oracle), "oracle controls": order(oracle)}
    return groups if all(groups.values()) else {"": order(methods)}


def looks(methods: list[str], frame: pd.DataFrame, column: str) -> dict[str, dict]:
    """`style` by method, those to be seen last; of more than six all are grey (`lines.OTHER`) but the bandit and the
    three that end farthest from the middle in `column`."""
    ends = frame[frame.method.isin(methods)].groupby("method")[column].last()
    far = (ends - ends.median()).abs().drop("bandit", errors="ignore").nlargest(3).index
    grey = set(methods) - {"bandit", *far} if len(methods) > 6 else set()
    greys = {name: style(name) | {"color": lines.OTHER, "zorder": 1.5} for name in methods if name in grey}
    return greys | {name: style(name) for name in methods if name not in grey}


def curves(records: list[dict], metrics=tuple(CURVES)) -> tuple[Figure, pd.DataFrame]:
    """Metrics over rollout batches: mean over seeds, band from lowest to highest seed. The dotted line is the SFT model
    on test prompts of ordinary combinations."""
    found = {metric: curve(records, metric) for metric in metrics}
    found = {metric: frame for metric, frame in found.items() if len(frame)}
    groups = families({name for frame in found.values() for name in frame.method})
    seen = {title: looks(group, next(iter(found.values())), "mean") for title, group in groups.items()}
    figure, axes = canvas(len(found), len(groups), 1.75, sharex=True, sharey="row")
    for row, (metric, frame) in zip(axes, found.items()):
        sft = [r for r in records if r["method"] == "sft"]
        start = [values(sft, f"final.{metric}{part}")["value"].mean() for part in ("_ordinary", "")]
        for ax, (title, of) in zip(row, seen.items()):
            for name, look in of.items():
                part = frame[frame.method == name]
                ax.plot(part.rollout, part["mean"], **look, markevery=max(1, len(part) // 8), linewidth=1.6)
                if look["color"] != lines.OTHER:
                    ax.fill_between(part.rollout, part.low, part.high, color=look["color"], alpha=0.15, linewidth=0)
            for level in [x for x in start if not np.isnan(x)][:1]:
                ax.axhline(level, color="black", linestyle=":", linewidth=1)
            lines.ends(ax, title if ax in axes[0] else "")
        row[0].set_ylabel(CURVES.get(metric, metric))
    for ax in axes[-1]:
        ax.set_xlabel("rollout batches")
        ax.xaxis.get_major_locator().set_params(integer=True)
    return figure, pd.concat([frame.assign(metric=metric) for metric, frame in found.items()])


FEW = "Grey: where methods are many, all but the bandit and the three that end farthest from the middle."
CUT = "Axes are cut: small triangles at an edge are seeds beyond it, the number there is their mean."


def shown(numbers: pd.DataFrame) -> pd.DataFrame:
    """`intervals` as figures draw them: none of fewer than three seeds, whose own span panels; no mean of one."""
    few = numbers.assign(low=numbers.low.mask(numbers.seeds < 3), high=numbers.high.mask(numbers.seeds < 3))
    return few.assign(mean=few["mean"].mask(few.seeds < 2))


def edges(ax, seeds: pd.DataFrame, numbers: pd.DataFrame, places: dict[str, float], bounds: tuple[float, float]):
    """At the edges of an axis that ends at `bounds`, what lies beyond: an arrow for each of `seeds`, and the mean
    (`numbers`) written; `places`: the height of a method's row."""
    for edge, marker, side, text in zip(bounds, "<>", ("left", "right"), (" ◂ {:.1f}", "{:.1f} ▸ ")):
        beyond = np.less if marker == "<" else np.greater
        for row in seeds[beyond(seeds.value, edge)].itertuples():
            look = {"marker": marker, "markersize": 4, "clip_on": False, "alpha": 0.8}
            ax.plot([edge], [places[row.method] + 0.18], color=style(row.method)["color"], **look)
        for row in numbers[beyond(numbers["mean"], edge)].itertuples():
            look = {"va": "center", "ha": side, "fontsize": 8.5, "bbox": EDGE, "color": style(row.method)["color"]}
            ax.text(edge, places[row.method] - 0.12, text.format(row.mean).replace("-", "−"), **look)


def dots(records: list[dict], panels: dict[str, str], marks=None, bounds=(-np.inf, np.inf)):
    """Methods down the side, a panel for each dotted name of `panels` (name: axis label with unit): a dot per seed, a
    bar with a tick at the mean for the interval (`shown`). `marks` are named vertical lines in the first panel;
    `bounds`, one for all or by name, are those of what is measured (a share: 0 and 1) or worth a look, beyond which no
    axis goes (`edges`). Nor does an axis go further beyond the dots than they lie apart. Returns figure and numbers."""
    found = {name: values(records, name) for name in panels}
    methods = order(m for frame in found.values() for m in frame.method)
    places = {name: i for i, name in enumerate(methods)}
    failed = {(r["method"], r["seed"]) for r in records if r.get("gate") == "failed"}
    top = -0.8 - 0.13 * max(map(len, marks or [""]))
    figure, axes = canvas(1, len(panels), 0.8 + 0.36 * (len(methods) - top - 0.6), sharey=True)
    numbers = []
    for ax, (name, text) in zip(axes[0], panels.items()):
        summary = intervals(found[name], ["method"])
        numbers.append(summary.assign(measure=name))
        for row in found[name].itertuples():
            look = style(row.method) | {"linestyle": "none", "alpha": 0.8}
            fill = {"markerfacecolor": "white"} if (row.method, row.seed) in failed else {}
            ax.plot([row.value], [places[row.method] + 0.18], **look, **fill)
        for row in shown(summary).itertuples():
            y, colour = places[row.method] - 0.12, style(row.method)["color"]
            ax.plot([row.low, row.high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
            ax.plot([row.mean], [y], color=colour, marker="|", markersize=11, markeredgewidth=2.5)
        apart = found[name].value.max() - found[name].value.min() or np.inf
        ends = bounds.get(name, (-np.inf, np.inf)) if isinstance(bounds, dict) else bounds
        least, most = max(ends[0], found[name].value.min() - apart), min(ends[1], found[name].value.max() + apart)
        ax.set_xlim(max(ax.get_xlim()[0], least), min(ax.get_xlim()[1], most))
        edges(ax, found[name], summary, places, ends)
        ax.set_xlabel(text)
    for text, x in (marks or {}).items():
        low, high = axes[0, 0].get_xlim()
        axes[0, 0].set_xlim(min(low, x - 0.08 * (high - low)), max(high, x))  # room for the name
        axes[0, 0].axvline(x, color="#444444", linestyle="--", linewidth=1)
        axes[0, 0].text(x, top + 0.1, text, rotation=90, ha="right", va="top", fontsize=9, color="#444444")
    axes[0, 0].set_yticks(range(len(methods)), [label(name) for name in methods])
    axes[0, 0].set_ylim(len(methods) - 0.4, top)
    return figure, pd.concat(numbers)


def final_returns(records: list[dict]) -> tuple[Figure, pd.DataFrame]:
    """True return of sampled answers to test prompts after training: all of them, and held-out combinations alone."""
    sft = values(records, "final.true_return").query("method == 'sft'")["value"]
    panels = {
        "final.true_return": "true return (credit),\nall test prompts",
        "final.true_return_held_out": "true return (credit),\nheld-out combinations",
    }
    return dots(records, panels, {"SFT": sft.mean()} if len(sft) else None, worth(records))


def worth(records: list[dict]) -> tuple[float, float]:
    """Where an axis of true return ends: at a perfect answer, and as far below the SFT model as that is above it."""
    sft = values(records, "final.true_return").query("method == 'sft'")["value"].mean()
    perfect = values(records, "final.perfect")["value"].mean()
    span = perfect - sft  # credit
    return (-np.inf, np.inf) if np.isnan(span) else (sft - span, perfect + span / 8)


def credit_fidelity(records: list[dict]) -> tuple[Figure, pd.DataFrame]:
    """How well rewards, and the advantages made of them, correlate with the truth span by span (Pearson's)."""
    truths = {"credit": "true credit", "monte_carlo": "Monte Carlo\nadvantage"}
    panels = {
        f"credit.{what}_{truth}_pearson": f"{what} and\n{text}\n(correlation)"
        for what in ("rewards", "advantages")
        for truth, text in truths.items()
    }
    return dots(records, panels, bounds=(-1.05, 1.05))


def reward_models(records: list[dict]) -> tuple[Figure, pd.DataFrame]:
    """Held-out accuracy of scorers on labels, between the style-only level and the label ceiling (means over the
    scorers' test pairs) with the gate half-way; on the testbed also accuracy against the true order, and the flip
    rate."""
    panels = {
        "reward_model.accuracy_test": "agrees with the label\n(share of pairs)",
        "reward_model.truth_test": "agrees with the truth\n(share of pairs)",
        "reward_model.flip_test": "drops when an item is\nmade wrong (share)",
    }
    levels = {"style only": "style", "gate": "gate", "ceiling": "ceiling"}
    marks = {text: values(records, f"reward_model.{name}_test")["value"].mean() for text, name in levels.items()}
    marks = {text: x for text, x in marks.items() if not np.isnan(x)}
    return dots(records, {n: t for n, t in panels.items() if len(values(records, n))}, marks, (0, 1.02))


def return_against_kl(
    records: list[dict], judge: str = "true_return", unit: str = CURVES["true_return"]
) -> tuple[Figure, pd.DataFrame]:
    """Over-optimisation: where each method's mean curve goes in the plane of KL and of `judge` (axis label `unit`), and
    below, of KL and what it was paid (`summary.curve`: proxies share no scale, only shapes); the large marker is its
    end. The title of a figure of one family names those that end paid more than where they were worth most, and have
    lost a quarter of what they had gained there."""
    keys, rows = ["method", "rollout"], {judge: unit, "proxy_reward": CURVES["proxy_reward"]}
    numbers = curve(records, "kl").rename(columns={"mean": "kl"})[[*keys, "kl"]]
    for name in rows:
        numbers = numbers.merge(curve(records, name).rename(columns={"mean": name})[[*keys, name]], on=keys)
    groups, numbers = families(set(numbers.method)), numbers.sort_values("rollout")
    seen = {title or _worse(numbers, judge): looks(group, numbers, judge) for title, group in groups.items()}
    figure, axes = canvas(2, len(groups), 2.5, sharex=True, sharey="row")
    for row, (measure, text) in zip(axes, rows.items()):
        for ax, (title, of) in zip(row, seen.items()):
            for name, look in of.items():
                part = numbers[numbers.method == name]
                ax.plot(part.kl, part[measure], **look, markevery=max(1, len(part) // 8), linewidth=1.4)
                ax.plot(part.kl.iloc[-1:], part[measure].iloc[-1:], **look | {"label": "_", "markersize": 10})
            ax.set_xscale("symlog", linthresh=1, linscale=0.6)
            ax.set_xlim(left=-0.15)
            ticks = [kl for kl in (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if kl <= max(1, numbers.kl.max())]
            ax.set_xticks(ticks, [f"{kl:g}" for kl in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            lines.ends(ax, title if ax in axes[0] else "", last=True)
        row[0].set_ylabel(text)
    for ax in axes[-1]:
        ax.set_xlabel("KL to SFT\n(nats per response; log above 1)")
    return figure, numbers


def _worse(numbers: pd.DataFrame, judge: str) -> str:
    found = []
    for name, part in numbers.groupby("method"):
        first, best, last = part.iloc[0], part.loc[part[judge].idxmax()], part.iloc[-1]
        lost = best[judge] - last[judge] > 0.25 * (best[judge] - first[judge])
        found += [name] if lost and last.proxy_reward > best.proxy_reward else []
    return f"paid more and worth less at the end: {'; '.join(map(label, order(found))) or 'none'}"


def sweep(records: list[dict], name: str, text: str, x: str, x_text: str, panel: str | None = None):
    """A measurement (dotted `name`, axis label `text`) over a setting (dotted `x`, axis label `x_text`): a line per
    method through the means over seeds, with t intervals, and a panel for each value of the setting `panel`. Returns
    figure and numbers."""
    frame, by = to_frame(records), ["method", x, *([panel] if panel else [])]
    frame = frame[[*by, name]].rename(columns={name: "value"}).dropna(subset="value").sort_values(by)
    numbers = intervals(frame, by)
    parts, levels = list(numbers.groupby(panel)) if panel else [("", numbers)], sorted(set(numbers[x]))
    figure, axes = canvas(1, len(parts), 3.0, sharey=True)
    for ax, (level, part) in zip(axes[0], parts):
        for shift, method in enumerate(order(part.method)):
            rows, look = part[part.method == method], style(method)
            place = rows[x].map(levels.index) + 0.08 * (shift - (part.method.nunique() - 1) / 2)  # side by side
            ax.plot(place, rows["mean"], **look)
            rows = shown(rows)
            ax.vlines(place, rows.low, rows.high, color=look["color"], linewidth=2, alpha=0.6)
        ax.set_xticks(range(len(levels)), [x if isinstance(x, str) else f"{x:g}" for x in levels])
        ax.margins(x=0.15)
        ax.set_xlabel(x_text)
        ax.xaxis.set_gid(lines.SETTINGS)
        lines.ends(ax, f"{panel.rsplit('.', 1)[-1].replace('_', ' ')} {level}" if panel else "")
    axes[0, 0].set_ylabel(text)
    return figure, numbers


def tuning(trials: list[dict], value: str, text: str) -> tuple[Figure, pd.DataFrame]:
    """The grid of equal trials: settings down the side, a marker per method, `value` (axis label `text`) across. The
    black tick is the mean over methods, by which one setting is chosen for all."""
    numbers = pd.DataFrame(trials)[["changes", "method", value]]
    numbers["setting"] = [
        ", ".join(f"{k.replace('_', ' ')} {x:g}" for k, x in of.items()) for of in numbers.pop("changes")
    ]
    settings = list(dict.fromkeys(numbers.setting))
    figure, axes = canvas(1, 1, 1.2 + 0.42 * len(settings))
    ax = axes[0, 0]
    for method in order(numbers.method):
        part = numbers[numbers.method == method]
        ax.plot(part[value], part.setting.map(settings.index), **style(method) | {"linestyle": "none"})
    means = numbers.groupby("setting")[value].mean()
    ax.plot([means[s] for s in settings], range(len(settings)), "k|", markersize=15, label="mean over methods")
    ax.set_yticks(range(len(settings)), settings)
    ax.set_ylim(len(settings) - 0.6, -0.4)
    ax.set_xlabel(text)
    head(ax)
    return figure, numbers
