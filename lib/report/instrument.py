"""What was wrong with the study's instrument, and whether it is mended, in numbers.

`now` are records of the mended instrument, `before` those of version 0.1; both as `record.record` writes them.
Version 0.1 paid its per-span oracle by an even split, and sums of z-scores as they are: what it called "oracle-dense"
is today's "oracle-dense-even" (`renamed`), and its learned rows are today's rows of `-literal`. Its fidelity read the
mean advantage of a span's tokens, today's the advantage at the token that decides the span.
"""

import numpy as np
import pandas as pd

from report import controls, outcomes
from report.foretold import otherwise
from study import summary
from study.identity import completed
from study.stats import mean_interval, paired_contrast
from study.sweeps import ROOM

HEADLINE = ("bandit", "sentence", "token", "segment", "bandit-as-segment", "segment-as-bandit", "random", "tlcr")
HEADLINE += ("oracle-sequence", "oracle-dense-even", "oracle-dense")
BEFORE = (*HEADLINE, "dpo", "tlcr-fixed", "bandit-synthetic", "appo", "adpo", "ars")
LONGER = ("bandit", "token", "segment", "tlcr", "oracle-sequence", "oracle-dense-even", "oracle-dense")
ENDS = {  # paid at segments' ends
    **{name: f"{name}-end" for name in ("sentence", "random", "ngram-5", "ngram-20")},
    "segment": "interpolation-none",
}
KINDS = (1, 2, 3, 4)  # asked for at once
UNREAD = ("sft", "dpo", "online-dpo", "adpo")  # of the core, what reads none of the settings of `sweeps.ROOM`
VERDICTS = ("fails", "open", "one seed", "no record", "holds")  # in the order of `checks`
NONE = "no record yet"


def runs(records: list[dict], parts: int = 1) -> list[dict]:
    """The runs of all rows, ablations too, whose prompts ask for so many kinds at once: `summary.widest` of them."""
    return summary.widest(
        [
            r
            for r in records
            if r["kind"] == "run"
            and not completed(r["params"])["tuned"]
            and completed(r["params"])["profile"]["world"]["parts"] == parts
        ]
    )


def renamed(before: list[dict]) -> list[dict]:
    """Records of version 0.1 under today's names: a per-span oracle that splits evenly says so."""
    even = {
        id(r)
        for r in before
        if r["method"] == "oracle-dense" and completed(r["params"])["method"]["interpolation"] == "even"
    }
    return [r | {"method": "oracle-dense-even"} if id(r) in even else r for r in before]


def checks(runs: list[dict], others: list[dict], heading: str = "version 0.1") -> pd.DataFrame:
    """`controls.tested` of `runs`, those that fail first; under `heading` the difference that rows of the same names
    have in `others`. Version 0.1's "oracle-dense" is its even split."""
    found, other = controls.tested(runs), controls.tested(others)
    found = found.assign(**{"difference": _texts(found), heading: _texts(other)})
    found["control"] = found["metric"] + ": " + found["row"] + " above " + found["less"]
    found = found.sort_values("verdict", key=lambda column: column.map(VERDICTS.index), kind="stable")
    return found[["control", "difference", "seeds", "verdict", heading]]


def sentences(now: list[dict]) -> dict[str, str]:
    """Each control as a sentence, by a key that other pages quote: metric, row and other row, joined by "_"."""
    found = controls.tested(now)
    keys = [f"{c.metric.replace(' ', '-')}_{c.better}_{c.worse or 'level'}" for c in controls.CONTROLS]
    lines = zip(keys, found.itertuples(), _texts(found))
    return {
        key: f"{line.row} less {line.less}, {line.metric}: {NONE}."
        if line.verdict == "no record"
        else f"{line.row} less {line.less}, {line.metric}: {text}, {line.seeds} seeds. Control: {line.verdict}."
        for key, line, text in lines
    }


def _texts(found: pd.DataFrame) -> list[str | None]:
    rows = found[["difference", "low", "high"]].to_numpy(float)
    return [None if np.isnan(row[0]) else summary.interval_text(*row) for row in rows]


def ends(now: list[dict]) -> pd.DataFrame:
    """Rows paid at their segments' ends less the same rows split evenly, on the seeds of both: the share of credit that
    each pays in time, differences of final return and of fidelity, with t intervals over seeds. A pair that no seed has
    stays, with dashes."""
    found = []
    for even, end in ENDS.items():
        line = {"row": summary.label(even), "paid at its end": summary.label(end)}
        for metric in ("return", "fidelity"):
            line[f"{metric}, end less even"], seeds = less(now, end, even, metric)
            line |= {"seeds": seeds} if metric == "return" else {}
        early = [*by_seed(now, even, "paid too early").values()]
        found.append(line | {"even split pays in time": 1 - np.mean(early) if early else np.nan})
    return pd.DataFrame(found)


