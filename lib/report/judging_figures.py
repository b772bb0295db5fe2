"""Figures and tables of edit labels on real answers, of win rates on the testbed and their control for length, and of
what training costs elsewhere.

As in `figures.py`, each function takes numbers and returns a matplotlib figure and the numbers in it.
"""

import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure

from report.look import canvas, style
from report.published_rows import ROWS, printed
from study.measures.winrate import oracle_win_rates
from study.stats import mean_interval
from study.summary import contrasts, interval_text, intervals, label, order, table, values

LABELS = {  # of `human_spans.agreement`: colour, marker, words
    "edit": ("#882255", "d", "edit (TLCR)"),
    "indel": ("#44AA99", "^", "edit without replacement"),
    "blocks": ("#999933", "P", "longest common blocks"),
    "random": ("#555555", "X", "as many, at random"),
    "all": ("#332288", "h", "every token"),
}
RATES = ("precision", "recall", "f1")


def span_table(records: list[dict]) -> pd.DataFrame:
    """Records of `human_spans`, long: tokenizer, label, rate, value, low, high."""
    rows = [
        {"tokenizer": r["tokenizer"], "label": name, "rate": rate} | dict(zip(("value", "low", "high"), r[name][rate]))
        for r in records
        for name in LABELS
        if name in r
        for rate in RATES
    ]
    return pd.DataFrame(rows)


def spans(records: list[dict]) -> tuple[Figure, pd.DataFrame]:
    """How labels agree with people's error spans: a panel per rate, a row per tokenizer and label, with intervals."""
    numbers = span_table(records)
    tokenizers = list(dict.fromkeys(numbers.tokenizer))
    figure, axes = canvas(1, len(RATES), 0.9 + 0.75 * len(tokenizers), sharey=True)
    for ax, rate in zip(axes[0], RATES):
        part = numbers[numbers.rate == rate]
        names = [name for name in LABELS if name in set(part.label)]
        for i, name in enumerate(names):
            colour, marker, words = LABELS[name]
            of = part[part.label == name]
            y = [tokenizers.index(t) + 0.16 * (i - (len(names) - 1) / 2) for t in of.tokenizer]
            ax.hlines(y, of.low, of.high, color=colour, linewidth=2)
            ax.plot(of.value, y, marker, color=colour, label=words)
        ax.set_xlabel("F1" if rate == "f1" else rate)
        ax.set_xlim(0.5, 1.02)
    axes[0, 0].set_yticks(range(len(tokenizers)), tokenizers)
    axes[0, 0].invert_yaxis()
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return figure, numbers


def made(record: dict) -> str:
    """A line on what a record was made by."""
    told = record["provenance"]
    return f"Record of commit {told['commit'][:8]}, {told['utc'][:10]}, densereward {told['packages']['densereward']}."


def span_rows(records: list[dict]) -> pd.DataFrame:
    """`span_table` as text: a row per tokenizer and label."""
    numbers = span_table(records)
    numbers["text"] = [
        f"{x.value:g}" if x.low == x.high else interval_text(x.value, x.low, x.high, 3) for x in numbers.itertuples()
    ]
    wide = numbers.pivot(index=["tokenizer", "label"], columns="rate", values="text")
    wide = wide.reindex(list(dict.fromkeys(zip(numbers.tokenizer, numbers.label))))[list(RATES)].reset_index()
    return wide.assign(label=wide.label.map(lambda name: LABELS[name][2])).rename(columns={"f1": "F1"})


def type_rows(records: list[dict]) -> pd.DataFrame:
    """By error type: spans, and per tokenizer the recall of their tokens by edits (and at random); the most spans
    first."""
    rows = []
    for kind in sorted(records[0]["types"], key=lambda kind: -records[0]["types"][kind]["spans"]):
        row = {"type": kind, "spans": records[0]["types"][kind]["spans"]}
        for r in records:
            edit, placed = (r["types"][kind][name]["recall"][0] for name in ("edit", "random"))
            row[r["tokenizer"]] = f"{edit:.3f} ({placed:.3f})"
        half = [records[0]["types"][kind][name]["half"] for name in ("edit", "random")]
        rows.append(row | {f"half or more taken out, {records[0]['tokenizer']}": "{:.3f} ({:.3f})".format(*half)})
    return pd.DataFrame(rows)


def rate_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """`judged.rates` as text: a row per method, the mean over seeds of each rate with its 95% t interval, and the mean
    of the standard errors over prompts."""
    rows = []
    for name in order(numbers.method):
        part = numbers[numbers.method == name]
        row = {"method": label(name), "seeds": len(part)}
        for rate in numbers.columns.drop(["method", "seed"]):
            words = {"oracle": "win rate", "oracle, error": "win rate, error", "longer": "longer (tokens)"}
            found = (part[rate].mean(), *[np.nan] * 2) if rate.endswith("error") else mean_interval(part[rate])
            row[words.get(rate, rate)] = interval_text(*found, 1)
        rows.append(row)
    return pd.DataFrame(rows)


