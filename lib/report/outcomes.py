"""What a training run reached, said in five ways, since one number at the end hides where a run was best, and when.

`at_end` is after training, over answers to test prompts; the others read the curves, answers to training prompts as
they were sampled, smoothed as in `controlled.smoothed` where a single point is read. `selected` reads points that are
chosen by the same answers, so chance favours it; so it does for every method. Left out: the best true return of a
curve, which nobody without the truth could stop at.
"""

import numpy as np
import pandas as pd

from densereward.seeding import rng
from report.controlled import KL, return_at_kl, smoothed
from study import summary
from study.stats import (
    EXACT,
    detectable,
    holm,
    improvement,
    iqm_interval,
    mean_interval,
    paired_contrast,
    sign_flip_p,
)

LEVEL = 3.2  # credit: most of the way from the SFT model to where the causal oracle ends
REACHED = {  # columns of `reached`: their heads
    "reached": f"seeds that reach {LEVEL:g} credits",
    "median": "answers it took (median)",
    "sooner": "sooner (share of seeds)",
}
NAMED = {  # outcomes in credit: heading
    "at_end": "at the end",
    "at_kl": "at 2 nats of KL",
    "selected": "chosen by the proxy",
    "area": "area under the curve",
}


def outcomes(record: dict, kl: float = KL, level: float = LEVEL) -> dict[str, float | int | None]:
    """Outcomes of one record (credit per answer), None for what it does not say:

    - `at_end`: true return after training;
    - `at_kl`: where the run first reaches `kl` nats (`controlled.return_at_kl`);
    - `selected`: of the window of rollout batches that a held-out proxy scores highest: its mean true return, that of
      a checkpoint chosen without the truth. The first, where several are highest;
    - `area`: mean over all answers sampled in training, a critic's warm-up included: the area under the curve;
    - `rollouts_to`: answers sampled until the smoothed curve first is at `level`, its window included.
    """
    found = dict.fromkeys(("at_end", "at_kl", "selected", "area", "rollouts_to"))
    found["at_end"] = record["final"].get("true_return")
    curves = pd.DataFrame(record.get("curves") or [])
    if "true_return" not in curves:
        return found
    sampled = _sampled(record)
    known = curves["true_return"].notna()
    if known.any():
        found["area"] = float(np.average(curves["true_return"][known].astype(float), weights=sampled[known]))
    smooth = smoothed(record, ("true_return",))
    reached = smooth.index[smooth["true_return"] >= level]
    found["rollouts_to"] = int(sampled[: reached[0] + 1].sum()) if len(reached) else None
    found["at_kl"] = return_at_kl(record, kl)
    if "heldout_proxy" in curves:
        seen = smoothed(record, ("heldout_proxy", "true_return"))
        found["selected"] = float(seen.loc[seen["heldout_proxy"].idxmax(), "true_return"]) if len(seen) else None
    return found


def rollouts_at_least(record: dict, level: float = LEVEL) -> int | None:
    """`rollouts_to`; of a run that never is at `level`, one answer more than it sampled, which is the least that it
    would have taken. So among runs that sample alike the sign of a difference is right, and its size a lower bound."""
    found = outcomes(record, level=level)
    never = found["rollouts_to"] is None and found["area"] is not None
    return int(_sampled(record).sum()) + 1 if never else found["rollouts_to"]


def _sampled(record: dict) -> np.ndarray:
    """Answers of each rollout batch; a row that does not count (PPO's) stands for the profile's."""
    return np.array([row.get("responses", record["params"]["profile"]["rollouts"]) for row in record["curves"]])


def of_runs(runs: list[dict]) -> pd.DataFrame:
    """A line per run: method, seed, its `outcomes`, and `sampled`, the answers of its whole training. Raises ValueError
    for a method and seed that occur twice."""
    rows = [
        {"method": r["method"], "seed": r["seed"], **outcomes(r)}
        | {"sampled": int(_sampled(r).sum()) if r.get("curves") else 0}
        for r in runs
    ]
    frame = pd.DataFrame(rows, columns=["method", "seed", *outcomes({"final": {}}), "sampled"])
    if len(twice := frame[frame.duplicated(["method", "seed"])]):
        raise ValueError(f"{twice.method.iloc[0]} has two records of seed {twice.seed.iloc[0]}: keep the newest")
    return frame


def compared(frame: pd.DataFrame, baseline: str, outcome: str = "at_end") -> pd.DataFrame:
    """A line per method of `of_runs` over the seeds that have the outcome: `iqm` and `mean` with their intervals; less
    `baseline`, on the seeds that both have: `difference` with its t interval, `p` of the paired t test, `holm` (`p`
    adjusted for all methods here), `flips` (exact p of sign flips, to 12 seeds), `better` (P that a seed is above the
    baseline's same seed) and `above` (above any of its seeds), and `mde` (`stats.detectable`, unadjusted)."""
    frame = frame[["method", "seed", outcome]].dropna().astype({outcome: float})
    of = {m: frame[frame.method == m].set_index("seed")[outcome] for m in summary.order(frame.method)}
    rows = [_line(m, column, of.get(baseline) if m != baseline else None) for m, column in of.items()]
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.assign(holm=holm(found["p"].astype(float)))


