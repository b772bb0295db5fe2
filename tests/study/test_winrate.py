"""Win rates from verdicts: the published numbers of AlpacaEval 2, what controlling for length must and must not do, and
Arena-Hard's scores against counting by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy

from densereward import seeding
from study.measures.winrate import (
    alpaca_preferences,
    arena_hard,
    bradley_terry,
    length_controlled,
    oracle_win_rates,
    win_rate,
)

NUMBERS = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval_numbers"
# win rate, its standard error, length-controlled win rate, and what the leaderboard calls its standard error (one row)
PUBLISHED = {
    "alpaca-7b": (2.591450540223603, 0.4870855382635108, 5.875487163278986, None),
    "phi-2-sft": (3.977567775217392, 0.6098271417287373, 5.853787690603355, None),
    "gpt-3.5-turbo-1106_verbose": (12.76316981026087, 1.044246819212278, 22.00093702171442, None),
    "FuseChat-Llama-3.1-8B-Instruct": (63.33158292362734, 1.4225069834256892, 65.38623116037492, 0.6668876066398686),
}


@pytest.fixture(scope="module")
def gamed():
    if not NUMBERS.exists():
        pytest.skip(f"AlpacaEval's numbers are not at {NUMBERS}")
    return pd.read_csv(NUMBERS / "df_gamed.csv.gz")


def arguments(model: str) -> tuple:
    rows = pd.read_csv(NUMBERS / "preferences_lengths.csv.gz")
    rows = rows[rows.model == model]
    preferences = alpaca_preferences(rows.preference_1_baseline_2_model)
    return preferences, rows.len_chars_output_2, rows.len_chars_output_1, rows.baseline_output_index


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_win_rates_come_out_offline(model, gamed):
    raw, raw_error, controlled, published_error = PUBLISHED[model]
    found = win_rate(arguments(model)[0])
    assert found.rate == pytest.approx(raw, abs=1e-6) and found.standard_error == pytest.approx(raw_error, abs=1e-6)
    assert found.wins + found.losses + found.draws == 805 and found.unreadable == 0
    ours = length_controlled(*arguments(model), gamed, resamples=0)
    assert ours.rate == pytest.approx(controlled, abs=0.01)
    if published_error:
        assert ours.published_error == pytest.approx(published_error, abs=0.001)


def test_the_order_of_rows_changes_nothing(gamed):
    given = arguments("phi-2-sft")
    order = seeding.rng(0, "order").permutation(805)
    mixed = [np.asarray(column)[order] for column in given]
    shuffled = gamed.sample(frac=1, random_state=0)
    assert length_controlled(*mixed, shuffled, resamples=2) == length_controlled(*given, gamed, resamples=2)


def test_the_bootstrap_is_of_its_seed_and_knows_more_than_the_spread_of_predictions(gamed):
    given = arguments("FuseChat-Llama-3.1-8B-Instruct")
    one, again, other = (length_controlled(*given, gamed, seed=seed, resamples=30) for seed in (0, 0, 1))
    assert one == again and one.standard_error != other.standard_error and one.rate == other.rate
    assert one.standard_error > 1.5 * one.published_error


def written(n: int, quality: float, for_length: float, longer: float) -> tuple:
    """Preferences of a judge who likes quality and length, of a model that writes `longer` characters more."""
    rng = seeding.rng(0, "judge", n)
    baseline = rng.integers(500, 2000, n)
    lengths = baseline + longer + rng.normal(0, 300, n)
    spread = (lengths - baseline).std(ddof=1)
    preferences = scipy.special.expit(quality + for_length * np.tanh((lengths - baseline) / spread))
    return preferences, lengths, baseline, range(n)


@pytest.mark.parametrize("side", [0.0, 1.0])
def test_a_model_that_never_or_always_wins_is_not_at_one_half(side):
    found = length_controlled([side] * 50, range(100, 150), [90] * 50, range(50))
    assert found.rate == 100 * side and np.isnan(found.standard_error)


def test_a_verbose_model_of_the_same_quality_is_corrected():
    given = written(400, 0.0, 1.5, 200.0)
    assert win_rate(given[0]).rate > 60
    assert length_controlled(*given, resamples=0).rate == pytest.approx(50, abs=0.5)
    better = written(400, 1.0, 1.5, -200.0)
    assert win_rate(better[0]).rate < length_controlled(*better, resamples=0).rate
    assert length_controlled(*better, resamples=0).rate == pytest.approx(100 * scipy.special.expit(1), abs=0.5)


def test_a_model_that_is_judged_equal_has_half(gamed):
    equal = [0.5] * 40, range(100, 140), range(200, 240), range(40)
    assert win_rate(equal[0]) == (50, 0, 0, 0, 40, 0)
    assert length_controlled(*equal, resamples=0).rate == 50
    # the two answers of each instruction change places with their lengths: what is won is what is lost
    preferences, lengths, baseline, names = written(400, 0.0, 1.0, 0.0)
    half = (
        np.r_[preferences, 1 - preferences],
        np.r_[lengths, baseline],
        np.r_[baseline, lengths],
        [f"{i:03d} {side}" for side in "ab" for i in names],
    )
    assert length_controlled(*half, resamples=0).rate == pytest.approx(50, abs=1e-6)
    _, shorter, baseline, names = arguments("alpaca-7b")
    assert length_controlled(np.full(805, 0.5), baseline, baseline, names, gamed, resamples=0).rate == pytest.approx(
        50, abs=0.01
    )
    # a shorter answer that is judged equal all the same is the better one at equal length
    assert length_controlled(np.full(805, 0.5), shorter, baseline, names, gamed, resamples=0).rate > 60


def test_unreadable_is_no_draw_and_bad_verdicts_are_named():
    assert win_rate([1, np.nan, 0, 1]) == win_rate([1, 0, 1])._replace(unreadable=1)
    assert np.isnan(alpaca_preferences([None, 1.5, 0, 1, 2])[0])
    assert list(alpaca_preferences([1.5, 0, 1, 2])) == [0.5, 0.5, 0, 1]
    with pytest.raises(ValueError, match=r"row 1 holds 3; an AlpacaEval preference is 0 or 1..2"):
        alpaca_preferences([1, 3])
    with pytest.raises(ValueError, match="none of 2 verdicts is readable"):
        win_rate([np.nan, np.nan])
    with pytest.raises(ValueError, match="instruction 'x' is there twice"):
        length_controlled([1, 0], [1, 2], [2, 1], ["x", "x"])
    with pytest.raises(ValueError, match="unequal length"):
        length_controlled([1, 0], [1], [2, 1], ["x", "y"])


# --- Arena-Hard ------------------------------------------------------------------------------------------------------


def battles(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["prompt", "model_a", "model_b", "verdict"])


def test_against_one_baseline_the_score_is_the_weighed_share_of_games():
    games = battles(
        [
            (1, "base", "m", "A>>B"),
            (1, "m", "base", "A>B"),
            (2, "base", "m", "A=B"),
            (2, "m", "base", None),
            (3, "base", "m", "B>A"),
            (3, "base", "n", "B>>A"),
            (4, "n", "base", "A=B"),
        ]
    )
    scores = bradley_terry(games, "base")
    assert scores["m"] == pytest.approx(100 * 2.5 / 6, abs=1e-4) and scores["base"] == 50
    assert scores["n"] == pytest.approx(100 * 3.5 / 4, abs=1e-4)
    table = arena_hard(games, "base", resamples=50)
    assert list(table.loc["m", ["games", "unreadable"]]) == [4, 1]
    assert (table.low <= table.score).all() and (table.score <= table.high).all()
    pd.testing.assert_frame_equal(table, arena_hard(games.sample(frac=1, random_state=0), "base", resamples=50))


def test_models_that_met_each_other_share_one_scale():
    """Games drawn from known strengths: the fit is between them, as any model's games bear on all."""
    strengths = {"base": 0.0, "m": 1.0, "n": -1.0}
    rng, rows = seeding.rng(0, "games"), []
    for prompt in range(3000):
        one, other = rng.choice(list(strengths), 2, replace=False)
        won = rng.random() < scipy.special.expit(strengths[one] - strengths[other])
        rows.append((prompt, one, other, "A>B" if won else "B>A"))
    scores = bradley_terry(battles(rows), "base")
    for model, strength in strengths.items():
        assert scores[model] == pytest.approx(100 * scipy.special.expit(strength), abs=3)


