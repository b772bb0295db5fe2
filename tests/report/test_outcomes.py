"""What would break: a method that is said to be ahead, or early, on a curve that does not say so."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from report import controlled, outcomes
from study import summary
from study.stats import detectable


def run(method: str, seed: int, curve, end: float = 0.0, **columns) -> dict:
    rows = [{"true_return": x, "kl": 0.5 * i} for i, x in enumerate(curve)]
    rows = [row | {name: told[i] for name, told in columns.items()} for i, row in enumerate(rows)]
    profile = {"rollouts": 64}
    return {
        "method": method,
        "seed": seed,
        "final": {"true_return": end},
        "params": {"profile": profile},
        "curves": rows,
    }


RISE = [0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 0.0, 0.0]  # smoothed over 3, from row 2: 0, 1, 2, 3, 2, 1


def test_each_outcome_is_read_off_the_curve_by_hand():
    found = outcomes.outcomes(run("bandit", 0, RISE, end=-1.0), kl=2.0, level=2.0)
    assert found == {
        "at_end": -1.0,
        "at_kl": pytest.approx(3.0),  # KL, smoothed, is 2 at row 5
        "selected": None,
        "area": pytest.approx(9 / 8),
        "rollouts_to": 5 * 64,
    }


def test_a_run_that_collapses_is_selected_at_its_best_by_a_proxy_that_sees_it_and_at_its_end_by_one_that_is_hacked():
    seeing = run("bandit", 0, RISE, heldout_proxy=[2 * x - 1 for x in RISE])
    hacked = run("bandit", 0, RISE, heldout_proxy=list(range(8)))
    assert outcomes.outcomes(seeing)["selected"] == pytest.approx(3.0)
    assert outcomes.outcomes(hacked)["selected"] == pytest.approx(1.0)


def test_one_lucky_batch_of_the_held_out_proxy_selects_nothing():
    """Unsmoothed, row 0 would win."""
    lucky = run("bandit", 0, [-9.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0], heldout_proxy=[4.0, 0, 0, 0, 3.0, 3.0, 3.0])
    assert outcomes.outcomes(lucky)["selected"] == pytest.approx(2.0)


def test_a_held_out_proxy_of_other_length_or_scale_selects_the_same():
    proxy = np.random.default_rng(0).normal(size=8)
    picked = [outcomes.outcomes(run("b", 0, RISE, heldout_proxy=list(a * proxy + 7)))["selected"] for a in (1, 9)]
    assert picked[0] == picked[1]


def test_batches_without_a_held_out_score_are_passed_over():
    gaps = [None, 9.0, None, 0.0, 1.0, 2.0, None, 9.0]
    assert outcomes.outcomes(run("b", 0, RISE, heldout_proxy=gaps))["selected"] == pytest.approx(3.0)  # rows 3 to 5
    assert outcomes.outcomes(run("b", 0, RISE, heldout_proxy=[None] * 8))["selected"] is None


def test_answers_are_counted_as_a_record_counts_them():
    """ReMax samples a greedy answer beside each: by batches it would look twice as fast as it is."""
    remax = run("remax", 0, RISE, responses=[128] * 8)
    assert outcomes.outcomes(remax, level=2.0)["rollouts_to"] == 5 * 128
    uneven = run("remax", 0, [0.0, 4.0], responses=[30, 10])
    assert outcomes.outcomes(uneven)["area"] == pytest.approx(1.0)


def test_batches_without_a_true_return_are_no_part_of_the_area():
    gaps = run("b", 0, [None, 2.0, None, 4.0], responses=[90, 10, 90, 30])
    assert outcomes.outcomes(gaps)["area"] == pytest.approx((10 * 2 + 30 * 4) / 40)


def test_a_run_without_curves_or_without_truth_has_what_it_has():
    bare = {"method": "dpo", "seed": 0, "final": {"true_return": 1.0}, "params": {}}
    told = {"at_end": 1.0, "at_kl": None, "selected": None, "area": None, "rollouts_to": None}
    assert outcomes.outcomes(bare) == told
    text = {"method": "bandit", "seed": 0, "final": {}, "params": {}, "curves": [{"kl": 0.1, "heldout_proxy": 2.0}]}
    assert set(outcomes.outcomes(text).values()) == {None}
    short = outcomes.outcomes(run("bandit", 0, [5.0, 5.0], heldout_proxy=[1.0, 1.0]))
    assert (short["rollouts_to"], short["selected"], short["at_kl"], short["area"]) == (None, None, None, 5.0)


def test_at_kl_is_the_one_way_that_the_project_has():
    record = run("bandit", 0, RISE)
    assert outcomes.outcomes(record, kl=1.3)["at_kl"] == controlled.return_at_kl(record, 1.3)


def frame(**ends) -> pd.DataFrame:
    return outcomes.of_runs([run(m, s, RISE, end=x) for m, column in ends.items() for s, x in enumerate(column)])


TEN = np.random.default_rng(5).normal(2, 0.2, 10)


def test_a_comparison_equals_scipy_and_counts_its_own_family():
    shift = np.random.default_rng(6).normal(0.3, 0.2, (3, 10))
    ends = {"bandit": TEN, "segment": TEN + shift[0], "token": TEN - shift[1], "tlcr": (TEN + shift[2] / 3)[:7]}
    found = outcomes.compared(frame(**ends), "bandit").set_index("method")
    assert list(found.index) == ["bandit", "token", "segment", "tlcr"]  # as methods.py lists them
    for m in ("segment", "token", "tlcr"):
        gaps = ends[m] - TEN[: len(ends[m])]
        assert found.p[m] == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue)
        assert found.difference[m] == pytest.approx(gaps.mean()) and found.pairs[m] == len(gaps)
        assert found.better[m] == pytest.approx((gaps > 0).mean())
        assert found.above[m] == pytest.approx(stats.mannwhitneyu(ends[m], TEN).statistic / len(TEN) / len(gaps))
    p = sorted(found.p.dropna())
    assert sorted(found.holm.dropna()) == pytest.approx([3 * p[0], max(3 * p[0], 2 * p[1]), max(2 * p[1], p[2])])
    assert found.loc["bandit", ["p", "holm", "difference", "mde", "better"]].isna().all()
    assert found.iqm_low["segment"] < found.iqm["segment"] < found.iqm_high["segment"]
    assert np.isnan(found.iqm_low["tlcr"]) and np.isnan(found.better_low["tlcr"]), "7 seeds have no bootstrap"
    pd.testing.assert_frame_equal(found.reset_index(), outcomes.compared(frame(**ends), "bandit"))


def test_what_could_be_seen_rests_on_the_seeds_that_are_compared():
    """A method of six seeds against a baseline of four: four pairs."""
    more = np.array([0.5, 0.1, 0.4, 0.3, 9.0, -9.0])
    found = outcomes.compared(frame(bandit=np.zeros(4), segment=more), "bandit").set_index("method")
    assert found.pairs["segment"] == 4 and found.seeds["segment"] == 6
    assert found.mde["segment"] == pytest.approx(detectable(more[:4].std(ddof=1), 4))


def test_the_table_says_in_words_what_was_compared_and_nothing_of_the_rest():
    told = outcomes.table(frame(bandit=TEN, segment=TEN + 1, token=[3.0]), "bandit").set_index("method")
    row = told.loc["Segment (entropy)"]
    assert row["less Bandit (sequence) (t)"].startswith("1.00 [1.00") and row["p (Holm)"] == "<0.001"
    assert row["p (sign flips)"] == "0.002" and row["P(above, same seed)"] == "1.00 [1.00, 1.00]"
    assert told.loc["Token", "mean (t)"] == "3.00" and pd.isna(told.loc["Token", "p (Holm)"])
    assert told.loc["Bandit (sequence)", ["p (Holm)", "smallest effect seen"]].isna().all()
    assert len(outcomes.table(frame(bandit=TEN), "bandit", "selected")) == 0


def test_thirteen_seeds_are_compared_without_sign_flips():
    found = outcomes.compared(frame(bandit=np.arange(13.0), segment=np.arange(13.0) ** 2), "bandit")
    assert np.isnan(found.flips[1]) and found.p[1] < 0.05


def test_a_seed_that_never_gets_there_counts_as_longest_and_not_as_missing():
    """Left out, a method that collapses on most seeds would be the fastest."""
    flat = [0.0] * 8
    late = [0.0, 0.0, 0.0, 0.0, 0.0, 6.0, 6.0, 6.0]
    soon = [2 * x for x in RISE]
    curves = {"bandit": [late, late, late], "segment": [soon, flat, flat], "token": [soon, soon, flat]}
    runs = [run(m, s, curve) for m, all_ in curves.items() for s, curve in enumerate(all_)]
    runs.append({"method": "dpo", "seed": 0, "final": {"true_return": 1.0}, "params": {}})
    back = {head: name for name, head in outcomes.REACHED.items()}
    found = outcomes.reached(outcomes.of_runs(runs), "bandit").set_index("method").rename(columns=back)
    assert found["reached"].to_dict() == {"Bandit (sequence)": 3, "Token": 2, "Segment (entropy)": 1}
    assert list(found["median"]) == ["448", "320", "never"]
    assert list(found["sooner"][1:]) == ["0.67", "0.33"] and pd.isna(found["sooner"].iloc[0])
    both = [run(m, 0, flat) for m in ("bandit", "segment")]
    assert outcomes.reached(outcomes.of_runs(both), "bandit").iloc[1, -1] == "0.50"


def test_a_run_that_never_gets_there_is_later_than_all_it_sampled():
    never, soon = run("segment", 0, [0.0] * 8), run("bandit", 0, [2 * x for x in RISE])
    assert outcomes.rollouts_at_least(never) == 8 * 64 + 1 > outcomes.rollouts_at_least(soon) == 320
    assert outcomes.rollouts_at_least({"method": "dpo", "final": {"true_return": 1.0}, "params": {}}) is None


def test_a_run_that_occurs_twice_is_named():
    with pytest.raises(ValueError, match="segment has two records of seed 0"):
        outcomes.of_runs([run("segment", 0, RISE)] * 2)
    assert len(outcomes.of_runs([])) == 0 == len(outcomes.compared(outcomes.of_runs([]), "bandit"))


def test_a_checkpoint_that_a_proxy_chooses_is_set_beside_the_end_and_the_baselines_by_hand():
    ends, proxy = {"bandit": (1.0, 2.0), "segment": (-4.0, -6.0)}, {"heldout_proxy": RISE}
    scored = [run(m, seed, RISE, x, **proxy) for m, of in ends.items() for seed, x in enumerate(of)]
    frame = outcomes.of_runs([*scored, run("token", 0, RISE, 9.0)])  # token: no proxy scored it, so it is no line
    told = outcomes.chosen(frame, "bandit").set_index("method")
    assert list(told.index) == [summary.label("bandit"), summary.label("segment")]
    line = told.loc[summary.label("segment")]
    assert line["chosen by the proxy"] == "3.00 (3.00 to 3.00)" and line["at the end"] == "-5.00 (-6.00 to -4.00)"
    assert line["gained by choosing"] == "8.00 (7.00 to 9.00)"
    assert line[f"less {summary.label('bandit')}"] == "0.00 (0.00 to 0.00)"


def test_ends_that_reading_a_proxy_has_changed_are_told():
    read, core = ([run("bandit", seed, RISE, seed + shift) for seed in range(3)] for shift in (0.25, 0.0))
    told = outcomes.apart(outcomes.of_runs(read), outcomes.of_runs(core[1:]))
    assert dict(told) == {("bandit", 1): 0.25, ("bandit", 2): 0.25}, "a run that the others lack is not compared"
