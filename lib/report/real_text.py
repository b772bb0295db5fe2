"""Real text: the reward models, the gold model that judges what is trained on them, and what was foretold of both
(`book/real_text.md`), against records.

The gold score has a zero and a unit of its own in each seed, so it is compared within a seed: a row's less the SFT
model's, in standard deviations of the gold score over the SFT model's answers.
"""

from math import sqrt

import pandas as pd

from report.smollm2 import EXPECTED, INSTRUMENT
from study.summary import interval_text, intervals, label, order

NO = "The gold model is not clearly better than a coin, so nothing here says anything of a method."


def scorers(runs: list[dict]) -> pd.DataFrame:
    """A line per reward model, gold last: mean label accuracy on test pairs over seeds, the standard error of one
    seed's, lowest and highest seed, the mean on validation pairs, training pairs, tokens per segment."""
    found = {label(m): [r["reward_model"] for r in runs if r["method"] == m] for m in order(_learned(runs))}
    found["Gold"] = list({r["seed"]: r["heldout"] for r in runs}.values())
    rows = []
    for name, metrics in found.items():
        accuracy = pd.Series([m["accuracy_test"] for m in metrics])
        error = sum(m["accuracy_test_se"] for m in metrics) / len(metrics)
        row = {"reward model": name, "label accuracy": accuracy.mean(), "standard error": error}
        row |= {"lowest": accuracy.min(), "highest": accuracy.max(), "seeds": len(metrics)}
        row["on validation pairs"] = sum(m["accuracy_validation"] for m in metrics) / len(metrics)
        rows.append(row | {"pairs": metrics[0]["pairs"], "tokens per segment": metrics[0]["segment_length"]})
    return pd.DataFrame(rows)


def gains(runs: list[dict]) -> pd.DataFrame:
    """method, seed, `value`: the final gold score less the SFT model's, in its standard deviations."""
    sft = {r["seed"]: r["final"] for r in runs if r["method"] == "sft"}
    rows = []
    for r in runs:
        if r["method"] != "sft" and r["seed"] in sft:
            start = sft[r["seed"]]
            unit = start["heldout_proxy_se"] * sqrt(start["n"])
            rows.append((r["method"], r["seed"], (r["final"]["heldout_proxy"] - start["heldout_proxy"]) / unit))
    return pd.DataFrame(rows, columns=["method", "seed", "value"])


def judged(runs: list[dict]) -> pd.DataFrame:
    """A line per row: gain in gold score, over seeds and of each, and how many of its seeds were paid more at the end
    than at the start."""
    every = gains(runs)
    found, rows = intervals(every, ["method"]).set_index("method"), []
    for m in order(found.index):
        rise = [_rise(r, "proxy_reward") > 0 for r in runs if r["method"] == m]
        row = {"method": label(m), "gold score less SFT's (sd)": interval_text(*found.loc[m, ["mean", "low", "high"]])}
        row["of each seed"] = ", ".join(f"{x:+.2f}" for x in every[every.method == m].sort_values("seed")["value"])
        rows.append(row | {"paid more": f"{sum(rise)} of {len(rise)}"})
    return pd.DataFrame(rows)


def verdict(runs: list[dict]) -> str:
    """Which rows are better than the SFT model: those whose gain has an interval above zero, if the gold model's
    accuracy is more than two standard errors above one half."""
    gold = scorers(runs).iloc[-1]
    told = f"Its accuracy is {gold['label accuracy']:.3f}, with a standard error of {gold['standard error']:.3f}."
    if gold["label accuracy"] <= 0.5 + 2 * gold["standard error"]:
        return f"{NO} {told}"
    found = intervals(gains(runs), ["method"])
    better, worse = (", ".join(map(label, found.method[side])) or "no row" for side in (found.low > 0, found.high < 0))
    return f"By the gold model, better than the SFT model: {better}; worse: {worse}. {told}"


def _learned(runs: list[dict]) -> set[str]:
    return {r["method"] for r in runs if "reward_model" in r}


def _of(runs: list[dict], method: str) -> list[dict]:
    return [r for r in runs if r["method"] == method]


def _mean(runs: list[dict], method: str, name: str) -> float:
    found = [r["final"][name] for r in _of(runs, method)]
    return sum(found) / len(found)