def test_games_of_one_prompt_are_drawn_together():
    """Four copies of every game say nothing new: the interval stays as wide as of one."""
    rows = [(i, "base", "m", "A>B" if i % 3 else "B>A") for i in range(60)]
    once, often = (arena_hard(battles(rows * k), "base", resamples=200).standard_error["m"] for k in (1, 4))
    assert often == pytest.approx(once, rel=1e-3)


def test_what_cannot_be_scored_is_named(gamed):
    with pytest.raises(ValueError, match="'m' has no readable game that ties it to 'base'"):
        bradley_terry(battles([(1, "base", "n", "A>B"), (1, "base", "m", None)]), "base")
    with pytest.raises(ValueError, match=r"verdicts \['A'\] are none of"):
        bradley_terry(battles([(1, "base", "n", "A")]), "base")
    with pytest.raises(ValueError, match="no game of the baseline 'gpt'"):
        bradley_terry(battles([(1, "base", "n", "A>B")]), "gpt")
    with pytest.raises(ValueError, match="instruction 805 has no difficulty"):
        length_controlled([1, 0], [1, 2], [2, 1], [0, 805], gamed, resamples=0)


# --- the testbed -----------------------------------------------------------------------------------------------------


def record(returns, lengths) -> dict:
    return {"final": {"answers": {"true_return": list(returns), "length": list(lengths)}}}


def test_the_oracle_gives_the_same_two_rates():
    """Returns rise with length in both policies alike, and one of them writes longer."""
    rng = seeding.rng(0, "oracle")
    short, long = rng.integers(5, 30, 400), rng.integers(5, 30, 400) + 8
    ours, theirs = record(long + rng.normal(0, 5, 400), long), record(short + rng.normal(0, 5, 400), short)
    raw, controlled = oracle_win_rates(ours, theirs, resamples=20)
    counted = np.mean(np.array(ours["final"]["answers"]["true_return"]) > theirs["final"]["answers"]["true_return"])
    assert raw.rate == pytest.approx(100 * counted) and raw.rate > 60
    assert abs(controlled.rate - 50) < 5 and controlled.standard_error > 1
    same = record([1, 2, 3], [4, 5, 6])
    raw, controlled = oracle_win_rates(same, same, resamples=0)
    assert (raw.rate, raw.draws, controlled.rate) == (50, 3, 50)
    with pytest.raises(ValueError, match="only runs on the testbed have an oracle"):
        oracle_win_rates(same, {"final": {"answers": {"length": [1]}}})
    with pytest.raises(ValueError, match="different numbers of prompts"):
        oracle_win_rates(same, record([1], [1]))
