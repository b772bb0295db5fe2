"""Win rates of the leaderboards that the papers report, from verdicts: AlpacaEval 2's raw and length-controlled
one, Arena-Hard's Bradley-Terry score.

The length-controlled rate follows Dubois et al. 2024 (arXiv 2404.04475) as its released code fits it: a logistic
regression without intercept of the preference on tanh of the length difference over its standard deviation, the
instruction's difficulty, and the model's identity; L1, its strength by five-fold cross-validation; two rewritings of
the baseline, one verbose and one concise, weigh 0.2 of one model and keep the length's coefficient in place. The rate
is what the fit predicts where no answer is longer. Two departures, so that the same verdicts have the same number: rows
are dealt to the folds in the order of their instructions, and the fit is solved to 1e-6 where the released one stops at
1e-4, which moves a rate by up to 0.013 points. Another strength of L1, which hangs on the folds, moves it by up to 0.1.

The released code finds an instruction's difficulty by the row's place in the file, wrong after a missing row. Pass
places as instructions for its number, and the baseline's index for the right one (minotaur-13b: 11.47, and 9.10).

Everything is offline: difficulties and rewritings are a table that the caller reads.

Book: judging.md
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
from sklearn.linear_model import LogisticRegression

from densereward import seeding

FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)  # inverse ones, scikit-learn's C
GAMED_WEIGHT = 0.2  # of all rewritings together, against a weight of 1 for the model
STRONG = 3  # games that a strong verdict of Arena-Hard counts for
ARENA_VERDICTS = {"A>>B": (STRONG, 0), "A>B": (1, 0), "A=B": (0.5, 0.5), "B>A": (0, 1), "B>>A": (0, STRONG)}


class WinRate(NamedTuple):
    """Per cent of verdicts for the model, a draw half, and its standard error over instructions; counts."""

    rate: float
    standard_error: float
    wins: int
    losses: int
    draws: int
    unreadable: int


class LengthControlled(NamedTuple):
    """The length-controlled win rate in per cent. `standard_error` is of a bootstrap over instructions that fits anew;
    `published_error` is what AlpacaEval calls so, the spread of the predictions alone, and knows nothing of the fit."""

    rate: float
    standard_error: float
    published_error: float
    coefficients: dict[str, float]  # length, difficulty (where there is one), model
    strength: float  # C


def alpaca_preferences(preferences: Sequence[float]) -> np.ndarray:
    """AlpacaEval's numbers (1 the baseline's answer is better ... 2 the model's, 0 or 1.5 a draw, none unreadable) as
    preferences for the model in 0..1, nan where unreadable, [N]. Raises ValueError for anything else."""
    found = pd.to_numeric(pd.Series(list(preferences), dtype=object)).to_numpy(np.float64)
    found = np.where(found == 0, 1.5, found)
    _within(found, 1, 2, "an AlpacaEval preference is 0 or 1..2")
    return found - 1


def win_rate(preferences: Sequence[float]) -> WinRate:
    """The raw win rate of preferences for the model, [N], in 0..1; nan is unreadable and left out of the mean.

    Raises ValueError for values outside, and where no verdict was readable."""
    preferences = _within(np.asarray(preferences, np.float64), 0, 1, "a preference is within 0..1")
    read = preferences[np.isfinite(preferences)]
    if read.size == 0:
        raise ValueError(f"none of {preferences.size} verdicts is readable; there is no win rate")
    error = read.std(ddof=1) / np.sqrt(read.size) if read.size > 1 else np.nan
    counts = ((read > 0.5).sum(), (read < 0.5).sum(), (read == 0.5).sum(), preferences.size - read.size)
    return WinRate(100 * float(read.mean()), 100 * float(error), *map(int, counts))


def length_controlled(
    preferences: Sequence[float],
    lengths: Sequence[float],
    baseline_lengths: Sequence[float],
    instructions: Sequence,
    gamed: pd.DataFrame | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> LengthControlled:
    """The win rate that a logistic fit predicts for answers as long as the baseline's, see above.

    preferences: for the model, [N] in 0..1, nan where unreadable (left out of the fit, predicted all the same).
    lengths, baseline_lengths: of the model's and the baseline's answers, [N], AlpacaEval's in characters.
    instructions: names of the N instructions, each once. gamed: AlpacaEval's table of rewritings (preference, index,
    std_delta_len, instruction_difficulty), whose `index` names every instruction; without one there is neither
    difficulty nor a rewriting, as on the testbed. resamples: of the bootstrap, 0 for none (its error is nan).
    Where all verdicts are for one side, and without rewritings, the rate is 0 or 100, and its errors are nan.

    Raises ValueError for unequal lengths, an instruction given twice or without a difficulty, and no readable verdict.
    """
    rows = _rows(preferences, lengths, baseline_lengths, instructions, gamed)
    names = ["length"] + ["difficulty"] * (gamed is not None) + ["model"]
    fixed, fixed_target = _gamed_design(gamed)
    read = rows.preference.notna().to_numpy()
    if not read.any():
        raise ValueError(f"none of {len(rows)} verdicts is readable; there is no win rate")

    sides = rows.preference[read].unique()
    if gamed is None and len(sides) == 1 and sides[0] in (0, 1):  # no finite coefficients fit; liblinear would say 50
        return LengthControlled(100 * float(sides[0]), np.nan, np.nan, dict.fromkeys(names, np.nan), np.nan)

    def fit(rows: pd.DataFrame, strength: float | None) -> tuple[np.ndarray, np.ndarray, float]:
        """(predictions at equal lengths [N], coefficients [F], strength)"""
        design = _design(rows, gamed is not None)  # [N, F]
        read = rows.preference.notna().to_numpy()
        x = np.concatenate([fixed, design[read]])
        y = np.concatenate([fixed_target, rows.preference[read]])
        weight = np.concatenate([np.full(len(fixed), GAMED_WEIGHT / 2), np.ones(read.sum())])
        strength = _strength(x, y, weight) if strength is None else strength
        found = _coefficients(x, y, weight, strength)
        return scipy.special.expit(design[:, 1:] @ found[1:]), found, strength

    predicted, found, strength = fit(rows, None)
    generator = seeding.rng(seed, "length-controlled")
    drawn = []
    for _ in range(resamples):
        again = rows.iloc[generator.integers(len(rows), size=len(rows))]
        if again.preference.notna().any():
            drawn.append(fit(again, strength)[0].mean())
    return LengthControlled(
        100 * float(predicted.mean()),
        100 * float(np.std(drawn, ddof=1)) if len(drawn) > 1 else float("nan"),
        100 * float(predicted.std(ddof=1) / np.sqrt(len(predicted))) if len(predicted) > 1 else float("nan"),
        dict(zip(names, map(float, found))),
        strength,
    )


def oracle_win_rates(
    record: dict, baseline: dict, seed: int = 0, resamples: int = 200
) -> tuple[WinRate, LengthControlled]:
    """The same two rates on the testbed, with the oracle for a judge: of `final.answers` of two records (true
    return and length in tokens of the answers to the same prompts), the one of more true return is preferred, equal
    ones half each. Raises ValueError where a record holds none, or they differ in number."""
    ours, theirs = (r.get("final", {}).get("answers", {}) for r in (record, baseline))
    if not all("true_return" in answers for answers in (ours, theirs)):
        raise ValueError("a record holds no true returns of answers; only runs on the testbed have an oracle")
    if len(ours["true_return"]) != len(theirs["true_return"]):
        raise ValueError("the records hold answers to different numbers of prompts; compare runs with the same prompts")
    preferences = (np.sign(np.subtract(ours["true_return"], theirs["true_return"])) + 1) / 2
    given = preferences, ours["length"], theirs["length"], range(len(preferences))
    return win_rate(preferences), length_controlled(*given, seed=seed, resamples=resamples)


def _rows(preferences, lengths, baseline_lengths, instructions, gamed: pd.DataFrame | None) -> pd.DataFrame:
    """One row per instruction, checked, in the order of their names."""
    columns = {"preference": preferences, "length": lengths, "baseline": baseline_lengths, "instruction": instructions}
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1 or not len(preferences):
        raise ValueError(f"columns of unequal length or none: {sizes}; pass one of each per instruction")
    rows = pd.DataFrame({name: list(values) for name, values in columns.items()})
    rows["preference"] = _within(rows.preference.to_numpy(np.float64), 0, 1, "a preference is within 0..1")
    for name in ("length", "baseline"):
        if not np.isfinite(rows[name].to_numpy(np.float64)).all():
            raise ValueError(f"{name}: a length is missing; give an empty answer the length 0")
    if rows.instruction.duplicated().any():
        raise ValueError(f"instruction {rows.instruction[rows.instruction.duplicated()].iloc[0]!r} is there twice")
    if gamed is not None:
        difficulty = gamed.drop_duplicates("index").set_index("index").instruction_difficulty
        rows["difficulty"] = rows.instruction.map(difficulty).astype(np.float64)
        if rows.difficulty.isna().any():
            missing = rows.instruction[rows.difficulty.isna()].iloc[0]
            raise ValueError(f"instruction {missing} has no difficulty in the table of rewritings; use its index")
    return rows.sort_values("instruction", kind="stable").reset_index(drop=True)


def _design(rows: pd.DataFrame, difficulty: bool) -> np.ndarray:
    """[N, F]: tanh of the standardised length difference (baseline less model), difficulty, one for the model."""
    shorter = (rows.baseline - rows.length).to_numpy(np.float64)
    spread = shorter.std(ddof=1) if len(shorter) > 1 else 0.0
    columns = [np.tanh(shorter / spread) if spread > 0 else np.zeros(len(rows))]
    columns += [rows.difficulty.to_numpy()] if difficulty else []
    return np.column_stack([*columns, np.ones(len(rows))])


def _gamed_design(gamed: pd.DataFrame | None) -> tuple[np.ndarray, np.ndarray]:
    """([M, F], [M]): the rewritings' rows, whose model term is zero, and their preferences."""
    if gamed is None:
        return np.empty((0, 2)), np.empty(0)
    gamed = gamed.sort_values("index", kind="stable").sort_values("model", ascending=False, kind="stable")
    columns = [np.tanh(gamed.std_delta_len), gamed.instruction_difficulty, np.zeros(len(gamed))]
    return np.column_stack(columns), gamed.preference.to_numpy()


