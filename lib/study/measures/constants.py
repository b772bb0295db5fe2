"""The constant per segment: what PPO is paid for one more segment, under each way to normalise and correct.

A Bradley-Terry model of the mean over segments cannot see a constant added to every segment's score, and PPO adds the
scores up: what stands above zero per segment is a wage for length. It is measured on answers of known worth, in three
ways: the mean reward of a segment; the slope of an answer's total on its number of segments at equal true return; and
the change of the total when a clause is added. Totals are in standard deviations of the totals of reference answers,
as PPO whitens its advantages. Segments are counted as the row `segment` cuts them, for every row alike.

Left out: what a policy makes of it, which the records of trained policies hold.
"""

import numpy as np
import pandas as pd

from densereward.reward import rewards
from study.measures.answer_rewards import Payer
from study.stats import bootstrap_ci
from study.summary import contrasts, interval_text, label
from study.words import TRUTH

VARIANTS = (  # rows of methods.py: granularities, then the segment row with one part changed
    "bandit", "token", "segment", "interpolation-none", "interpolation-repeat", "normaliser-none", "normaliser-global",
    "normaliser-last", "sum", "centred", "cost", "segment-min", "token-min",
)  # fmt: skip
TRAINED = {  # what records hold of policies that were trained on them: dotted name, axis label
    "final.length": "length\n(tokens)",
    "final.repetition": "repetitions\n(spans per answer)",
    "final.kl": "KL to SFT\n(nats per answer)",
    "final.true_return": "true return\n(credit)",
}
NO_SUM = ("bandit", "centred")  # their totals are no sum over segments, so that no segment has a share
RESAMPLES = 1_000


def shifted(payer: Payer) -> float:
    """What a segment is paid in addition, on average, when the scorer's constant rises by one deviation of its scores
    and the normaliser is fitted anew; in deviations of the normalised scores. The loss of a mean cannot tell the two
    scorers apart."""
    row, _, _, normaliser, scores, mask = payer
    moved = scores + scores[mask].std() * mask
    again = rewards.fit_normaliser(scores=moved, segment_mask=mask, **row.normaliser)
    z = [rewards.normalise(s, mask, n) for s, n in ((scores, normaliser), (moved, again))]
    before, after = (rewards.correct(x, mask, **row.correction) for x in z)
    return float((after - before)[mask].mean() / z[0][mask].std())


def slope(y, x, controls, draw: np.random.Generator) -> tuple[float, float, float]:
    """(slope, low, high) of y [N] on x [N] by ordinary least squares with an intercept and `controls` [K, N]; 95%
    percentile bootstrap over the N answers. Random: `draw`."""
    y, X = np.asarray(y, float), np.column_stack([x, np.ones(len(y)), *controls])
    weights = resamples(len(y), draw)
    left = np.einsum("rn,ni,nj->rij", weights, X, X, optimize=True)
    right = weights @ (X * y[:, None])
    return estimate((np.linalg.pinv(left, hermitian=True) @ right[..., None])[:, 0, 0])


def wages(totals: pd.DataFrame, true_return, draw: np.random.Generator) -> pd.DataFrame:
    """Of each payer, in deviations of its totals [N], each with low and high (95% bootstrap over answers): `each`, the
    mean reward of a segment (nan for NO_SUM); `best`, that of the quarter of answers with the highest true return;
    `slope`, the reward for one more segment at equal true return. On real text (true_return None) there is no `best`,
    and nothing is held equal. Random: `draw`."""
    segments, rows = totals["segments"], []
    groups = {"each": segments > 0}
    if true_return is not None:
        groups["best"] = true_return >= np.quantile(true_return, 0.75)
    for name in totals.columns.drop("segments"):
        row, y = {"method": name}, totals[name] / totals[name].std()
        for group, chosen in groups.items() if name not in NO_SUM else ():
            weights = resamples(chosen.sum(), draw)
            means = (weights @ y[chosen].to_numpy()) / (weights @ segments[chosen].to_numpy())
            row |= dict(zip((group, f"{group}_low", f"{group}_high"), estimate(means)))
        found = slope(y, segments, [] if true_return is None else [true_return], draw)
        rows.append(row | dict(zip(("slope", "slope_low", "slope_high"), found)))
    return pd.DataFrame(rows)


