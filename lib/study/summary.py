"""From records to the numbers that figures and tables show: which runs are the comparison, means and intervals over
seeds, contrasts. Records are those of `record.record`; a dotted name reaches into them ("final.true_return").

Intervals are Student's t over seeds, 95% (`stats.mean_interval`); one seed has none.
"""

import json
from collections import Counter

import numpy as np
import pandas as pd
from scipy.stats import t

from densereward.canonical import canonical
from study.identity import TUNED, as_listed, completed, same, settings
from study.methods import CORE, METHODS
from study.records import latest, to_frame
from study.stats import mean_interval, paired_contrast

POOLED = 0.25  # credit: where the scale of `pooled` turns from linear to logarithmic
FINAL = {  # what tables print of records: dotted name, heading with unit
    "final.true_return": "true return (credit)",
    "final.true_return_held_out": "of held-out combinations",
    "final.kl": "KL (nats per response)",
    "final.length": "length (tokens)",
    "final.fact_accuracy": "fact accuracy (share)",
    "final.repetition": "repetitions (spans)",
    "final.finished": "finished (share)",
}
CREDIT = {
    "credit.advantages_credit_pearson": "advantages and credit (correlation)",
    "credit.advantages_credit_sign": "their signs agree (share)",
    "credit.span_advantages_credit_pearson": "means over the span and credit (correlation)",
    "credit.advantages_monte_carlo_pearson": "advantages and Monte Carlo (correlation)",
    "credit.advantages_monte_carlo_spearman": "their ranks (Spearman's correlation)",
    "credit.advantages_monte_carlo_kendall": "their ranks (Kendall's tau)",
    "credit.gradient_cosine": "policy gradient and the true one (cosine)",
    "credit.rewards_credit_pearson": "rewards and credit (correlation)",
    "credit.boundary_precision": "boundary precision (share)",
    "credit.boundary_recall": "boundary recall (share)",
}
SCORERS = {
    "reward_model.accuracy_test": "label accuracy",
    "reward_model.style_test": "style only",
    "reward_model.gate_test": "gate",
    "reward_model.ceiling_test": "ceiling",
    "reward_model.truth_test": "accuracy on truth",
    "reward_model.flip_test": "drops for a wrong item",
    "reward_model.repeat_test": "drops for a repetition",
    "reward_model.segment_length": "tokens per segment",
}
COST = {
    "stage_seconds.sft": "SFT (seconds)",
    "stage_seconds.preferences": "preference data (seconds)",
    "stage_seconds.scorer": "reward model (seconds)",
    "stage_seconds.ppo": "PPO (seconds)",
    "provenance.seconds": "whole run (seconds, cached stages left out)",
    "provenance.tokens": "sampled in PPO (tokens)",
    "provenance.peak_rss_mib": "peak memory (MiB)",
}
CONTRAST = {
    "reward_model.accuracy_test": "label accuracy (share)",
    "reward_model.flip_test": "flip rate (share)",
    "final.true_return": "true return (credit)",
}


def label(method: str) -> str:
    return METHODS[method].label if method in METHODS else method


def order(methods) -> list[str]:
    """Methods as `methods.py` lists them, then any other by name."""
    names = list(METHODS)
    return sorted(set(methods), key=lambda m: (names.index(m) if m in names else len(names), m))


def study(records: list[dict], tuned: bool = False) -> list[dict]:
    """The runs of the comparison, at one setting for all methods or, `tuned`, at each method's own: `widest` of all
    runs. All other runs are ablations, and so are the rows outside `methods.CORE` where there is any within; a method
    of the reader's own belongs to the comparison."""
    found = widest([r for r in records if r["kind"] == "run" and completed(r["params"])["tuned"] == tuned])
    if tuned and found:  # a model that is not trained has nothing to tune
        found += [r for r in study(records) if r["method"] in METHODS and METHODS[r["method"]].trainer == "none"]
    return [r for r in found if r["method"] in CORE or r["method"] not in METHODS] or found


def widest(runs: list[dict]) -> list[dict]:
    """Of the groups of runs that share everything but method and seed (dataset, profile, model, contrast), the one with
    the most methods, then the most runs; of each method and seed the newest record, of a method run in several variants
    only those equal to its row in `methods.py`."""
    plain = {r["method"] for r in runs if as_listed(r["params"])}
    runs = [r for r in runs if r["method"] not in plain or as_listed(r["params"])]
    groups = [setting(r) for r in runs]
    methods = {group: {r["method"] for r, g in zip(runs, groups) if g == group} for group in groups}
    best = max(methods, key=lambda group: (len(methods[group]), Counter(groups)[group]), default=None)
    return latest([r for r, group in zip(runs, groups) if group == best], ("method", "seed"))


def setting(record: dict) -> str:
    """What a run shares with those that it may be compared with: all but method and seed."""
    return canonical([record["dataset"], settings(record["params"])])


