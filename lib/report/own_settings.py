"""A setting for each row: equal trials (`study.choosing`), and what a held-out proxy and the truth choose of them.

The proxy is a reward model of other pairs, so what it chooses, plainly or with caution, is what somebody without the
truth would; the truth's choice shows what the row could do."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from densereward.canonical import canonical
from report import lines
from report.look import canvas, style
from study import choosing
from study.methods import METHODS
from study.summary import label, order

KL, RATE = "kl_coef", "actor_learning_rate"
NAMED = {  # what is tuned: in a table
    KL: "KL",
    **dict.fromkeys(("dpo_beta", "online_dpo_beta"), "beta"),
    **dict.fromkeys((RATE, "dpo_learning_rate", "online_learning_rate"), "rate"),
}
CUT = -1.0  # credit, nats
ANSWERS = {  # of a record's `final`: heading
    "true_return": "true return (credit)",
    "correct": "right items",
    "wrong": "wrong items",
    "repetition": "repetitions (spans)",
    "junk": "junk (spans)",
    "finished": "ended (share)",
    "kl": "KL (nats)",
}
JUDGES = {"heldout_proxy": "the proxy", "true_return": "the truth"}
CHOICES = {"choices": "the proxy", "cautious": "caution", "by_truth": "the truth"}  # of `choosing.choices`


def means(trials: list[dict]) -> pd.DataFrame:
    """A line per setting that PPO was given, of methods with all their trials: method, KL, RATE, and means over the
    trials' seeds of JUDGES (nats, credit), repetition (spans an answer)."""
    of = [x for name, found in choosing.complete(trials).items() if RATE in found[0][0]["changes"] for x in found]
    rows = [
        {"method": x[0]["method"], **x[0]["changes"]}
        | {name: float(np.mean([t[name] for t in x])) for name in (*JUDGES, "repetition")}
        for x in of
    ]
    return pd.DataFrame(rows, columns=["method", KL, RATE, *JUDGES, "repetition"])


def picked(found: pd.DataFrame, judge: str, by: tuple[str, ...] = ("method",)) -> pd.DataFrame:
    """Of `means` the lines that a judge of JUDGES likes best, one for each of `by`."""
    return found.loc[found.groupby(list(by), sort=False)[judge].idxmax()]


