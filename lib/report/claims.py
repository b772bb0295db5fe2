"""What the papers claim (`ledger.py`), against our records: every verdict is computed.

A claim stands on a t test over seeds, paired where it compares two rows, whose p value is adjusted by Holm for all
claims of its paper that are tested; so is, for itself, that of the test that a difference is too small to matter.
Intervals are those of a claim alone.

    held, opposite       the adjusted p is below .05, and the difference is as predicted, or is not
    alike                the difference is shown to be smaller than what matters (two one-sided tests, adjusted too)
    open                 neither; for want of seeds where a difference that matters could have been missed
    one seed, no record  there is no test
    no row, no measure   nothing here can test it

A claim of true return is also read elsewhere: where both policies have moved equally far from the SFT model, with each
method's own settings, and at another size.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from densereward.canonical import canonical
from report import controlled, process_figures, wins
from report.controlled import KL
from report.ledger import CLAIMS, METRICS, OUTCOMES, Claim
from report.outcomes import outcomes, rollouts_at_least
from report.published import PAPERS
from study import summary
from study.identity import completed
from study.records import ROOT, read_records
from study.stats import ALPHA, detectable, holm, paired_contrast, within_p

FEW = "open (too few seeds)"
COUNTED = {  # verdict: under what it is counted
    **{verdict: verdict for verdict in ("held", "opposite", "alike", "open", FEW, "one seed", "no record")},
    **dict.fromkeys(("no row", "no measure"), "no row or measure"),
}
_SFT = "sft"
MEASURED = ROOT / "data" / "results" / "ledger.jsonl"
PICKED = ROOT / "data" / "results" / "brief" / "best_of_n.jsonl"


def tested(runs: list[dict], kl: float | None = None, claims: tuple[Claim, ...] = CLAIMS) -> pd.DataFrame:
    """A line per claim: its fields; the difference with its 95% t interval (low, high), in the
    metric's unit; `p` and `holm`, adjusted for all claims of its paper that have one; `p_alike` and `holm_alike`, that
    the difference is smaller than the threshold; `mde`, the smallest difference that these seeds would show at .05
    alone, and `mde_holm`, surely after the adjustment (`stats.detectable`); seeds; and a verdict of `COUNTED`, `open`
    being `FEW` where `mde_holm` is above the threshold.

    With `kl`, claims of true return alone, read in training where each run first reached that KL (nats)."""
    if kl:
        claims = tuple(replace(claim, metric="at_kl") for claim in claims if claim.metric == "at_end")
    named = {claim.better for claim in claims} | {claim.worse for claim in claims} | {_SFT}
    told = [r for r in runs if r["method"] in named]
    values = {metric: _values(told, metric, kl or KL) for metric in {claim.metric for claim in claims}}
    frame = pd.DataFrame([_line(claim, values[claim.metric]) for claim in claims])
    for _, part in frame.groupby("paper"):
        several = max(1, part["p"].notna().sum())
        frame.loc[part.index, "holm"] = holm(part["p"])
        frame.loc[part.index, "holm_alike"] = holm(part["p_alike"])
        for name, alpha in (("mde", ALPHA), ("mde_holm", ALPHA / several)):
            frame.loc[part.index, name] = [detectable(sd, n, alpha) for sd, n in zip(part["sd"], part["seeds"])]
    frame["verdict"] = [_verdict(row) for row in frame.itertuples()]
    return frame.drop(columns="sd")


def joined(runs: list[dict], records: list[dict] | None = None) -> list[dict]:
    """The runs, with what `records` (`ledger_records.py`; None: the committed ones, and best of n) say of the same row,
    seed and settings as `measured`."""
    if records is None:
        records = read_records(MEASURED) if MEASURED.exists() else []
        picked = read_records(PICKED) if PICKED.exists() else []
        records += [r | {"measured": {"lead_by_asked": process_figures.lead_by_asked(r)}} for r in picked]
    of: dict = {}
    for m in records:
        of.setdefault((canonical(completed(m["params"])), m["seed"]), {}).update(m["measured"])
    rows = {m["method"] for m in records}

    def measured(r: dict) -> dict:
        asked = r["method"] in rows and r["dataset"] == "testbed"
        return of.get((canonical(completed(r["params"])), r["seed"]), {}) if asked else {}

    return [r | {"measured": measured(r)} for r in runs]


def _line(claim: Claim, values: dict) -> dict:
    """A claim's fields and its differences by seed, summed up, before any adjustment."""
    line = {name: getattr(claim, name) for name in Claim.__dataclass_fields__}
    line |= dict.fromkeys(("difference", "low", "high", "sd", "p", "p_alike"), np.nan)
    if claim.metric == "win_rate" and not claim.lacks:
        values = _duels(values, claim)
    one, other = values.get(claim.better, {}), values.get(claim.worse, {})
    seeds = sorted(one if claim.level is not None else one.keys() & other.keys())
    if not seeds:
        return line | {"seeds": 0}
    other = other if claim.level is None else dict.fromkeys(seeds, claim.level)
    one, other = ({seed: float(x[seed]) for seed in seeds} for x in (one, other))
    found = paired_contrast(one, other)
    line |= {name: found[name] for name in ("difference", "low", "high", "sd", "p", "seeds")}
    within = within_p(found["difference"], found["sd"], len(seeds), claim.threshold)
    if claim.predicts == "alike":  # what is asked has two answers, as a difference has two signs
        line["p"] = 2 * min(within, 1 - within)
    elif claim.predicts == "not above":
        line["p"] = paired_contrast(one, {s: x + claim.threshold for s, x in other.items()})["p"]
    elif claim.metric != "rollouts_to":  # a lower bound shows nothing to be small
        line["p_alike"] = within
    return line


