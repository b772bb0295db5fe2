"""What the records of the sweeps say (`sweeps.py`): by length, by pairs, by the reviser's error."""

import numpy as np
import pandas as pd

from study import summary
from study.profiles import profile as profile_row
from study.stats import mean_interval
from study.sweeps import OF_LENGTH, cells, commands, found

RETURN = "final.true_return"
COLUMNS = {
    RETURN: "true return (credit)",
    "final.kl": "KL (nats per response)",
    "final.length": "length (tokens)",
    "reward_model.accuracy_test": "label accuracy",
}
VARIED = {
    "parts": "kinds asked for at once: {}",
    "vocab_size": "vocabulary: {:,}",
    "pairs": "pairs: {:,}",
    "returns": "only the whole counts",
}
LEARNED = (("segment", "bandit"), ("token", "bandit"), ("tlcr", "bandit"))
GAINS = (*LEARNED, ("oracle-dense", "bandit"), ("oracle-dense", "oracle-sequence"), ("oracle-sequence", "bandit"))


def to_do(records: list[dict], sweep: str, profile: str) -> str:
    """Markdown: the lines that make what a sweep lacks; empty where it lacks nothing."""
    lines = "\n".join(commands(records, sweep, profile))
    return f"Not all of this is measured. What is missing is made by:\n\n```bash\n{lines}\n```" if lines else ""


def values(records: list[dict], sweep: str, profile: str, name: str = RETURN) -> pd.DataFrame:
    """Columns at, method, seed, value, parts (kinds that a prompt asks for at once) of the dotted `name` of every
    record of a sweep; `at` of OF_LENGTH is the mean length of the SFT model's answers (tokens), and lengths without an
    SFT record are left out."""
    frames = [pd.DataFrame(columns=["at", "method", "seed", "value", "parts"])]
    for cell in cells(profile):
        if cell.sweep == sweep:
            runs, at = found(records, cell, profile), cell.at
            if sweep in OF_LENGTH:
                tokens = [r["final"]["length"] for r in runs if r["method"] == "sft"]
                at = round(float(np.mean(tokens)), 1) if tokens else np.nan
            parts = profile_row(profile, **cell.changes).world.parts
            frames.append(summary.values(runs, name).assign(at=at, parts=parts))
    return pd.concat([f for f in frames if len(f)] or frames).dropna(subset="at").reset_index(drop=True)


def table(records: list[dict], sweep: str, profile: str) -> pd.DataFrame:
    """`summary.table` of COLUMNS for every cell of a sweep that has records; where several have, below what the cell
    varies, in words."""
    frames = []
    for cell in cells(profile):
        if cell.sweep == sweep and (runs := found(records, cell, profile)):
            changes = cell.changes.get("world", {}) | cell.changes
            setting = ", ".join(words.format(changes[k]) for k, words in VARIED.items() if k in changes)
            part = summary.table(runs, COLUMNS)
            part.insert(0, "setting", setting or "as the comparison")
            frames.append(part)
    joined = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    told = sweep == "error" or len(frames) < 2  # names of rows, or of the sweep, say it
    return joined.drop(columns="setting", errors="ignore") if told else joined


def gains(frame: pd.DataFrame, pairs=GAINS) -> pd.DataFrame:
    """Columns at, method, against, seed, value: one method's value less the other's at the same setting and seed."""
    rows = []
    for method, against in pairs:
        both = [frame[frame.method == m].set_index(["at", "seed"])["value"].astype(float) for m in (method, against)]
        gap = (both[0] - both[1]).dropna()
        rows += [(at, method, against, seed, value) for (at, seed), value in gap.items()]
    return pd.DataFrame(rows, columns=["at", "method", "against", "seed", "value"])


def readable(gaps: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Those of `gains` whose second row ends, on average over seeds, no lower than the SFT model at that setting: who
    is ahead of a row that training took below where it began need not have learned anything. `frame`: `values`."""
    means = frame.assign(value=frame["value"].astype(float)).groupby(["at", "method"])["value"].mean()
    sunk = {key for key, mean in means.items() if mean < means.get((key[0], "sft"), -np.inf)}
    return gaps[[key not in sunk for key in zip(gaps["at"], gaps["against"])]]


def slopes(gaps: pd.DataFrame, per: float = 2.0) -> pd.DataFrame:
    """Of each gain: by how much it changes when `at` grows `per`-fold, mean, low, high, seeds: a least-squares line
    over log(at) for each seed, and the t interval over seeds. Seeds with fewer than two settings are left out."""
    rows = []
    for (method, against), part in gaps.groupby(["method", "against"], sort=False):
        lines = [
            np.polyfit(np.log(seed["at"].astype(float)), seed["value"].astype(float), 1)[0] * np.log(per)
            for _, seed in part.groupby("seed")
            if seed["at"].nunique() > 1
        ]
        if lines:
            rows.append((method, against, *mean_interval(lines), len(lines)))
    return pd.DataFrame(rows, columns=["method", "against", "mean", "low", "high", "seeds"])


def changes(gaps: pd.DataFrame, what: str, unit: str = "credit") -> pd.DataFrame:
    """`slopes` as a table: how each gain changes per doubling of `what`, and whether it clearly grows or shrinks; gains
    of one seed are left out."""
    rows = [
        {
            "gain": f"{summary.label(x.method)} over {summary.label(x.against)}",
            f"change per doubling of {what} ({unit})": summary.interval_text(x.mean, x.low, x.high, seeds=x.seeds),
            "verdict": "grows" if x.low > 0 else "shrinks" if x.high < 0 else "does not clearly change",
            "seeds": x.seeds,
        }
        for x in slopes(gaps).dropna(subset="low").itertuples()
    ]
    return pd.DataFrame(rows)
