"""What must come out if the instrument is right, written down before the runs (late ones say so), and what came.

A control is a difference between two rows of `methods.py`, or a level that a row must reach. One that fails is a fault
to look for in code, budget or model, and no finding; until it is found, nothing that rests on it is read. They are
judged as claims are, by the paired interval over seeds, each for itself.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from report import outcomes
from study import summary
from study.methods import METHODS
from study.stats import mean_interval, paired_contrast

HEADROOM = 0.8  # of the way from the SFT model to a perfect answer that the causal oracle must cover


class Control(NamedTuple):
    """`metric` of row `better` is above that of row `worse`, or above `level` where there is no other row."""

    says: str
    metric: str
    better: str
    worse: str | None = None
    level: float = 0.0


_DENSE, _EVEN, _SEQUENCE = "oracle-dense", "oracle-dense-even", "oracle-sequence"
_LEARNED = ("bandit", "sentence", "token", "segment", "tlcr")
_LEARNED += (  # other learned rows: what is said of them here was written late, when their runs were known
    "segment-as-bandit",
    "bandit-as-segment",
    "normaliser-none",
    "bandit-synthetic",
    "tlcr-fixed",
)
CONTROLS = (
    Control("the truth, paid where it is decided, goes most of the way", "headroom", _DENSE, level=HEADROOM),
    Control("paid where it is decided, it ends ahead of its even split", "return", _DENSE, _EVEN),
    Control("and ahead of the truth at the end", "return", _DENSE, _SEQUENCE),
    Control("it learns from fewer answers than the truth at the end", "area", _DENSE, _SEQUENCE),
    Control("the truth is ahead of what is learned from labels", "return", _SEQUENCE, "bandit"),
    Control("clean truth is ahead of noisy truth, per span", "return", _DENSE, "oracle-dense-noisy"),
    Control("clean truth is ahead of noisy truth, at the end", "return", _SEQUENCE, "oracle-sequence-noisy"),
    Control("its advantages agree with true credit more than those of an even split", "fidelity", _DENSE, _EVEN),
    Control("and more than those of the truth at the end", "fidelity", _DENSE, _SEQUENCE),
    *(Control(f"and more than those of {name}", "fidelity", _DENSE, name) for name in _LEARNED),
    *(Control(f"{name} agrees more than random segments", "fidelity", name, "random") for name in _LEARNED),
    *(Control(f"{name} agrees more than random rewards", "fidelity", name, "random-rewards") for name in _LEARNED),
    Control("the bandit's labels teach PPO more than random rewards do", "return", "bandit", "random-rewards"),
    Control(
        "a policy taught token by token by the first of these ends ahead of the bandit", "return", "distil", "bandit"
    ),
    Control("an even split pays part of a span before its decision", "paid too early", _EVEN, level=0.5),
    Control("entropy segments pay less of it too early than sentences", "paid too early", "sentence", "segment"),
    Control("APPO prefers about half of a round: more than .4", "preferred", "appo", level=0.4),
    Control("and less than .6", "not preferred", "appo", level=0.4),
)


def value(record: dict, metric: str, sft: dict[int, float]) -> float | None:
    """A metric of a run; None where the record does not have it. `sft` is the return of the SFT model by seed."""
    final, credit = record["final"], record.get("credit", {})
    if metric == "return":
        return final["true_return"]
    if metric == "area":
        return outcomes.outcomes(record)["area"]
    if metric == "headroom" and "perfect" in final and record["seed"] in sft:
        start = sft[record["seed"]]
        return (final["true_return"] - start) / (final["perfect"] - start)
    if metric == "fidelity":
        return credit.get("advantages_credit_pearson")
    if metric == "paid too early" and "causal_share" in credit:
        return 1 - credit["causal_share"]
    preferred = [row["preferred"] for row in record.get("curves", []) if "preferred" in row]
    if metric in ("preferred", "not preferred") and preferred:
        return float(np.mean(preferred)) if metric == "preferred" else 1 - float(np.mean(preferred))
    return None


def tested(runs: list[dict]) -> pd.DataFrame:
    """A line per control: what it says, its metric, the difference (or value) with its 95% t interval over seeds, how
    many seeds, and whether it holds (the interval is above 0, or above the level), fails (below it) or is open; "one
    seed" where there is no interval, "no record"."""
    sft = {r["seed"]: r["final"]["true_return"] for r in runs if r["method"] == "sft"}
    return pd.DataFrame([_line(control, runs, sft) for control in CONTROLS])


def _line(control: Control, runs: list[dict], sft: dict[int, float]) -> dict:
    def by_seed(name: str) -> dict[int, float]:
        found = {r["seed"]: value(r, control.metric, sft) for r in runs if r["method"] == name}
        return {seed: x for seed, x in found.items() if x is not None}

    better, worse = by_seed(control.better), by_seed(control.worse) if control.worse else None
    seeds = sorted(better.keys() & worse.keys()) if control.worse else sorted(better)
    line = {"says": control.says, "metric": control.metric, "row": summary.label(control.better)}
    line |= {"less": summary.label(control.worse) if control.worse else f"{control.level:g}"}
    line |= {"difference": np.nan, "low": np.nan, "high": np.nan, "seeds": len(seeds), "verdict": "no record"}
    if not seeds:
        return line
    if control.worse:
        found = paired_contrast({s: better[s] for s in seeds}, {s: worse[s] for s in seeds})
        mean, low, high = (found[name] for name in ("difference", "low", "high"))
    else:
        mean, low, high = mean_interval([better[s] - control.level for s in seeds])
    verdict = "one seed" if len(seeds) == 1 else "holds" if low > 0 else "fails" if high < 0 else "open"
    return line | {"difference": mean, "low": low, "high": high, "verdict": verdict}


def gate(runs: list[dict]) -> str:
    """In a sentence, how many runs have a scorer that passes the gate, of those whose scorer learns from preference
    pairs; the gate is no verdict on what learns from revisions."""
    rows = [METHODS.get(r["method"]) for r in runs]
    learned = [r for r, row in zip(runs, rows) if row and row.scorer == "bradley-terry" and not row.revisions]
    found = summary.to_frame([r for r in learned if r.get("reward_model")])
    if found.empty:
        return "No run here has a scorer of preference pairs."
    said = found[[f"reward_model.{name}" for name in ("accuracy_test", "gate_test", "ceiling_test")]].mean()
    passed = int((found["gate"] == "passed").sum())
    return (
        f"Of {len(found)} runs whose scorer learns from preference pairs {passed} have one that passes the gate: on "
        f"average scorers agree with {said.iloc[0]:.2f} of held-out labels, where the gate asks for {said.iloc[1]:.2f} "
        f"and labels allow {said.iloc[2]:.2f}."
    )
