"""What is left of a difference where runs have moved equally far from the SFT model, or write equally long: two guards
against reward hacking that hides in KL or in length.

Left out: anything that is not linear in length (`stats.length_controlled`), and KL at another time than in training.
"""

import pandas as pd

from study import summary
from study.stats import at_matched_kl, length_controlled

KL = 2.0  # nats per response, at which runs are compared where they have moved equally far
WINDOW = 3  # rollout batches that a point of a smoothed curve is the mean of: its own and those before


def smoothed(record: dict, names: tuple[str, ...]) -> pd.DataFrame:
    """The columns `names` of a run's curves, each row the mean of `WINDOW` rollout batches, by the number of the last
    (from 0); batches before the first whole window, or with a gap in theirs, are left out."""
    return pd.DataFrame(record["curves"])[list(names)].astype(float).rolling(WINDOW).mean().dropna()


def return_at_kl(record: dict, kl: float) -> float | None:
    """True return in training where a run's KL to the SFT model first reaches `kl` (nats per response), both curves
    `smoothed` first. None for a run that never reaches it."""
    smooth = smoothed(record, ("kl", "true_return"))
    return at_matched_kl(smooth["kl"], smooth["true_return"], kl) if len(smooth) else None


def matched_kl(records: list[dict], kl: float) -> pd.DataFrame:
    """`return_at_kl` of every method, mean and t interval over seeds. Runs that never reach it are left out, and
    `seeds` says how many are left."""
    rows = [{"method": r["method"], "value": return_at_kl(r, kl)} for r in records if "curves" in r]
    frame = pd.DataFrame(rows, columns=["method", "value"]).dropna(subset="value").astype({"value": float})
    found = summary.intervals(frame, ["method"]).set_index("method")
    return found.loc[summary.order(found.index)].rename(index=summary.label).reset_index()


def by_sft_length(records: list[dict]) -> pd.DataFrame:
    """method, seed, value: true return at the SFT model's mean length of the same seed (`stats.length_controlled`, over
    a run's test answers); runs none of whose answers are as short or as long are left out."""
    told = [r for r in records if "true_return" in r.get("final", {}).get("answers", {})]
    reference = {r["seed"]: r["final"]["length"] for r in told if r["method"] == "sft"}
    rows = [
        {
            "method": r["method"],
            "seed": r["seed"],
            "value": length_controlled(
                r["final"]["answers"]["true_return"], r["final"]["answers"]["length"], reference[r["seed"]]
            ),
        }
        for r in told
        if r["seed"] in reference
    ]
    frame = pd.DataFrame(rows, columns=["method", "seed", "value"])
    return frame.dropna(subset="value").astype({"value": float})


def at_sft_length(records: list[dict]) -> pd.DataFrame:
    """`by_sft_length`, mean and t interval over seeds; `seeds` says how many are left. Without such records, a table
    without rows."""
    found = summary.intervals(by_sft_length(records), ["method"]).set_index("method")
    return found.reindex(summary.order(found.index)).rename(index=summary.label).reset_index()