def less(records: list[dict], name: str, other: str, metric: str) -> tuple[str | None, int]:
    """A metric of a row less that of another on the seeds of both, with its t interval, as text; how many seeds."""
    a, b = (by_seed(records, of, metric) for of in (name, other))
    shared = a.keys() & b.keys()
    if not shared:
        return None, 0
    gap = paired_contrast({s: a[s] for s in shared}, {s: b[s] for s in shared})
    return summary.interval_text(gap["difference"], gap["low"], gap["high"]), len(shared)


def by_seed(records: list[dict], name: str, metric: str) -> dict[int, float]:
    """A metric of `controls.value` of a row, by seed; seeds without it are left out."""
    found = {r["seed"]: controls.value(r, metric, {}) for r in records if r["method"] == name}
    return {seed: x for seed, x in found.items() if x is not None}


def told(records: list[dict], name: str) -> str | None:
    """Mean, t interval and number of seeds of a row's true return, as text; None without a record."""
    found = [*by_seed(records, name, "return").values()]
    return f"{summary.interval_text(*mean_interval(found), seeds=len(found))} ({len(found)})" if found else None


def headline(now: list[dict], before: list[dict], larger: list[dict]) -> pd.DataFrame:
    """Final true return of the rows of `BEFORE`, mean [t interval] (seeds): version 0.1's, today's, and today's with
    sums of z-scores as version 0.1 paid them; what scale gains, paired by seed; and today's at another size."""
    old, rows = renamed(before), []
    for name in BEFORE:
        line = {"method": summary.label(name), "version 0.1": told(old, name), "now": told(now, name)}
        gain, seeds = less(now, name, f"{name}-literal", "return")
        line["scaled less unscaled"] = gain and f"{gain} ({seeds})"
        rows.append(line | {"now, larger": told(larger, name), "now, unscaled": told(now, f"{name}-literal")})
    return pd.DataFrame(rows)


def headroom(of: dict[str, list[dict]]) -> pd.DataFrame:
    """By size and setting (its name: runs), fewest answers first: answers sampled in training, how much of the way from
    the SFT model to a perfect answer the truth paid where it is decided goes, and the bandit (share, t interval over
    seeds), seeds of the truth, and its `per_right_item`."""
    rows = []
    for name, found in of.items():
        way = ways(found)
        if "oracle-dense" in way:
            truth = [r for r in found if r["method"] == "oracle-dense"]
            line = {"size and setting": name, "answers": int(max(outcomes.of_runs(truth).sampled))}
            line |= {"of the way (share)": _mean(way["oracle-dense"]), "the bandit (share)": _mean(way.get("bandit"))}
            line |= {"seeds": len(way["oracle-dense"])}
            rows.append(line | {"the truth's repetitions per right item": f"{per_right_item(truth):.3f}"})
    return pd.DataFrame(rows).sort_values("answers", kind="stable") if rows else pd.DataFrame()


def ways(found: list[dict]) -> dict[str, list[float]]:
    """By row, how much of the way from its seed's SFT model to a perfect answer each run goes (share); rows none of
    whose runs says so are left out."""
    sft = by_seed(found, "sft", "return")
    told = [(r["method"], controls.value(r, "headroom", sft)) for r in found if r["method"] != "sft"]
    told = [(name, x) for name, x in told if x is not None]
    return {m: [x for name, x in told if name == m] for m in summary.order({name for name, _ in told})}


def with_room(records: list[dict]) -> list[dict]:
    """The comparison's core at the setting at which the truth in time goes most of the way: its runs there and, of rows
    to which that setting is none, those of the comparison; empty without the former."""
    there = otherwise(records, ROOM)
    return there and [r for r in runs(records) if r["method"] in UNREAD] + there


def room(of: dict[str, list[dict]]) -> pd.DataFrame:
    """`ways` at settings (its name: runs, the SFT model's too), a line per row of the last: share of the way at each,
    and at the last its true return less the bandit's (credit), means with t intervals over seeds; its seeds."""
    last = [*of.values()][-1]
    at = {name: ways(found) for name, found in of.items()}
    rows = []
    for m, x in ways(last).items():
        gap = None if m == "bandit" else less(last, m, "bandit", "return")[0]
        line = {f"of the way, {name} (share)": _mean(way.get(m)) for name, way in at.items()}
        rows.append({"method": summary.label(m), **line, "less the bandit (credit)": gap, "seeds": len(x)})
    return pd.DataFrame(rows)


def _mean(found: list[float] | None) -> str | None:
    return summary.interval_text(*mean_interval(found), seeds=len(found)) if found else None