def _verdict(row) -> str:
    if pd.notna(row.lacks):
        return f"no {row.lacks}"
    if row.seeds < 2:
        return ("no record", "one seed")[row.seeds]
    if row.holm_alike < ALPHA:
        return "alike"
    if row.holm < ALPHA:
        expected = {
            "above": row.difference > 0,
            "below": row.difference < 0,
            "alike": abs(row.difference) < row.threshold,
            "not above": row.difference < row.threshold,
        }
        return "held" if expected[row.predicts] else "opposite"
    return FEW if row.mde_holm > row.threshold else "open"


def _values(runs: list[dict], metric: str, kl: float) -> dict[str, dict[int, object]]:
    """method -> seed -> the metric of its run, of the runs that have it; for `win_rate` its answers' returns."""
    if metric == "win_rate":
        return wins.answers(runs)
    if metric == "win_rate_over_sft":
        told = wins.answers(runs)
        return {m: _rates(seeds, told.get(_SFT, {})) for m, seeds in told.items()}
    if metric == "at_length":
        rows = controlled.by_sft_length(runs).itertuples()
        told = [(row.method, row.seed, row.value) for row in rows]
    else:
        told = [(r["method"], r["seed"], _read(r, metric, kl)) for r in runs]
    found: dict[str, dict[int, object]] = {}
    for method, seed, value in told:
        if value is not None:
            found.setdefault(method, {})[seed] = value
    return found


def _read(record: dict, metric: str, kl: float) -> float | None:
    if metric == "at_kl":
        return controlled.return_at_kl(record, kl) if record.get("curves") else None
    if metric == "rollouts_to":
        return rollouts_at_least(record)
    if metric in OUTCOMES and metric != "at_end":
        return outcomes(record, kl)[metric]
    value = record
    for name in ("final.true_return" if metric == "at_end" else metric).split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _rates(one: dict, other: dict) -> dict[int, float]:
    """% of prompts that `one`, seed -> returns [N], wins against `other`, ties half."""
    return {s: 50 + 50 * float(np.sign(one[s] - other[s]).mean()) for s in one.keys() & other.keys()}


def _duels(answers: dict, claim: Claim) -> dict:
    return {claim.better: _rates(answers.get(claim.better, {}), answers.get(claim.worse, {}))}


