"""Which granularity has the smallest error at which noise: `decomposition.over_noise` summed up, with intervals.

Errors are per token, pooled over answers. Intervals are 95% percentile bootstraps over answers, of one set of answers
and one model; comparisons are paired, by the same resamples and the same noise.
"""

import numpy as np
import pandas as pd

from densereward.reward.masks import DECISIONS, flips
from study.measures.constants import estimate, resamples
from study.measures.decomposition import KNOW_THE_TRUTH, PARTITIONS, PARTS, SEE_THE_NOISE, crossings, decompose
from study.summary import interval_text


def levels(text: str) -> list[float]:
    """Deviations of noise from a comma-separated list, ascending. ValueError naming what is no number above 0."""
    found = set()
    for word in filter(None, map(str.strip, text.split(","))):
        try:
            found.add(float(word))
        except ValueError:
            found.add(float("nan"))
        if not all(0 < c < float("inf") for c in found):
            raise ValueError(f"noises: {word!r} is no deviation; give numbers above 0, such as 0.1,0.4,1.6")
    if not found:
        raise ValueError("noises is empty; give numbers above 0, such as 0.1,0.4,1.6")
    return sorted(found)


def summed(frame: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """One row per noise c, partition and what is read: PARTS and `cost` per token (credit squared), tokens per segment
    `length`; total with _low and _high; `above`, total over that of the optimal partition read as a mean, and `ratio`,
    noise over cost, both with _low and _high. Random: `draw`."""
    weights, rows = resamples(frame.answer.nunique(), draw), []
    for c, at in frame.groupby("c"):
        pooled = {
            key: {name: weights @ part.sort_values("answer")[name].to_numpy(float) for name in part.columns[4:]}
            for key, part in at[["answer", "partition", "reads", "c", *PARTS, "cost", "tokens", "segments"]].groupby(
                ["partition", "reads"]
            )
        }
        for (partition, reads), x in pooled.items():
            row = {"c": c, "partition": partition, "reads": reads, "length": x["tokens"][0] / x["segments"][0]}
            row |= {name: x[name][0] / x["tokens"][0] for name in (*PARTS, "cost")}
            best = pooled["optimal", "mean"]["total"]
            for name, values in (
                ("total", x["total"] / x["tokens"]),
                ("above", x["total"] / best),
                ("ratio", x["noise"] / x["cost"]),
            ):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), estimate(values)))
            rows.append(row)
    numbers = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(PARTITIONS)}
    return numbers.sort_values(["c", "partition"], key=lambda x: x.map(order) if x.name == "partition" else x)


def winners(frame, draw: np.random.Generator, without: tuple[str, ...] = KNOW_THE_TRUTH, reads="mean") -> pd.DataFrame:
    """At each noise c, among partitions but those of `without`, read as `reads` says ("mean", "last"): the one with the
    smallest error, the next one, and by how much it is better, as a share of the next one's error, with low and high.
    `clear`: the interval does not hold 0. Random: `draw`."""
    among = frame[(frame.reads == reads) & ~frame.partition.isin(without)]
    weights, rows = resamples(frame.answer.nunique(), draw), []
    for c, at in among.groupby("c"):
        totals = at.pivot(index="answer", columns="partition", values="total")
        first, second = totals.sum().nsmallest(2).index
        share = 1 - (weights @ totals[first].to_numpy()) / (weights @ totals[second].to_numpy())
        found = dict(zip(("better", "low", "high"), estimate(share)))
        rows.append({"c": c, "partition": first, "next": second, **found, "clear": found["low"] > 0})
    return pd.DataFrame(rows)