ALPACA = {"controlled": "AlpacaEval 2.0 / LC (%)", "raw": "AlpacaEval 2.0 / WR (%)"}  # ours: as Table 1 prints it


def oracle_judged(runs: list[dict], baseline: str = "sft") -> list[dict]:
    """Records of a run's two win rates by the oracle against the baseline of its seed, in per cent: method, seed,
    judged.raw and judged.controlled. The baseline itself has 50, as equal answers are a draw."""
    theirs = {r["seed"]: r for r in runs if r["method"] == baseline}
    found = []
    for r in runs:
        if r["seed"] in theirs:
            raw, controlled = oracle_win_rates(r, theirs[r["seed"]], resamples=0)
            told = {"raw": raw.rate, "controlled": controlled.rate}
            found.append({"method": r["method"], "seed": r["seed"], "judged": told})
    return found


def alpaca_rows(rates: list[dict]) -> pd.DataFrame:
    """A line for each row of segment-ppo's Table 1: its two win rates as printed, and as `oracle_judged` here, the mean
    over seeds with its 95% t interval (none where all seeds are the same), *one seed* where there is no other, None
    where no record is judged."""
    cells, methods = printed(1), ROWS["segment-ppo"][1]
    shown = cells[list(ALPACA.values())].rename_axis("in the paper").reset_index()
    shown["here"] = [label(methods[row]) for row in cells.index]
    for name, column in ALPACA.items():
        found = intervals(values(rates, f"judged.{name}"), ["method"]).set_index("method")
        texts = {
            row.Index: f"{row.mean:.1f}" + " (one seed)" * (row.seeds == 1)
            if not row.low < row.high
            else interval_text(row.mean, row.low, row.high, 1, row.seeds)
            for row in found.itertuples()
        }
        shown[f"{column.split(' / ')[1]} here"] = [texts.get(methods[row]) for row in cells.index]
    shown["seeds"] = [str(found.seeds.get(methods[row], 0)) for row in cells.index]
    return shown


def position(found: dict) -> str:
    """A sentence on how far the order of two answers decided, of `verdicts.position_bias`."""
    read = found["pairs"] - found["unreadable"]
    reversal = "{:.0f}% [{:.0f}, {:.0f}]".format(*(100 * x for x in found["reversal"]))
    return (
        f"Of {read} pairs read in both orders {reversal} turn around with the order, {found['to_first']} of these "
        f"{found['reversed']} in favour of the answer shown first."
    )


NEEDED = {  # by judge: which paper's numbers cannot be had without it
    "MT-Bench, one answer": "segment-ppo, TLCR",
    "MT-Bench, pairs": "a judge's position bias",
    "Arena-Hard": "segment-ppo",
    "AlpacaEval, ranking": "segment-ppo",
    "AlpacaEval, ranking in a list": "TLCR",
    "AlpacaEval 2, weighted": "the leaderboard",
    "adaptive-mask": "adaptive-mask",
}
ESTIMATED = {  # tokens that no file here holds, as the page says where from
    "Arena-Hard": {"out": 600.0},
    "AlpacaEval, ranking": {"in": 1200.0, "out": 40.0},
    "AlpacaEval, ranking in a list": {"in": 1215.0, "out": 40.0},
    "AlpacaEval 2, weighted": {"in": 1170.0},
}


def cost_rows(rows: list[dict], price_in: float, price_out: float) -> pd.DataFrame:
    """`stored_verdicts.cost` with ESTIMATED where it holds none, the tokens of a whole run, and its price, at
    prices per million tokens."""
    columns = ["judge", "needed for", "of a run", "calls", "prompt", "in", "out"]
    rows = [row | {"needed for": NEEDED[row["judge"]]} for row in rows]
    found = pd.DataFrame(rows, columns=columns).astype({"calls": float, "in": float, "out": float})
    guess = pd.DataFrame([ESTIMATED.get(judge, {}) for judge in found.judge], columns=["in", "out"])
    found["estimated"] = [", ".join(side for side in guess if row[side] > 0) for _, row in guess.iterrows()]
    for side in ("in", "out"):
        found[side] = found[side].fillna(guess[side])
        found[f"of a run, {side}"] = found.calls * found[side]
    found["price of a run"] = (found["of a run, in"] * price_in + found["of a run, out"] * price_out) / 1e6
    found = found.rename(columns={"of a run": "calls of a run"}).drop(columns="calls")
    first = ["judge", "calls of a run", "of a run, in", "of a run, out", "price of a run", "estimated"]
    return found[[*first, *found.columns.drop(first)]]


WIN_RATES = ["model", "win rate", "published", "length-controlled", "published, controlled", "standard error"]
WIN_RATES += ["of predictions alone"]
LLMBAR = ["set", "items", "right", "low", "high", "same pick in both orders"]
MT_BENCH = ["category", "first", "second", "both", "standard_error", "judged", "unreadable"]