def _coefficients(x: np.ndarray, y: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """[F] of the L1 logistic fit of y [N] in 0..1: each row is there as a win with weight y and as a loss with the
    rest. Random is the order of liblinear's coordinates alone."""
    fit = LogisticRegression(
        C=strength,
        l1_ratio=1,
        solver="liblinear",
        fit_intercept=False,
        tol=1e-6,
        max_iter=1000,
        random_state=seeding.derive(0, "liblinear"),
    )
    label = np.repeat([1, 0], len(y))
    return fit.fit(np.tile(x, (2, 1)), label, np.concatenate([weight * y, weight * (1 - y)])).coef_[0]


def _strength(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """The C of least cross-validated log loss; row i is in fold i modulo FOLDS."""
    fold = np.arange(len(y)) % FOLDS
    losses = np.zeros(len(STRENGTHS))
    for held in range(min(FOLDS, len(y))) if len(y) > 1 else ():
        out = fold == held
        for i, strength in enumerate(STRENGTHS):
            score = x[out] @ _coefficients(x[~out], y[~out], weight[~out], strength)
            loss = y[out] * np.logaddexp(0, -score) + (1 - y[out]) * np.logaddexp(0, score)
            losses[i] += (weight[out] * loss).mean()
    return float(STRENGTHS[losses.argmin()])


def bradley_terry(battles: pd.DataFrame, baseline: str) -> pd.Series:
    """Arena-Hard's score by model: per cent of games that a Bradley-Terry fit gives it against the baseline (50).

    battles: columns model_a, model_b, verdict (ARENA_VERDICTS, or None for unreadable, which is left out); a strong
    verdict counts for three games, a draw for half of one to either side (Li et al. 2024, arXiv 2406.11939).
    Raises ValueError for other verdicts and for a model that no game ties to the baseline."""
    models = _models(battles, baseline)
    return pd.Series(_scores(_won(battles, models).sum(0), models, baseline), models, name="score")


def arena_hard(
    battles: pd.DataFrame, baseline: str, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> pd.DataFrame:
    """`bradley_terry` by model with what a bootstrap over prompts says of it: columns score, standard_error, low, high
    (per cent), games and unreadable. A resample draws prompts whole, with all their games, as both orders and all
    models of a prompt are no independent games; the released code draws games.

    battles: `bradley_terry`'s columns and prompt. Raises ValueError as it does."""
    models = _models(battles, baseline)
    won = _won(battles, models)
    table = pd.DataFrame({"score": _scores(won.sum(0), models, baseline)}, models)
    generator, prompts = seeding.rng(seed, "arena-hard"), len(won)
    drawn = np.full((resamples, len(models)), np.nan)
    for i in range(resamples):
        times = np.bincount(generator.integers(prompts, size=prompts), minlength=prompts)
        drawn[i] = _scores(np.tensordot(times, won, 1), models, baseline, strict=False)
    drawn = pd.DataFrame(drawn, columns=models)
    table["standard_error"] = drawn.std(ddof=1)
    table["low"], table["high"] = drawn.quantile((1 - level) / 2), drawn.quantile((1 + level) / 2)
    games = [battles[(battles.model_a == model) | (battles.model_b == model)].verdict for model in models]
    table["games"] = [int(verdicts.notna().sum()) for verdicts in games]
    table["unreadable"] = [int(verdicts.isna().sum()) for verdicts in games]
    return table


def _models(battles: pd.DataFrame, baseline: str) -> list[str]:
    models = sorted({*battles.model_a, *battles.model_b})
    if baseline not in models:
        raise ValueError(f"no game of the baseline {baseline!r}; there are {models}")
    return models


def _won(battles: pd.DataFrame, models: list[str]) -> np.ndarray:
    """[prompts, models, models]: the weighed games of one model against another that it won, prompts in order."""
    read = battles[battles.verdict.notna()]
    unknown = set(read.verdict) - set(ARENA_VERDICTS)
    if unknown:
        raise ValueError(f"verdicts {sorted(unknown)} are none of {list(ARENA_VERDICTS)}; pass None for unreadable")
    prompts = battles.prompt.unique() if "prompt" in battles else [0]
    prompts = {prompt: i for i, prompt in enumerate(sorted(prompts))}
    of = read.prompt.map(prompts).to_numpy(int) if "prompt" in battles else np.zeros(len(read), int)
    place = {model: i for i, model in enumerate(models)}
    one, other = read.model_a.map(place).to_numpy(int), read.model_b.map(place).to_numpy(int)
    weights = np.array([ARENA_VERDICTS[verdict] for verdict in read.verdict], np.float64).reshape(-1, 2)
    won = np.zeros((len(prompts), len(models), len(models)))
    np.add.at(won, (of, one, other), weights[:, 0])
    np.add.at(won, (of, other, one), weights[:, 1])
    return won


def _scores(won: np.ndarray, models: list[str], baseline: str, strict: bool = True) -> np.ndarray:
    """[models] of won [models, models]; for one that no game ties to the baseline ValueError, or nan if not strict."""
    base = models.index(baseline)
    _, part = scipy.sparse.csgraph.connected_components(won + won.T, directed=False)
    tied = part == part[base]
    if strict and not tied.all():
        raise ValueError(f"{models[np.flatnonzero(~tied)[0]]!r} has no readable game that ties it to {baseline!r}")
    pairs = np.argwhere(won > 0)
    counts = won[won > 0] / won.sum() if won.sum() else won[won > 0]
    sides = np.eye(len(models))[pairs]  # [pairs, 2, models]
    free = tied & (np.arange(len(models)) != base)
    x = (sides[:, 0] - sides[:, 1])[:, free]

    def loss(strength: np.ndarray) -> tuple[float, np.ndarray]:
        score = x @ strength
        return counts @ np.logaddexp(0, -score), -(counts * scipy.special.expit(-score)) @ x

    strength = np.zeros(len(models))
    if free.any():
        found = scipy.optimize.minimize(loss, strength[free], jac=True, method="BFGS", options={"gtol": 1e-9})
        strength[free] = found.x
    return np.where(tied, 100 * scipy.special.expit(strength), np.nan)


def _within(values: np.ndarray, low: float, high: float, rule: str) -> np.ndarray:
    wrong = np.flatnonzero((values < low) | (values > high))
    if wrong.size:
        raise ValueError(f"row {wrong[0]} holds {values[wrong[0]]:g}; {rule}, nan where unreadable")
    return values
