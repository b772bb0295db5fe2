"""Figures of best of n: outcome and process reward models over the number of samples.

As in `figures.py`, each function takes numbers (`best_of_n.summed`) and returns a matplotlib figure and the numbers in
it. Bars are 95% bootstrap intervals over prompts, of values that are means over seeds first.
"""

import pandas as pd
import scipy  # its parts load when they are used
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from report import lines
from report.look import canvas, style
from study.summary import interval_text
from testbed import oracle, world

PROCESS, NOISY = "#332288", "#CC6677"
AGGREGATES = {"sum": ("o", "-"), "mean": ("s", "--"), "min": ("v", ":"), "last": ("X", "-."), "product": ("D", "--")}
WORDS = {"steps": "step by step", "oracle": "the oracle", "oracle-steps": "the oracle, step by step"}


def words(reader: str) -> str:
    """What figures and tables call a reader: a row of `methods.py`, the oracle, or process-NOISE-USE."""
    if not reader.startswith("process-"):
        return WORDS.get(reader) or f"outcome: {style(reader)['label']}"
    _, noise, use = reader.split("-")
    return f"process, {WORDS.get(use, use)}" + (f", label noise {noise}" if float(noise) else "")


def look(reader: str) -> dict:
    """Keywords of `Axes.plot` for a reader."""
    if reader.startswith("oracle"):
        return style("oracle-dense") | {"marker": "*", "linestyle": ":", "label": words(reader)}
    if not reader.startswith("process-"):
        return style(reader) | {"label": words(reader)}
    _, noise, use = reader.split("-")
    marker, line = AGGREGATES.get(use, ("^", "-"))
    colour = NOISY if float(noise) else PROCESS
    return {"color": colour, "marker": marker, "linestyle": line, "label": words(reader)}


def over_n(
    panels: dict[str, pd.DataFrame], text: str = "true return of the chosen (credit)"
) -> tuple[Figure, pd.DataFrame]:
    """Means of `best_of_n.summed` over n, a panel per title; `text` says what they are of."""
    figure, axes = canvas(len(panels), 1, 2.9, sharex=True, sharey=True)
    for ax, (title, numbers) in zip(axes[:, 0], panels.items()):
        readers = list(dict.fromkeys(numbers.reader))
        for i, reader in enumerate(readers):
            part, drawn = numbers[numbers.reader == reader], look(reader)
            x = part.n * 2 ** (0.05 * (i - (len(readers) - 1) / 2))
            ax.plot(x, part["mean"], **drawn, linewidth=1.4)
            ax.vlines(x, part.low, part.high, color=drawn["color"], linewidth=2, alpha=0.45)
        ns = sorted(set(numbers.n))
        ax.set_xscale("log", base=2)
        ax.set_xticks(ns, [str(n) for n in ns])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_gid(lines.SETTINGS)
        lines.ends(ax, title, 32)
        ax.set_ylabel(text.replace(" (", "\n("))
    ax.set_xlabel("to choose from, n (log)")
    return figure, pd.concat([numbers.assign(panel=title) for title, numbers in panels.items()])


def lead_table(numbers: pd.DataFrame, seeds: pd.DataFrame) -> pd.DataFrame:
    """`best_of_n.summed` at one n as text, beside the leads of `best_of_n.over_seeds`; the highest first."""
    of_seeds = seeds.set_index("reader")
    rows = []
    for x in numbers.sort_values("mean", ascending=False).itertuples():
        row = {"picks by": words(x.reader), "true return": interval_text(x.mean, x.low, x.high)}
        if x.reader in of_seeds.index:
            row["lead (over prompts)"] = interval_text(x.lead, x.lead_low, x.lead_high)
            row["lead (over seeds)"] = interval_text(*of_seeds.loc[x.reader, ["lead", "low", "high"]])
        rows.append(row)
    return pd.DataFrame(rows)


def lead_by_asked(record: dict, reader: str = "bandit", against: str = "process-0-sum") -> float:
    """Of a record, the rank correlation over prompts (Spearman) of how many items a prompt asks for, and so of the
    length of its answers, with the lead of `reader` over `against` at the largest n."""
    values, p = record["values"], record["params"]["profile"]
    lead = [one[-1] - other[-1] for one, other in zip(values[reader], values[against], strict=True)]
    texts = world.few_prompts(world.World(**p["world"]), "test", p["eval_prompts"])
    asked = [sum(oracle.ask(text).values()) for text in texts]
    return float(scipy.stats.spearmanr(asked, lead).statistic)


def level_table(records: list[dict]) -> pd.DataFrame:
    """Held-out levels of each model, means over seeds: label accuracy (of a process model under each aggregate), of
    outcome models accuracy against the true order, of process models the correlation of step scores with credit."""
    rows = []
    for name in records[0]["levels"]:
        level = pd.DataFrame([r["levels"][name] for r in records]).mean()
        uses = ["accuracy"] if "accuracy" in level else [f"accuracy_{use}" for use in AGGREGATES]
        for key in uses:
            use = key.removeprefix("accuracy").lstrip("_")
            row = {"model": words(name.replace("steps", use)), "label accuracy": level[key]}
            rows.append(row | {"accuracy on truth": level.get("truth"), "steps and credit": level.get("step_pearson")})
    return pd.DataFrame(rows)