def trials(found: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """`means` over the KL coefficient, at the rate that is best there, rows that are paid once per answer above those
    paid inside it: by the proxy left, by the truth right. A ring is what each chooses; a cross at the right is where
    the proxy's choice ends. Below CUT lines are cut off."""
    whole = np.array([METHODS[name].segmentation["kind"] == "bandit" for name in found.method])
    groups = {"once per answer": found[whole], "inside it": found[~whole]}
    groups = {title: part for title, part in groups.items() if len(part)}
    levels, numbers = sorted(set(found[KL])), []
    figure, axes = canvas(len(groups), 2, 3.2, sharex=True, sharey="col")
    for column, (judge, name) in enumerate(JUDGES.items()):
        bounds = []
        for ax, (title, of) in zip(axes[:, column], groups.items()):
            best = picked(of, judge, ("method", KL)).sort_values(KL)
            _draw(ax, of, best, judge, levels)
            lines.ends(ax, f"{title}, by {name}")
            bounds += [max(best[judge].min() - 0.2, CUT), best[judge].max() + 0.2]
            numbers.append(best.assign(by=name))
        axes[0, column].set_ylim(min(bounds), max(bounds))
        axes[-1, column].set_xticks(range(len(levels)), [f"{x:g}".replace("0.", ".") for x in levels], fontsize=8)
        axes[-1, column].set_xlabel("KL coefficient")
    for row in axes:
        row[0].set_ylabel("score of the held-out proxy (nats)")
        row[1].set_ylabel("true return (credit)")
    return figure, pd.concat(numbers)


def _draw(ax, found: pd.DataFrame, best: pd.DataFrame, judge: str, levels: list[float]) -> None:
    """A line per method of `best`, its ring, and its cross where the judge is the truth."""
    marks = [(picked(found, judge), "o", 12)]
    marks += [(picked(found, "heldout_proxy"), "x", 9)] * (judge == "true_return")
    for method in order(best.method):
        part, look = best[best.method == method], style(method)
        ax.plot(part[KL].map(levels.index), part[judge], **look)
        for of, marker, size in marks:
            at = of[of.method == method].iloc[0]
            mark = {"markersize": size, "markerfacecolor": "none", "markeredgewidth": 1.5, "label": "_"}
            place = [levels.index(at[KL])], [max(at[judge], CUT)]
            ax.plot(*place, marker, color=look["color"], clip_on=False, **mark)


def chosen(records: list[dict]) -> pd.DataFrame:
    """A line per method with all its trials: the setting that is chosen of them in each way of CHOICES, a value with a
    star where it is the first or the last that the method was tried at, and the true return of the trials at it."""
    made = choosing.choices(records)
    rows = {}
    for name, trials in choosing.complete(records).items():
        ends = {canonical(of[0]["changes"]): float(np.mean([t["true_return"] for t in of])) for of in trials}
        tried = {x: [of[0]["changes"][x] for of in trials] for x in choosing.POLICIES[METHODS[name].trainer]}
        rows[name] = {"method": label(name)}
        for by, who in CHOICES.items():
            changes = made[by][name]
            stars = {x: "*" * (changes[x] in (min(values), max(values))) for x, values in tried.items()}
            rows[name][f"by {who}"] = " at ".join(f"{changes[x]:g}{star}" for x, star in stars.items())
            rows[name][f"true return, by {who} (credit)"] = ends[canonical(changes)]
    return pd.DataFrame([rows[name] for name in order(rows)])


def beyond(records: list[dict]) -> pd.DataFrame:
    """A line per value beyond its grid that a method with all its trials was tried at: the settings there, and by the
    proxy (nats) and by the truth (credit) the highest mean over seeds, beside the highest of the grid."""
    rows = {}
    for name, trials in choosing.complete(records).items():
        grid = choosing.POLICIES[METHODS[name].trainer]
        parts: dict[str, list] = {}  # "" is the grid
        for of in trials:
            outside = [f"{NAMED[x]} {value:g}" for x, value in of[0]["changes"].items() if value not in grid[x]]
            parts.setdefault(", ".join(outside), []).append([np.mean([t[j] for t in of]) for j in JUDGES])
        within = np.max(parts.pop(""), axis=0)
        for outside, ends in sorted(parts.items()):
            line = {"method": label(name), "beyond": outside, "settings": len(ends)}
            for head, end, best in zip(("proxy (nats)", "true return (credit)"), np.max(ends, axis=0), within):
                line |= {f"{head}, highest there": end, f"{head}, of the grid": best}
            rows.setdefault(name, []).append(line)
    return pd.DataFrame([line for name in order(rows) for line in rows[name]])


def flattered(records: list[dict], by: dict[str, list[dict]]) -> pd.DataFrame:
    """A line per way in which settings came about in `by` (its name: runs): of methods with all their trials, the true
    return of the trials at a method's setting there less that of its runs (credit), median and quartiles over methods,
    and of how many it is above zero. What the setting of all gains is what seeds and prompts of trials are easier by;
    the rest is what a choice of many flatters itself by."""
    whole, rows = choosing.complete(records), []
    for name, runs in by.items():
        gaps = []
        for method, trials in whole.items():
            if ran := [r for r in runs if r["method"] == method]:
                setting = {x: ran[0]["params"]["profile"][x] for x in choosing.POLICIES[METHODS[method].trainer]}
                end = np.mean([r["final"]["true_return"] for r in ran])
                gaps += [np.mean([t["true_return"] for t in of]) - end for of in trials if of[0]["changes"] == setting]
        if gaps:
            low, middle, high = np.quantile(gaps, (0.25, 0.5, 0.75))
            line = {"setting": name, "rows": len(gaps), "trials less other seeds, median (credit)": middle}
            rows.append(line | {"quartiles": f"{low:.2f} to {high:.2f}", "rows above zero": sum(x > 0 for x in gaps)})
    return pd.DataFrame(rows)


def answers(by: dict[str, list[dict]], method: str = "bandit") -> pd.DataFrame:
    """A line per choice of settings in `by`: what a method's answers to test prompts are like there, means over its
    runs."""
    ends = {name: [r["final"] for r in runs if r["method"] == method] for name, runs in by.items()}
    return pd.DataFrame(
        [
            {"setting": name, **{head: float(np.mean([end[x] for end in of])) for x, head in ANSWERS.items()}}
            for name, of in ends.items()
            if of
        ]
    )


def by_proxies(records: list[dict]) -> pd.DataFrame:
    """A line per method whose trials held-out reward models have scored (`tuning.py proxies`): for each of these, what
    its choice costs (the true return of the method's best trials less that of the chosen ones, credit) and, in
    brackets, the rank correlation of its scores with true returns, over the settings that they scored. `repeated` has
    the largest difference (nats) between the bandit's scores and those that the trials themselves hold."""
    rows, repeated, whole = {}, 0.0, choosing.complete(records)
    for name, scored in choosing.complete(records, "proxy trial").items():
        ends = {canonical(of[0]["changes"]): of for of in whole.get(name, [])}
        pairs = [(x, ends[at]) for x in scored if (at := canonical(x[0]["changes"])) in ends]
        if not pairs:
            continue
        told = pd.DataFrame([pd.DataFrame([t["proxies"] for t in x]).mean() for x, _ in pairs])
        truth = pd.DataFrame([{judge: np.mean([t[judge] for t in of]) for judge in JUDGES} for _, of in pairs])
        repeated = max(repeated, (told["bandit"] - truth.heldout_proxy).abs().max())
        rows[name] = {"method": label(name)}
        for proxy in sorted(told, key=lambda name: (name != "bandit", name)):
            cost = truth.true_return.max() - truth.true_return[told[proxy].idxmax()]
            rank = told[proxy].rank().corr(truth.true_return.rank())
            rows[name][f"by {proxy}"] = f"{cost:.2f} ({rank:.2f})"
    frame = pd.DataFrame([rows[name] for name in order(rows)])
    frame.attrs["repeated"] = repeated
    return frame