def offsets(truth, noisy, mask, c: float, deltas) -> pd.DataFrame:
    """What the offset of Eq. 17 does, without and with memory: at each delta (in units of c) tokens per segment,
    `length`, `changes` between good and bad per answer, and the error per token of segment means (credit squared). One
    draw of noise. adaptive-mask Appendix E says that an offset makes changes rarer."""
    mask, excess = mask.cpu(), noisy - noisy[mask.bool().cpu()].mean()
    rows = []
    for delta in deltas:
        for decision in ("three-way", "schmitt"):
            found = decompose(truth, noisy, crossings(excess, mask, 0.0, decision, delta * c))
            states = DECISIONS[decision](excess.masked_fill(mask == 0, 0), delta * c)
            row = {
                "delta": delta,
                "partition": decision,
                "length": float(found["tokens"].sum() / found["segments"].sum()),
                "changes": float(flips(states, mask).double().mean()),
                "error": float(found["total"].sum() / found["tokens"].sum()),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def offset_table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`offsets`, a row per offset."""
    at = numbers.pivot(index="delta", columns="partition")
    texts = {"changes": "good-bad changes", "length": "tokens per segment", "error": "error"}
    how = {"three-way": "Eq. 17", "schmitt": "with memory"}
    columns = {f"{text}, {name}": at[key, d] for key, text in texts.items() for d, name in how.items()}
    return pd.DataFrame({"offset over c": at.index} | {text: column.to_numpy() for text, column in columns.items()})


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`summed` of one noise, read as means, as text: what the error is made of, and what Eq. 12 says of it."""
    rows = []
    for x in numbers[numbers.reads == "mean"].itertuples():
        rows.append(
            {
                "partition": PARTITIONS[x.partition],
                "tokens per segment": x.length,
                "approximation": x.approximation,
                "noise": x.noise,
                "error": interval_text(x.total, x.total_low, x.total_high, 3),
                "Eq. 12's c²K": x.cost,
                "noise over c²K": interval_text(x.ratio, x.ratio_low, x.ratio_high),
            }
        )
    return pd.DataFrame(rows)


def wins(found: pd.DataFrame, among: str) -> str:
    """A sentence: which partition of those that `among` names has the smallest error at which noises (`winners`)."""
    parts = []
    for _, part in found.groupby((found.partition != found.partition.shift()).cumsum()):
        first, last = part.c.iloc[0], part.c.iloc[-1]
        where = f"c = {first:g}" if len(part) == 1 else f"c = {first:g} to {last:g}"
        unclear = [f"{x.c:g} ({PARTITIONS[x.next]})" for x in part.itertuples() if not x.clear]
        but = f", not clearly before the next one at {', '.join(unclear)}" if unclear else ""
        parts.append(f"{PARTITIONS[part.partition.iloc[0]]} at {where}{but}")
    return f"Smallest error among {among}: {'; '.join(parts)}."


def noise_term(numbers: pd.DataFrame) -> str:
    """A sentence: how the measured noise compares with Eq. 12's c^2 K, from `summed` at all noises."""
    mean, last = (numbers[numbers.reads == reads] for reads in ("mean", "last"))
    blind, own = mean[~mean.partition.isin(SEE_THE_NOISE)], mean[mean.partition.isin(SEE_THE_NOISE)]
    seen = last[last.partition.isin(SEE_THE_NOISE)]
    coarse = last[~last.partition.isin((*SEE_THE_NOISE, "token"))]
    return (
        f"Noise over c²K: read as means, {blind.ratio.min():.2f} to {blind.ratio.max():.2f} for partitions that do not "
        f"look at the noise, and up to {own.ratio.max():.2f} for those cut from the noisy rewards; read at the last "
        f"token, {coarse.ratio.min():.2f} and more for partitions that do not look at it and are coarser than tokens, "
        f"and {seen.ratio.min():.2f} to {seen.ratio.max():.2f} for those cut from the noisy rewards."
    )


def learned(numbers: pd.DataFrame, found: dict[str, float]) -> str:
    """A sentence on a scorer's own error: `summed` of it, and what `decomposition.calibrated` said."""
    ratio = numbers[numbers.reads == "mean"].set_index("partition").ratio
    return (
        f"On the best line to the truth the scores explain {found['r2']:.1%} of its variance over tokens. What is left "
        f"correlates by {found['correlation']:.2f} between neighbouring tokens, so averaged over true spans "
        f"{ratio['spans']:.1f} times Eq. 12's c²K remain."
    )
