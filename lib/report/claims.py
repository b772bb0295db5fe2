"""What each paper claims of one method over another, and what came of the same two rows here.

A claim is a difference between two rows of `methods.py`. It is judged where the paper's own protocol would: both with
the settings that all methods share; and where that would be unfair: where both policies have moved equally far from the
SFT model, and with each method's own learning rate and KL coefficient. A verdict stands on the p value of the paired
t test, adjusted by Holm for all claims that are tested in the same comparison; intervals are those of a claim alone.
Left out: claims about benchmarks, human judges, models and sizes that are not here, and a correction for making three
comparisons.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from report import controlled, wins
from report.controlled import KL
from study import summary
from study.stats import ALPHA, detectable, holm, paired_contrast


class Claim(NamedTuple):
    """`better` is claimed to be ahead of `worse` (rows of `methods.py`)."""

    paper: str
    place: str
    says: str
    better: str
    worse: str


CLAIMS = (
    Claim("segment-ppo", "Table 1", "segments are ahead of the whole answer", "segment", "bandit"),
    Claim("segment-ppo", "Table 1", "segments are ahead of tokens", "segment", "token"),
    Claim("segment-ppo", "Table 1", "segments are ahead of sentences", "segment", "sentence"),
    Claim("segment-ppo", "Table 1", "a bandit's scorer, read per segment, is behind", "segment", "bandit-as-segment"),
    Claim("segment-ppo", "Table 1", "a segment scorer, read per answer, is behind", "segment", "segment-as-bandit"),
    Claim("segment-ppo", "Table 3", "PPO on segments is ahead of DPO", "segment", "dpo"),
    Claim("segment-ppo", "Table 4", "segments are ahead of ten tokens each", "segment", "ngram-10"),
    Claim("segment-ppo", "Table 5", "a line over the location is ahead of raw scores", "segment", "normaliser-none"),
    Claim("segment-ppo", "Table 6", "an even split is ahead of the segment's end", "segment", "interpolation-none"),
    Claim("adaptive-mask", "Table 1", "a mask helps PPO", "appo", "bandit"),
    Claim("adaptive-mask", "Section 4.1", "so it does with a Schmitt trigger", "appo-schmitt", "bandit"),
    Claim("adaptive-mask", "Table 1", "a mask helps DPO", "adpo", "online-dpo"),
    Claim("adaptive-mask", "Section 4.1", "so it does with a Schmitt trigger", "adpo-schmitt", "online-dpo"),
    Claim("adaptive-mask", "Table 1", "a mask helps rejection sampling", "ars", "rs"),
    Claim("adaptive-mask", "Section 4.1", "so it does with a Schmitt trigger", "ars-schmitt", "rs"),
    Claim("tlcr", "Table 1", "rewards from edits are ahead of the sequence reward", "tlcr", "bandit"),
    Claim("tlcr", "Table 1", "so are fixed ones", "tlcr-fixed", "bandit"),
    Claim("tlcr", "Table 1", "continuous rewards are ahead of fixed ones", "tlcr", "tlcr-fixed"),
    Claim("tlcr", "Table 1", "they are ahead of DPO", "tlcr", "dpo"),
    Claim("tlcr", "Table 1", "they are ahead of ReMax", "tlcr", "remax"),
    Claim("tlcr", "Table 1", "they are ahead of FIGA", "tlcr", "figa"),
    Claim("tlcr", "Table 1", "revisions as pairs are behind labelled pairs", "bandit", "bandit-synthetic"),
)


def tested(runs: list[dict], kl: float | None = None) -> pd.DataFrame:
    """A line per claim: difference in true return paired by seed with its 95% t interval (low, high), `p` of the paired
    t test, `holm`, adjusted for all claims here that have one, `mde`, the smallest difference that these seeds would
    show at .05 alone, and `mde_holm`, surely after the adjustment (`stats.detectable`), seeds, and a verdict: holds or
    opposite where `holm` is below .05, else open; "one seed" where there is no test, "no record".

    After training, where `win rate` (%, `wins.matrix`) is that of the better row over test prompts; with `kl`, in
    training where each first reached that KL (nats per response)."""
    named = {claim.better for claim in CLAIMS} | {claim.worse for claim in CLAIMS}
    runs = [r for r in runs if r["method"] in named]
    values = _at_kl(runs, kl) if kl else _final(runs)
    frame = pd.DataFrame([_line(claim, values, None if kl else runs) for claim in CLAIMS])
    frame["holm"] = holm(frame["p"])
    alpha = ALPHA / max(1, frame["p"].notna().sum())
    frame["mde"], frame["mde_holm"] = (
        [detectable(sd, seeds, level) for sd, seeds in zip(frame["sd"], frame["seeds"])] for level in (ALPHA, alpha)
    )
    clear = frame["holm"] < ALPHA
    frame.loc[clear, "verdict"] = np.where(frame["difference"][clear] > 0, "holds", "opposite")
    return frame.drop(columns="sd")


def side_by_side(runs: list[dict], tuned: list[dict]) -> pd.DataFrame:
    """A line per claim with its verdict, difference (credit) and Holm's p in each comparison: at the settings that all
    share, at a KL of `KL` nats, and with each method's own settings (`summary.study(records, tuned=True)`)."""
    where = {
        "settings of all": tested(runs),
        f"at KL {KL:g} nats": tested(runs, KL),
        "own settings": tested(tuned),
    }
    frame = pd.DataFrame([claim._asdict() for claim in CLAIMS])[["paper", "place", "says"]]
    for heading, found in where.items():
        frame[heading] = [_told(row) for row in found.itertuples()]
    return frame