_ENDS = ("", "_low", "_high")
COLUMNS = ["method", "seeds", *(f"iqm{x}" for x in _ENDS), *(f"mean{x}" for x in _ENDS), "pairs"]
COLUMNS += [*(f"difference{x}" for x in _ENDS), "p", "holm", "flips", *(f"better{x}" for x in _ENDS)]
COLUMNS += [*(f"above{x}" for x in _ENDS), "mde"]


def _line(method: str, column: pd.Series, against: pd.Series | None) -> dict:
    def told(name: str, three: tuple) -> dict:
        return {f"{name}{end}": x for end, x in zip(_ENDS, three)}

    line = {"method": method, "seeds": len(column), **told("mean", mean_interval(column))}
    line |= told("iqm", iqm_interval(column, rng(0, "outcomes")))
    shared = sorted(column.index.intersection(against.index)) if against is not None else []
    if not shared:
        return line | {"pairs": 0}
    a, b = column[shared], against[shared]
    found = paired_contrast(a, b)
    line |= {"pairs": len(shared), "p": found["p"], "mde": detectable(found["sd"], len(shared))}
    line |= told("difference", (found["difference"], found["low"], found["high"]))
    line["flips"] = sign_flip_p(a - b) if 2 <= len(shared) <= EXACT else np.nan
    line |= told("better", improvement(a, b, rng(0, "outcomes"), paired=True))
    return line | told("above", improvement(column, against, rng(0, "outcomes"), paired=False))


def table(frame: pd.DataFrame, baseline: str, outcome: str = "at_end", digits: int = 2) -> pd.DataFrame:
    """`compared` in words: estimates with their 95% intervals (below 10 seeds a bootstrap has none), None where there
    is nothing to compare."""
    found = compared(frame, baseline, outcome)

    def text(name: str) -> list[str | None]:
        rows = found[[f"{name}{end}" for end in _ENDS]].astype(float).to_numpy()
        return [None if np.isnan(row[0]) else summary.interval_text(*row, digits) for row in rows]

    return pd.DataFrame(
        {
            "method": [summary.label(m) for m in found.method],
            "seeds": found.seeds,
            "interquartile mean (bootstrap)": text("iqm"),
            "mean (t)": text("mean"),
            f"less {summary.label(baseline)} (t)": text("difference"),
            "p (Holm)": [summary.p_text(p) for p in found.holm],
            "p (sign flips)": [summary.p_text(p) for p in found.flips],
            "P(above, same seed)": text("better"),
            "P(above, any seed)": text("above"),
            "smallest effect seen": [None if np.isnan(x) else f"{x:.{digits}f}" for x in found.mde.astype(float)],
        }
    )


def chosen(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A line per method of `of_runs` whose curves a held-out proxy scored: seeds, and mean true returns (credit) with
    their 95% t intervals: at the end (test prompts), of the checkpoint that the proxy chooses (training prompts), the
    gain in choosing so, and that checkpoint less the one of `baseline` on the seeds that both have."""
    frame = frame.dropna(subset=["at_end", "selected"])
    of = {m: frame[frame.method == m].set_index("seed") for m in summary.order(frame.method)}
    rows = []
    for m, at in of.items():
        columns = {heading: at[name] for name, heading in NAMED.items() if name in ("at_end", "selected")}
        columns["gained by choosing"] = at.selected - at.at_end
        if baseline in of and m != baseline:
            columns[f"less {summary.label(baseline)}"] = (at.selected - of[baseline].selected).dropna()
        told = {head: summary.interval_text(*mean_interval(x), seeds=len(x)) for head, x in columns.items() if len(x)}
        rows.append({"method": summary.label(m), "seeds": len(at)} | told)
    return pd.DataFrame(rows)


def apart(frame: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """How far apart (credit) the ends of the same method and seed lie in two of `of_runs`, for those that both have."""
    ends = [x.set_index(["method", "seed"]).at_end.astype(float) for x in (frame, others)]
    return (ends[0] - ends[1]).abs().dropna()


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """A line per method of `of_runs`: seeds, and the mean of every outcome (credit) that was measured."""
    found = frame.groupby("method")[list(NAMED)].mean().reindex(summary.order(frame.method)).dropna(axis=1, how="all")
    found.insert(0, "seeds", frame.groupby("method").size())
    return found.rename(columns=NAMED).rename(index=summary.label).rename_axis("method").reset_index()


def reached(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A line per method of `of_runs` that samples: how many seeds `reached` the level; `median` of the answers that it
    took, where a seed that never did counts as longer than any (so "never" where half of them or more did not: exact,
    whatever they would have taken); `sooner`, P that a seed is there before `baseline`'s same seed, both never a tie.
    """
    frame = frame[frame.sampled > 0]
    frame = frame.assign(took=frame.rollouts_to.astype(float).fillna(np.inf))
    of = {m: frame[frame.method == m].set_index("seed").took for m in summary.order(frame.method)}
    rows = []
    for m, took in of.items():
        median = np.median(took)
        row = {"method": summary.label(m), "seeds": len(took), "reached": int(np.isfinite(took).sum())}
        row["median"] = f"{median:.0f}" if np.isfinite(median) else "never"
        shared = sorted(took.index.intersection(of[baseline].index)) if baseline in of and m != baseline else []
        if shared:
            late = np.nan_to_num(np.array([of[baseline][shared], took[shared]]), posinf=frame.sampled.max() + 1)
            row["sooner"] = summary.interval_text(*improvement(*late, rng(0, "outcomes"), paired=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=["method", "seeds", *REACHED]).rename(columns=REACHED)