def gains(before: pd.DataFrame, after: pd.DataFrame, edits: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """Change of the total when a clause is added: mean over answers, low, high (95% bootstrap), n, and how many
    segments are added, for each method and edit. `after` are the totals of `edits` (answer, edit), where the edit "" is
    the answer as it was; in deviations of the totals `before` of reference answers. Random: `draw`."""
    plain = after[edits.edit == ""].set_index(edits.answer[edits.edit == ""])
    rows = []
    for edit, index in edits[edits.edit != ""].groupby("edit", sort=False).groups.items():
        change = after.loc[index] - plain.loc[edits.answer[index]].to_numpy()
        for name in change.columns.drop("segments"):
            found = interval(change[name] / before[name].std(), draw)
            rows.append({"method": name, "edit": edit, **found, "segments": change.segments.mean()})
    return pd.DataFrame(rows)


def further(before: pd.DataFrame, after: pd.DataFrame, loops: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """Change of the total with the k-th repeat (`loops.edit`, 1 and above) over the answer with one fewer: mean over
    answers, low, high (95% bootstrap), n, for each method and k; units as in `gains`. Random: `draw`."""
    change = after.groupby(loops.answer).diff() / before.std()  # rows of an answer lie in the order of their repeats
    return _over_answers(change.drop(columns="segments")[loops.edit > 0], loops.edit[loops.edit > 0], draw)


def within(usual: pd.DataFrame, looped: pd.DataFrame, loops: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """What the tokens of the k-th repeat are paid in the answer with the most repeats; k = 0 is the item's first
    mention. Standardised: 0 and 1 are mean and deviation over the spans of reference answers (`usual`). Mean over
    answers, low, high (95% bootstrap), n, for each method and k. Random: `draw`."""
    at = looped.answer.map(loops.edit) == loops.edit.max()
    rows, values = looped[at], looped[at].drop(columns=["answer", "span"])
    k = rows.span - rows.answer.map(loops.behind) + 1
    k = k.mask(rows.span == rows.answer.map(loops["first"]), 0)
    keep = k.between(0, loops.edit.max()) & ((k > 0) | (rows.span == rows.answer.map(loops["first"])))
    usual = usual[values.columns]
    return _over_answers(((values - usual.mean()) / usual.std())[keep], k[keep], draw)


def wage_table(wages: pd.DataFrame) -> pd.DataFrame:
    """`wages` with each number and its interval as text."""
    names = {
        "each": "a segment, all answers",
        "best": "a segment, best quarter",
        "slope": "one more segment" + " at equal true return" * ("best" in wages),
    }
    rows = []
    for _, row in wages.iterrows():
        cells = {text: row[[c, f"{c}_low", f"{c}_high"]] for c, text in names.items() if c in wages}
        texts = {text: interval_text(*x, 3) if x.notna().all() else None for text, x in cells.items()}
        rows.append({"method": label(row["method"])} | texts)
    return pd.DataFrame(rows)


def foretold(wages: pd.DataFrame, runs: list[dict]) -> pd.DataFrame:
    """What a segment of a good answer earns under each row (`wages`, measured on answers), beside what policies that
    were trained on it repeat (spans per answer, mean over `seeds`) and return; rows that have both."""
    rows = []
    for row in wages.dropna(subset="best").itertuples():
        ended = [r["final"] for r in runs if r["method"] == row.method]
        if ended:
            means = {name: float(np.mean([x[name] for x in ended])) for name in ("repetition", "true_return")}
            rows.append({"method": row.method, "wage": row.best, "low": row.best_low, "high": row.best_high} | means)
            rows[-1]["seeds"] = len(ended)
    return pd.DataFrame(rows, columns=["method", "wage", "low", "high", "repetition", "true_return", "seeds"])


def against(runs: list[dict], base: str = "segment") -> pd.DataFrame:
    """Records of trained policies: each variant less `base`, paired by seed, with 95% t intervals, of what TRAINED
    names; empty where no two can be paired."""
    frames = []
    for name, text in TRAINED.items():
        found = contrasts(runs, name, base).set_index(["method", "seeds"])
        texts = [interval_text(x.difference, x.low, x.high, seeds=x.Index[1]) for x in found.itertuples()]
        head = " ".join(text.split()).replace(" (", f" less {label(base).split(' (')[0]}'s (")
        frames.append(pd.Series(texts, index=found.index, name=head, dtype=object))
    return pd.concat(frames, axis=1).reset_index()


def signs(numbers: pd.DataFrame, what: str) -> str:
    """A sentence: which methods (with low and high of what they pay) pay for `what`, which charge for it, and where the
    interval holds zero."""
    rows = numbers[(numbers.method != TRUTH) & numbers.low.notna()]
    groups = {
        "is paid for under": rows.low > 0,
        "is charged for under": rows.high < 0,
        "has an interval that holds zero under": (rows.low <= 0) & (rows.high >= 0),
    }
    found = {words: ", ".join(map(label, rows.method[chosen])) for words, chosen in groups.items() if chosen.any()}
    return f"{what} {'; it '.join(f'{words} {names}' for words, names in found.items())}."


def blocked(numbers: pd.DataFrame) -> str:
    """A sentence on segment-ppo's Figure 2, from `within`: how many repeats are paid below and above the mean span, and
    whether segment rewards are consistently low where token rewards are not."""
    counts, words = {}, []
    for name in ("segment", "token"):
        rows = numbers[(numbers.method == name) & (numbers.k > 0)]
        counts[name] = int((rows.high < 0).sum()), int((rows.low > 0).sum()), len(rows)
        below, above, every = counts[name]
        words.append(f"{label(name)}: of {every} repeats {below} are paid less than the mean span and {above} more")
    (low, _, every), (_, high, _) = counts["segment"], counts["token"]
    verdict = "holds" if low == every and high else "does not hold"
    return f"{'. '.join(words)}. That segments make repeats cheap where tokens reward them {verdict} here."


def _over_answers(values: pd.DataFrame, k: pd.Series, draw: np.random.Generator) -> pd.DataFrame:
    groups = values.groupby(k)
    rows = [{"method": m, "k": int(i), **interval(part[m], draw)} for m in values for i, part in groups]
    return pd.DataFrame(rows)


def interval(values, draw: np.random.Generator) -> dict:
    """mean, low, high (95% bootstrap; nan for fewer than ten values), n."""
    low, high = bootstrap_ci(values, draw, n=RESAMPLES) if len(values) >= 10 else (np.nan, np.nan)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def resamples(n: int, draw: np.random.Generator) -> np.ndarray:
    """Weights [1 + RESAMPLES, n] of n answers: each once, then how often each resample has it. Random: `draw`."""
    return np.vstack([np.ones(n), draw.multinomial(n, np.full(n, 1 / n), RESAMPLES)])


def estimate(values: np.ndarray) -> tuple[float, float, float]:
    """(value, low, high) of what `resamples` made: the first, and the 95% percentile interval of the others."""
    return float(values[0]), *map(float, np.nanquantile(values[1:], (0.025, 0.975)))