def _warm(run: dict) -> int:
    return run["params"]["profile"]["critic_warmup"]


def _rise(run: dict, name: str) -> float:
    """The mean of the last two rollout batches less that of those before the policy first learns."""
    curve = [row[name] for row in run["curves"]]
    start = curve[: _warm(run) + 1]
    return sum(curve[-2:]) / 2 - sum(start) / len(start)


def _accuracy(runs: list[dict], name: str) -> tuple[float, float]:
    row = scorers(runs).set_index("reward model").loc[name]
    return row["label accuracy"], row["standard error"]


def _alike(runs: list[dict], one: str, other: str) -> tuple[str, bool]:
    (a, se), (b, other_se) = (_accuracy(runs, name) for name in (one, other))
    return f"{a:.3f} and {b:.3f}", abs(a - b) <= 2 * sqrt(se**2 + other_se**2)


def _as_good(runs):
    return _alike(runs, "Gold", label("bandit"))


def _one_start(runs):
    gap, trained = 0.0, [r for r in runs if r.get("curves")]
    for seed in {r["seed"] for r in trained}:
        starts = [[row["heldout_proxy"] for row in r["curves"][: _warm(r) + 1]] for r in trained if r["seed"] == seed]
        gap = max(gap, *(max(batch) - min(batch) for batch in zip(*starts, strict=True)))
    return f"largest difference {gap:.2g}", gap == 0


def _paid(runs):
    found = [_rise(r, "proxy_reward") > 0 for r in runs if r.get("curves")]
    return f"{sum(found)} of {len(found)} runs", all(found)


def _short(runs):
    length = max(r["reward_model"]["segment_length"] for r in _of(runs, "segment"))
    text, alike = _alike(runs, label("segment"), label("token"))
    return f"{length:.2f} tokens; {text}", length < 1.1 and alike


def _near_a_half(runs):
    found = scorers(runs)
    low, high = found["lowest"].min(), found["highest"].max()
    return f"{low:.3f} to {high:.3f}", low > 0.48 and high < 0.56


def _longer(runs):
    length, found = _mean(runs, "bandit", "length"), gains(runs).query("method == 'bandit'")["value"]
    return f"{length:.0f} tokens; {min(found):+.2f} to {max(found):+.2f} sd", length > 70 and min(found) > 0


def _turns(runs):
    kl = {m: _mean(runs, m, "kl") for m in ("bandit", "token", "segment")}
    far, text = min(kl["token"], kl["segment"]) > max(kl["bandit"], 10), []
    for m in ("token", "segment"):
        curves = [[row["heldout_proxy"] for row in r["curves"]] for r in _of(runs, m)]
        mean = [sum(batch) / len(curves) for batch in zip(*curves, strict=True)]
        pairs = [sum(mean[i : i + 2]) / 2 for i in range(len(mean) - 1)]  # a batch alone is noisy
        far, text = far and pairs[-1] < max(pairs), [*text, f"{m} {pairs[-1] - max(pairs):+.2f} from its highest"]
    return "; ".join([f"{m} {x:.1f} nats" for m, x in kl.items()] + text), far


def _little(runs):
    found = gains(runs).query("method == 'tlcr-clauses'")["value"]  # each seed: a mean would hide what cancels out
    return f"{min(found):+.2f} to {max(found):+.2f} sd", max(abs(found)) < 0.25


CHECKS = (  # committed before any record, as a table in book/real_text.md
    (INSTRUMENT, "a: the gold model is as accurate on held-out pairs as the bandit's reward model", _as_good),
    (INSTRUMENT, "b: until the critic is warm, all rows of a seed have the same gold score", _one_start),
    (INSTRUMENT, "c: every row is paid more at the end than while the critic warmed up, in every seed", _paid),
    (INSTRUMENT, "d: segments have less than 1.1 tokens, so segment's and token's accuracy are alike", _short),
    (EXPECTED, "e: every label accuracy lies between .48 and .56", _near_a_half),
    (EXPECTED, "f: the bandit's answers grow beyond 70 tokens, and its gold score rises", _longer),
    (
        EXPECTED,
        "g: token and segment go beyond bandit and 10 nats, and their gold score falls from its highest",
        _turns,
    ),
    (EXPECTED, "h: tlcr-clauses moves its gold score by less than a quarter of a standard deviation", _little),
)