def varied(records: list[dict], names: tuple[str, ...]) -> list[dict]:
    """Runs like the comparison's, of any method, but for the settings `names` (dotted), its own among them: the newest
    of each method, seed and setting, for methods that have more than one setting."""

    def rest(record: dict) -> str:
        kept = json.loads(canonical(settings(record["params"])))
        for *path, last in (name.split(".")[1:] for name in names):
            part = kept
            for step in path:
                part = part[step]
            part.pop(last, None)
        return canonical([record["dataset"], completed(record["params"])["method"], kept])

    base = {rest(r) for r in widest([r for r in records if r["kind"] == "run" and not completed(r["params"])["tuned"]])}
    like = [r for r in records if r["kind"] == "run" and rest(r) in base]
    variants = {(r["method"], setting(r)) for r in like}
    several = {m for m, n in Counter(m for m, _ in variants).items() if n > 1}
    return latest([r for r in like if r["method"] in several], ("method", "seed", "params"))


def failures(records: list[dict]) -> pd.DataFrame:
    """Runs that ended in an error and have no finished record of the same parameters and seed (older errors name the
    method alone), and runs whose reward model failed the gate."""
    finished = [r for r in records if r["kind"] == "run"]

    def made_good(error: dict) -> bool:
        alike = [r for r in finished if (r["method"], r["seed"]) == (error["method"], error["seed"])]
        return any(not error["params"] or same(r["params"], error["params"]) for r in alike)

    broken = [r for r in records if r["kind"] == "error" and not made_good(r)]
    rows = [(label(r["method"]), r["seed"], r["error"]) for r in broken]
    rows += [
        (label(r["method"]), r["seed"], "its reward model failed the gate")
        for r in study(records)
        if r.get("gate") == "failed"
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "what"])


def origins(records: list[dict]) -> pd.DataFrame:
    """Where runs come from: how many of each commit, device, profile and package versions."""
    made_by = ("commit", "dirty", "device", "cpu", "gpu", "packages.torch", "packages.trl", "packages.transformers")
    columns = ["profile", "dataset", *(f"provenance.{name}" for name in made_by)]
    frame = to_frame(records)
    frame = frame[[c for c in columns if c in frame]].fillna("-").astype(str)
    frame = frame.groupby(list(frame.columns), sort=False).size().reset_index(name="runs")
    return frame.rename(columns=lambda c: c.rsplit(".", 1)[-1])


def values(records: list[dict], name: str) -> pd.DataFrame:
    """method, seed, value of every record that has the dotted `name`; methods in order, then seeds."""
    frame = to_frame(records)
    if name not in frame:
        return pd.DataFrame({"method": [], "seed": [], "value": []})
    frame = frame[["method", "seed", name]].set_axis(["method", "seed", "value"], axis=1).dropna()
    rank = frame.method.map({method: i for i, method in enumerate(order(frame.method))})
    return frame.assign(rank=rank).sort_values(["rank", "seed"]).drop(columns="rank")