def over_lengths(records: list[dict]) -> str:
    """The truth paid in time less the truth at the end, as a share of a perfect answer, mean over `KINDS` of each seed
    that has them all, in a sentence."""
    seeds: dict[int, list[float]] = {}
    for n in KINDS:
        found = runs(records, n)
        late, perfect = by_seed(found, "oracle-sequence", "return"), _perfect(found)
        for seed, x in by_seed(found, "oracle-dense", "return").items():
            if seed in late and seed in perfect:
                seeds.setdefault(seed, []).append((x - late[seed]) / perfect[seed])
    whole = [float(np.mean(x)) for x in seeds.values() if len(x) == len(KINDS)]
    if len(whole) < 2:
        return f"The truth in time less the truth at the end, over lengths: {NONE}."
    mean, low, high = mean_interval(whole)
    return (
        "The truth in time less the truth at the end, as a share of a perfect answer, mean over one to four kinds: "
        f"{summary.interval_text(mean, low, high, digits=3, seeds=len(whole))}, {len(whole)} seeds, above zero in "
        f"{sum(x > 0 for x in whole)}."
    )


def _perfect(found: list[dict]) -> dict[int, float]:
    """What a perfect answer is worth, by seed, where a record says so."""
    finals = {r["seed"]: r["final"] for r in found if r["method"] == "oracle-dense"}
    return {seed: final["perfect"] for seed, final in finals.items() if "perfect" in final}


def warmup(now: list[dict]) -> pd.DataFrame:
    """By row with a critic, means over seeds: rounds in which only the critic learned (None in records that do not
    say), and the share of returns that it explained in the first round after them, and on average in all after."""
    rows = []
    for name in summary.order(r["method"] for r in now):
        seen = [r["curves"] for r in now if r["method"] == name and r.get("curves")]
        seen = [pd.DataFrame(c) for c in seen if "explained_variance" in c[0]]
        if not seen:
            continue
        used = [int((~c["warm"].astype(bool)).sum()) if "warm" in c else None for c in seen]
        after = [c["explained_variance"][u or 0 :] for c, u in zip(seen, used)]
        after = [x for x in after if len(x)]
        rows.append(
            {
                "method": summary.label(name),
                "seeds": len(seen),
                "warm-up (rounds)": np.nan if None in used else used[0] if len(set(used)) == 1 else np.mean(used),
                "explained at first (share)": np.mean([x.iloc[0] for x in after]) if after else np.nan,
                "explained after (share)": np.mean([x.mean() for x in after]) if after else np.nan,
            }
        )
    return pd.DataFrame(rows)


def longer(records: list[dict]) -> pd.DataFrame:
    """Rows that were run with the comparison's warm-up and with a longer one: the share of returns that the critic
    explained in the first round after each (means over seeds); final true return (credit) after the long one less that
    after the short one, paired by seed: difference, low, high, seeds."""
    found = summary.varied(records, ("params.profile.critic_warmup", "params.profile.rounds"))
    rounds = [r["params"]["profile"]["critic_warmup"] for r in found]
    if not rounds:
        return pd.DataFrame()
    short, long = ([r for r, n in zip(found, rounds) if n == at] for at in (min(rounds), max(rounds)))
    first = [warmup(runs).set_index("method")["explained at first (share)"] for runs in (short, long)]
    ends = [{(r["method"], r["seed"]): r["final"]["true_return"] for r in runs} for runs in (long, short)]
    shared, rows = ends[0].keys() & ends[1].keys(), []
    for name in summary.order({m for m, _ in shared}):
        gap = paired_contrast(*({s: found[m, s] for m, s in shared if m == name} for found in ends))
        of = summary.label(name)
        line = {"method": of, "critic explains after the short one": first[0][of]}
        line |= {"after the long one": first[1][of], "true return, long less short (credit)": gap["difference"]}
        rows.append(line | {x: gap[x] for x in ("low", "high", "seeds")})
    return pd.DataFrame(rows)


def by_parts(now: list[dict], before: list[dict]) -> pd.DataFrame:
    """Final true return of the rows of `LONGER` by how many kinds a prompt asks for at once, mean [t interval] (seeds),
    of version 0.1 and now; `now` and `before` are all records. Rows without a record are left out."""
    rows = []
    for n in KINDS:
        new, old = runs(now, n), renamed(runs(before, n))
        for name in LONGER:
            line = {"kinds asked for": n, "method": summary.label(name)}
            rows.append(line | {"version 0.1": told(old, name), "now": told(new, name)})
    found = pd.DataFrame(rows)
    return found[found[["version 0.1", "now"]].notna().any(axis=1)]


def repetitions(records: list[dict]) -> str:
    """How often answers repeat themselves, and how often for each right item that they say, before and after training
    on the truth, as a sentence."""
    of = {name: [r for r in records if r["method"] == name] for name in ("sft", "oracle-dense-even", "oracle-dense")}
    said = []
    for name, found in of.items():
        if found:
            told = summary.intervals(summary.values(found, "final.repetition"), ["method"]).iloc[0]
            text = summary.interval_text(told["mean"], told["low"], told["high"])
            said.append(f"{summary.label(name)} {text} ({per_right_item(found):.3f})")
    return f"Repetitions per answer, and per right item: {'; '.join(said) or NONE}."


def per_right_item(found: list[dict]) -> float:
    """Repetitions for each right item that answers of these runs say."""
    return sum(r["final"]["repetition"] for r in found) / max(sum(r["final"]["correct"] for r in found), 1e-9)