def length_control(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What a taste for length does to a win rate, and what control for length gives back (`judged.rates`): points above
    the rate without the taste, over how much longer the answers are. A marker per method and seed."""
    shown = numbers.assign(
        raw=numbers["with taste"] - numbers["without taste"],
        controlled_by=numbers["taste controlled"] - numbers["without taste"],
    )
    figure, axes = canvas(1, 2, 3.6, sharey=True)
    titles = {"raw": "as the judge says", "controlled_by": "controlled for length"}
    for ax, (column, title) in zip(axes[0], titles.items()):
        for method in order(shown.method):
            of = shown[shown.method == method]
            look = style(method) | {"linestyle": "none"}
            ax.plot(of.longer, of[column], **look)
        ax.axhline(0, color="black", linestyle=":", linewidth=1)
        ax.set_title(title, loc="left")
        ax.set_xlabel("longer than the baseline's (tokens, mean)")
    axes[0, 0].set_ylabel("win rate less the one\nwithout a taste (points)")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure, shown


TASKS = {"testbed_choice": "choice", "testbed_generate": "generation"}  # of `benchmarks.LOCAL`: words


def tax_numbers(records: list[dict]) -> pd.DataFrame:
    """Records of `tax_records`, long, as `tax` takes them."""
    rows = [
        {"task": words, "method": r["method"], "seed": r["seed"]}
        | {x: r["tasks"][task][x] for x in ("accuracy", "chance")}
        for task, words in TASKS.items()
        for r in records
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "accuracy", "chance"])


def tax_rows(records: list[dict]) -> pd.DataFrame:
    """By method: accuracy on each task and what it is less the SFT model's of the same seed, with 95% t intervals."""
    found = table(records, {f"tasks.{task}.accuracy": words for task, words in TASKS.items()}, 3)
    for task, words in TASKS.items():
        less = contrasts(records, f"tasks.{task}.accuracy", "sft").set_index("method")
        texts = {row.Index: interval_text(row.difference, row.low, row.high, 3, row.seeds) for row in less.itertuples()}
        name = "difference" if words == "choice" else f"{words}, difference"
        found.insert(found.columns.get_loc(words) + 1, name, found.method.map(texts))
    return found


def tax_sentence(records: list[dict], runs: list[dict]) -> str:
    """How what is lost of choice goes with KL and with return over methods, of the runs that were asked."""
    kept = {(r["method"], r["seed"]) for r in records}
    runs = [r for r in runs if (r["method"], r["seed"]) in kept]
    task = next(iter(TASKS))
    names = f"tasks.{task}.accuracy", "final.kl", "final.true_return"
    means = [values(x, name).groupby("method")["value"].mean() for x, name in zip((records, runs, runs), names)]
    frame = pd.concat(means, axis=1, keys=("choice", "kl", "worth"), join="inner").drop("sft")
    with_kl, with_return = (scipy.stats.spearmanr(-frame.choice, frame[x]).statistic for x in ("kl", "worth"))
    return (
        f"Over {len(frame)} methods, Spearman's correlation of what is lost of choice is {with_kl:.2f} with KL and "
        f"{with_return:.2f} with the true return."
    )


def tax(numbers: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What training costs on another task: per task a panel, per method its accuracy (share) on each seed, with the
    mean and, of three seeds or more, the 95% t interval; dotted: the SFT model. `numbers`: columns task, method, seed,
    accuracy (share). ValueError where no row is of that model."""
    if "sft" not in set(numbers.method):
        raise ValueError(f"no accuracy of {label('sft')}; measure it too, the tax is what others are below it")
    tasks, methods = list(dict.fromkeys(numbers.task)), order(numbers.method)
    figure, axes = canvas(1, len(tasks), 1.2 + 0.3 * len(methods), sharey=True)
    for ax, task in zip(axes[0], tasks):
        part = numbers[numbers.task == task]
        for i, method in enumerate(methods):
            of, look = part[part.method == method], style(method)
            ax.plot(of.accuracy, np.full(len(of), i), look["marker"], color=look["color"], alpha=0.6)
            if len(of) > 1:
                ax.plot(of.accuracy.mean(), i, "|", color=look["color"], markersize=14)
            if len(of) > 2:
                _, low, high = mean_interval(of.accuracy)
                ax.hlines(i, low, high, color=look["color"], linewidth=2)
        ax.axvline(part[part.method == "sft"].accuracy.mean(), color="black", linestyle=":", linewidth=1)
        ax.set_xlim(part.accuracy.min() - 0.05, min(1.02, part.accuracy.max() + 0.05))  # a half-line beyond 1 is none
        ax.set_title(task, loc="left")
        ax.set_xlabel("accuracy (share)")
    axes[0, 0].set_yticks(range(len(methods)), [label(name) for name in methods])
    axes[0, 0].invert_yaxis()
    return figure, numbers