def side_by_side(comparisons: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A line per claim of true return: its verdict, difference (credit) and Holm's p in each comparison, `tested` by
    what follows these heads; one in which nothing was run is left out."""
    told = {suffix: of_returns(found) for suffix, found in comparisons.items()}
    frame = next(iter(told.values()))[["paper", "says"]].copy()
    for suffix, found in told.items():
        if found.seeds.any():
            frame[f"verdict{suffix}"] = found.verdict.replace(FEW, "open").where(found.seeds > 0)
            frame[f"difference{suffix} (credit)"] = [_interval(row) for row in found.itertuples()]
            frame[f"p{suffix}"] = [summary.p_text(p) for p in found.holm]
    return frame.assign(place=next(iter(told.values())).place)


def of_returns(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of `tested` that are about true return, after training or at a KL, and can be tested."""
    return frame[frame.metric.isin(["at_end", "at_kl"]) & frame.lacks.isna()].reset_index(drop=True)


def win_rates(runs: list[dict]) -> pd.DataFrame:
    """Of each claim of true return the win rate (%, `wins.matrix`) of the row that it is about against the other, over
    test prompts with its interval (low, high), and seeds; nan without such records."""
    found = of_returns(tested([]))[["paper", "says", "better", "worse"]]
    lines = []
    for row in found.itertuples():
        pair = wins.matrix([r for r in runs if r["method"] in (row.better, row.worse)])
        met = pair[pair.method == row.better]
        rates = [100 * float(met[x].iloc[0]) if len(met) else np.nan for x in ("rate", "low", "high")]
        lines.append((*rates, int(met.seeds.iloc[0]) if len(met) else 0))
    rates = pd.DataFrame(lines, columns=["win rate (%)", "win rate (%) low", "win rate (%) high", "seeds"])
    return found.assign(row=found.better.map(summary.label), against=found.worse.map(summary.label)).join(rates)


def evidence(frame: pd.DataFrame) -> pd.DataFrame:
    """What the verdicts of `tested` stand on, in words, of the claims that can be tested: the prediction, the
    difference, what would matter, what could have been seen, and p values."""
    frame = frame[frame.lacks.isna()]
    found = frame[["paper", "says", "verdict"]].copy()
    found["difference"] = [_interval(row) for row in frame.itertuples()]
    found["unit"] = [METRICS[metric].unit for metric in frame.metric]
    found["p (Holm)"] = [summary.p_text(p) for p in frame.holm]
    found["seeds"], found["would be seen from"] = frame.seeds, frame.mde_holm
    found["prediction"] = [_prediction(row) for row in frame.itertuples()]
    found["matters from"] = frame.threshold.where(frame.seeds > 0)  # a claim without a run is a row without a number
    found["p, alone"] = [summary.p_text(p) for p in frame.p]
    return found.assign(**{"would be seen from, alone": frame.mde, "place": frame.place})


def decided(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of `tested` that held, came out opposite or make no difference that matters, for a table."""
    found = evidence(frame[frame.verdict.isin(["held", "opposite", "alike"])])
    columns = ["prediction", "verdict", "difference", "unit", "p (Holm)", "seeds", "place"]
    return found.sort_values("verdict", kind="stable")[columns]


def ran(runs: list[dict], paper: str) -> str:
    """How many of the rows that a paper's claims name were run, on how many seeds, in a sentence."""
    named = {row for claim in CLAIMS if claim.paper == paper for row in (claim.better, claim.worse) if row}
    seeds = pd.Series({row: len({r["seed"] for r in runs if r["method"] == row}) for row in named})
    have = seeds[seeds > 0]
    span = f", each on {have.min()} to {have.max()} seeds" if len(have) else ""
    return f"Of the {len(named)} rows that the claims of {paper} name, {len(have)} have records{span}."


def untestable(frame: pd.DataFrame) -> pd.DataFrame:
    """The claims that nothing here can test, and why."""
    return frame.loc[frame.lacks.notna(), ["paper", "says", "why", "verdict", "place"]].reset_index(drop=True)


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each paper, and of all, have each verdict, under the names of `COUNTED`, and in all; a verdict
    that no claim has is left out, but for the first two."""
    found = pd.crosstab(frame.verdict.map(COUNTED), frame.paper)
    names = [x for x in dict.fromkeys(COUNTED.values()) if x in ("held", "opposite", *found.index)]
    found = found.reindex(index=names, columns=PAPERS, fill_value=0)
    found["all"] = found.sum(axis=1)
    found.loc["claims"] = found.sum()
    return found.rename_axis("verdict").rename_axis(None, axis=1).reset_index()


def headline(frame: pd.DataFrame) -> str:
    """The verdicts of `tested`, counted, in two sentences whose numbers add up."""
    n = counts(frame).set_index("verdict")["all"]
    rest = "; ".join(f"{n[name]} {name}" for name in n.index[2:-1])
    return (
        f"Of {n['claims']} claims of the three papers {n['held']} held and {n['opposite']} came out opposite. "
        f"The rest: {rest}."
    )


def at_once(frame: pd.DataFrame) -> str:
    """How many verdicts of `tested` stay with Holm's adjustment over the claims of all papers at once, and which do
    not, in a sentence."""
    whole = frame.assign(holm=holm(frame.p), holm_alike=holm(frame.p_alike))
    decided = frame.verdict.isin(["held", "opposite", "alike"])
    stays = decided & (frame.verdict == [_verdict(row) for row in whole.itertuples()])
    lost = [f"{row.says} ({row.paper})" for row in frame[decided & ~stays].itertuples()]
    return (
        f"Adjusted over all {frame.p.notna().sum()} tested claims at once, {stays.sum()} of the {decided.sum()} "
        f"verdicts that are not open stay{'; open then: ' if lost else ''}{'; '.join(lost)}."
    )


def sentence(frame: pd.DataFrame, paper: str) -> str:
    """How many of a paper's claims (`tested`) held, and how many came out opposite."""
    n = counts(frame).set_index("verdict")[paper]
    rest = n["claims"] - n["held"] - n["opposite"]
    return (
        f"Of the {n['claims']} claims of {paper} {n['held']} held and {n['opposite']} came out opposite; "
        f"the other {rest} are open, alike or cannot be tested here."
    )


def _prediction(row) -> str:
    against = summary.label(row.worse) if pd.notna(row.worse) else f"{row.level:g}"
    predicts = "like" if row.predicts == "alike" else row.predicts
    return f"{METRICS[row.metric].words}: {summary.label(row.better)} {predicts} {against}"


def _interval(row) -> str | None:
    return summary.interval_text(row.difference, row.low, row.high, seeds=row.seeds) if row.seeds else None