def evidence(frame: pd.DataFrame) -> pd.DataFrame:
    """What the verdicts of `tested` stand on, in words: p values, and the differences that could have been seen."""
    effects = {"mde": "smallest effect seen, alone (credit)", "mde_holm": "the same, adjusted (credit)"}
    found = frame[["paper", "says", "seeds", "verdict"]].copy()
    found["difference (credit)"] = [
        summary.interval_text(row.difference, row.low, row.high) if row.seeds else None for row in frame.itertuples()
    ]
    found["p"], found["p (Holm)"] = ([summary.p_text(p) for p in frame[name]] for name in ("p", "holm"))
    return found.assign(**{heading: frame[name] for name, heading in effects.items()})


def sentence(frame: pd.DataFrame, paper: str) -> str:
    """The verdicts on a paper's claims (`tested`), counted, and how many intervals are clear of zero."""
    mine = frame[frame.paper == paper]
    part = mine.verdict.value_counts()
    told = f"{paper}: of {part.sum()} claims, " + ", ".join(f"{n} {verdict}" for verdict, n in part.items())
    alone = int(((mine.low > 0) | (mine.high < 0)).sum())
    return f"{told} (adjusted for {frame.p.notna().sum()} tests; intervals clear of zero, each alone: {alone})."


def _final(runs: list[dict]) -> dict[str, dict[int, float]]:
    return _by_method([(r["method"], r["seed"], r["final"]["true_return"]) for r in runs])


def _at_kl(runs: list[dict], kl: float) -> dict[str, dict[int, float]]:
    found = [(r["method"], r["seed"], controlled.return_at_kl(r, kl)) for r in runs if r.get("curves")]
    return _by_method([row for row in found if row[2] is not None])


def _by_method(rows: list[tuple]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for method, seed, value in rows:
        found.setdefault(method, {})[seed] = value
    return found


def _line(claim: Claim, values: dict, runs: list[dict] | None) -> dict:
    better, worse = values.get(claim.better, {}), values.get(claim.worse, {})
    shared = sorted(better.keys() & worse.keys())
    line = claim._asdict() | dict.fromkeys(("difference", "low", "high", "sd", "p"), np.nan) | {"seeds": len(shared)}
    line |= {"verdict": {0: "no record", 1: "one seed"}.get(len(shared), "open")}
    if shared:
        found = paired_contrast({s: better[s] for s in shared}, {s: worse[s] for s in shared})
        line |= {name: found[name] for name in ("difference", "low", "high", "sd", "p")}
    if runs is not None:
        pair = [r for r in runs if r["method"] in (claim.better, claim.worse) and r["seed"] in shared]
        rates = wins.matrix(pair).query("method == @claim.better")
        line |= {f"win rate{end}": 100 * float(rates[x].iloc[0]) if len(rates) else np.nan for end, x in _RATES.items()}
    return line


_RATES = {"": "rate", " low": "low", " high": "high"}


def _told(row) -> str | None:
    if not row.seeds:
        return None
    few = f" ({row.seeds} seeds)" if row.seeds == 2 else ""
    p = f", p {summary.p_text(row.holm)}" if row.seeds > 1 else ""
    return f"{row.verdict}: {summary.interval_text(row.difference, row.low, row.high)}{p}{few}"