def intervals(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """mean, low, high and number of seeds of the column `value` for each group; low and high are nan for one seed."""
    rows = [
        (*key, *mean_interval(group["value"].astype(float)), len(group)) for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


def curve(records: list[dict], metric: str) -> pd.DataFrame:
    """method, rollout, and mean, lowest and highest (columns low, high) over seeds of a metric of the training curves.

    "proxy_reward" is centred and divided by the standard deviation of each run's own curve: proxies of different
    methods share no scale, only their shapes compare."""
    frames = [pd.DataFrame(columns=["method", "rollout", "value"])]
    for r in records:
        rows = pd.DataFrame(r.get("curves") or [])
        if metric in rows and rows[metric].notna().any():
            y = rows[metric].astype(float)
            y = (y - y.mean()) / max(float(y.std(ddof=0)), 1e-12) if metric == "proxy_reward" else y
            frames.append(pd.DataFrame({"method": r["method"], "rollout": rows["rollout"], "value": y}))
    grouped = pd.concat(frames[1:] or frames).groupby(["method", "rollout"])["value"]
    return grouped.agg(mean="mean", low="min", high="max").reset_index()


def contrasts(records: list[dict], name: str = "final.true_return", against: str = "bandit") -> pd.DataFrame:
    """Every method minus `against` on the seeds that both have: difference, low, high, seeds, wins (seeds above)."""
    column = {m: dict(zip(g.seed, g["value"])) for m, g in values(records, name).groupby("method", sort=False)}
    rows = []
    for m in column:
        shared = sorted(column[m].keys() & column.get(against, {}).keys())
        if m != against and shared:
            rows.append(
                {"method": label(m), **paired_contrast(*({s: column[x][s] for s in shared} for x in (m, against)))}
            )
    return pd.DataFrame(rows, columns=["method", "difference", "low", "high", "seeds", "wins"])


def pooled(gaps: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A line per group of `keys`: mean `gain` (credit), centre, low, high, seeds. Gains of rows that collapse vary by
    whole credits, of rows that do not by hundredths, so the spread over seeds is pooled over all groups on a scale that
    makes them alike, asinh(gain / POOLED); the centre is the mean there, intervals are Student's t about it, both taken
    back (nan where no group has two seeds)."""
    scaled = np.arcsinh(gaps.gain / POOLED)
    by = gaps.assign(scaled=scaled).groupby(keys, sort=False)
    found = by.agg(gain=("gain", "mean"), scaled=("scaled", "mean"), seeds=("gain", "size")).reset_index()
    free = int((found.seeds - 1).sum())
    spread = np.sqrt(((scaled - by.scaled.transform("mean")) ** 2).sum() / free) if free else np.nan
    half = t.ppf(0.975, free) * spread / np.sqrt(found.seeds) if free else np.nan
    found["low"], found["high"] = (POOLED * np.sinh(found.scaled + side * half) for side in (-1, 1))
    found["centre"] = POOLED * np.sinh(found.scaled)
    return found.drop(columns="scaled")


def table(records: list[dict], columns: dict[str, str], digits: int = 2) -> pd.DataFrame:
    """One row per method: mean and interval over seeds (`interval_text`) of each dotted name in `columns` (name:
    heading), and how many seeds. Methods and columns of which nothing was measured are left out."""
    rows = {m: {"method": label(m), "seeds": 0} for m in order(r["method"] for r in records)}
    for r in records:
        rows[r["method"]]["seeds"] += 1
    for name, heading in columns.items():
        for row in intervals(values(records, name), ["method"]).itertuples():
            rows[row.method][heading] = interval_text(row.mean, row.low, row.high, digits, row.seeds)
    rows = [row for row in rows.values() if len(row) > 2]
    found = [heading for heading in columns.values() if any(heading in row for row in rows)]
    return pd.DataFrame(rows, columns=["method", "seeds", *found])


def chosen(records: list[dict]) -> pd.DataFrame:
    """The settings that tuning chose, one row per method of tuned runs; those that no record has are left out."""
    frame = to_frame(records)
    columns = {f"params.profile.{name}": name for name in TUNED if f"params.profile.{name}" in frame}
    frame = frame[["method", *columns]].rename(columns=columns).drop_duplicates("method").set_index("method")
    return frame.loc[order(frame.index)].rename(index=label).reset_index()


def tried(trials: list[dict], runs: list[dict], value: str) -> dict[str, float]:
    """Of a grid that one setting for all methods was to be chosen from: the mean of `value` over methods at the setting
    that `runs` have (`used`, nan where it was not tried) and at the grid's `best`."""
    used = {name: runs[0]["params"]["profile"][name] for name in trials[0]["changes"]}
    numbers = pd.DataFrame([{"setting": canonical(t["changes"]), value: t[value]} for t in trials])
    means = numbers.groupby("setting")[value].mean()
    return {"used": float(means.get(canonical(used), np.nan)), "best": float(means.max())}


def cost(records: list[dict]) -> pd.DataFrame:
    """`table` of the seconds of each stage, of whole runs, tokens and memory."""
    stages = sorted({name for r in records for name in r["stage_seconds"]})
    return table(records, {f"stage_seconds.{name}": f"{name} (seconds)" for name in stages} | COST, 0)


def round_cost(records: list[dict]) -> pd.DataFrame:
    """Seconds of a PPO round's parts (mean over rounds and seeds), one row per method, and rounds per second."""
    parts = {
        "seconds_generate": "sample (seconds)",
        "seconds_score": "score (seconds)",
        "seconds_update": "update (seconds)",
    }
    rows = []
    for name in order(r["method"] for r in records if r.get("curves")):
        rounds = pd.DataFrame([row for r in records if r["method"] == name for row in r["curves"]])
        if not set(parts) <= set(rounds):  # a record without timings
            continue
        means = rounds[list(parts)].mean()
        tokens = {"tokens per response": rounds["length"].mean(), "rounds per second": 1 / means.sum()}
        rows.append({"method": label(name), **means.rename(parts), **tokens})
    return pd.DataFrame(rows)


def interval_text(mean: float, low: float, high: float, digits: int = 2, seeds: int | None = None) -> str:
    """Text such as "1.23 ± 0.22", "1.23 [1.01, 1.55]" where the sides differ, or the mean alone without interval. Of a
    t interval over two `seeds`, which says next to nothing, the two values that it is of: "1.23 (1.01 to 1.45)"."""
    if np.isnan(low):
        return f"{mean:z.{digits}f}"
    if seeds == 2:
        half = (high - low) / 2 / t.ppf(0.975, 1)
        return f"{mean:z.{digits}f} ({mean - half:z.{digits}f} to {mean + half:z.{digits}f})"
    if low < mean < high and np.isclose(high - mean, mean - low, rtol=1e-6):
        return f"{mean:z.{digits}f} ± {high - mean:.{digits}f}"
    return f"{mean:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def p_text(p: float) -> str | None:
    """A p value to three digits; None for none."""
    return None if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
