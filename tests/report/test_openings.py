"""What notebooks open with is in words; here it is held against the committed records."""

import pandas as pd
import pytest

from report import claims, controls, density_map, foretold, instrument, tables
from study import summary, sweeps
from study.methods import METHODS
from study.records import ROOT, read_records
from study.stats import mean_interval

LEARNED = {"Sentence", "Token", "Bandit as segment", "Segment (entropy)", "TLCR", "APPO", "Random segments"}
TRUTH = {"Oracle, sequence", "Oracle, per span"}


@pytest.fixture(scope="module")
def brief():
    return read_records(ROOT / "data" / "results" / "brief")


def test_most_claims_are_open_and_more_of_the_decided_came_out_opposite_than_held(brief):
    verdicts = claims.tested(claims.joined(tables.alike(brief))).verdict.value_counts()
    assert verdicts[claims.FEW] > verdicts.sum() / 2 and verdicts["opposite"] > verdicts["held"]


def test_the_truth_is_ahead_of_the_bandit_and_nothing_learned_inside_the_answer_is(brief):
    found = summary.contrasts(summary.study(brief)).set_index("method")
    assert (found.low[list(TRUTH)] > 0).all() and (found.low[list(LEARNED)] < 0).all()
    assert found.difference.drop(index="Normaliser: none").idxmin() == "Segment (entropy)", "last of the paper's seven"


def test_two_controls_fail_and_time_is_open_at_one_kind_and_clear_over_four(brief):
    found = controls.tested(instrument.runs(brief)).set_index(["metric", "row", "less"]).verdict
    failed = found[found == "fails"].index.droplevel("less")
    assert list(failed) == [("headroom", "Oracle, per span"), ("fidelity", "TLCR, fixed rewards")]
    assert found["return", "Oracle, per span", "Oracle, sequence"] == "open"
    assert instrument.over_lengths(brief).endswith("5 seeds, above zero in 5.")
    old = controls.tested(instrument.runs(read_records(ROOT / "data" / "results" / "cpu-0.1")))
    old = old.set_index(["metric", "row", "less"]).verdict
    assert found[old.index[old == "fails"]].value_counts().to_dict() == {"holds": 3, "open": 2, "fails": 1}


def test_random_rewards_end_below_where_ppo_started_and_every_learned_row_knows_more_of_credit(brief):
    runs = tables.alike(brief)
    found = controls.tested(runs)
    more = found[(found.metric == "fidelity") & (found.less == "Random rewards")]
    assert len(more) == 10 and set(more.verdict) == {"holds"} and more.difference.idxmin() == more.index[-1]
    assert more.row.iloc[-1] == "TLCR, fixed rewards" and round(more.difference.min(), 2) == 0.16
    start = {r["seed"]: r["final"]["true_return"] for r in runs if r["method"] == "sft"}
    held = foretold.otherwise(brief, {"kl_coef": 0.5})
    for these, nats, gap, half in ((runs, 2.6, -0.75, 0.48), (held, 0.8, 0.05, 0.42)):
        ends = {r["seed"]: r["final"] for r in these if r["method"] == "random-rewards"}
        assert sum(x["kl"] for x in ends.values()) / len(ends) == pytest.approx(nats, abs=0.05) and len(ends) == 10
        mean, low, high = mean_interval([x["true_return"] - start[seed] for seed, x in ends.items()])
        assert (mean, high - mean) == pytest.approx((gap, half), abs=0.005)


def test_a_scorer_of_preferences_knows_a_span_by_what_is_paid_behind_it_and_tlcr_by_what_it_is_paid(brief):
    records = read_records(ROOT / "data" / "results" / "fidelity.jsonl")
    frame = pd.DataFrame([r["parts"] | {"method": r["method"], "seed": r["seed"]} for r in records])
    assert frame[["own", "later", "values"]].sum(axis=1).to_numpy() == pytest.approx(frame.pearson.to_numpy())
    mean = frame.groupby("method").mean()
    learned = [name for name in mean.index if METHODS[name].scorer == "bradley-terry"]
    once = mean.loc[[*learned, "oracle-sequence"]]
    assert len(learned) == 9 and once.own.max() < 0.1 and once.later.min() > 0.25
    assert once.own_pearson[learned].max() < 0.285 and mean.own_pearson[["tlcr", "tlcr-fixed"]].min() > 0.45
    assert mean.own[["tlcr", "tlcr-fixed"]].min() > 2 * once.own[learned].max()
    assert mean.later[["tlcr", "tlcr-fixed"]].max() < mean.later["oracle-dense"]
    deviation = mean.own_deviation
    assert (
        deviation[["tlcr", "tlcr-fixed"]].round(2).tolist() == [0.25] * 2
        and round(deviation["oracle-dense"], 2) == 0.44
    )
    assert mean.loc["random-rewards", ["own", "later", "values"]].abs().max() < 0.05
    assert mean.own["oracle-dense-even"] <= mean.own["oracle-dense"] / 2
    said = pd.DataFrame(
        [(r["method"], r["credit"]["advantages_credit_pearson"]) for r in tables.alike(brief) if "credit" in r]
    )
    assert (said.groupby(0)[1].mean()[mean.index] - mean.pearson).abs().max() < 0.03, "the records of whole runs"


def test_over_the_map_the_truth_in_time_leads_one_learned_reward_nearly_everywhere_and_the_truth_at_the_end_in_eleven():
    folder = ROOT / "data" / "results"
    frame = density_map.returns(read_records(folder / "map"), read_records(folder / "map-units"))
    ahead = density_map.counts(frame).set_index("gain").ahead
    assert ahead["Truth in time, less bandit"] == 31 and ahead["Truth in time, less at the end"] == 11


def test_a_proxy_takes_rewards_per_answer_too_far_and_dpo_ends_highest_of_what_is_learned_whoever_chooses(brief):
    by = {"proxy": tables.alike(brief, tuned=True)}
    by |= {name: foretold.at_choices(brief, name) for name in ("cautious", "by_truth")}
    ends = {name: summary.values(runs, tables.RETURN).groupby("method")["value"].mean() for name, runs in by.items()}
    lost = summary.values(tables.alike(brief), tables.RETURN).groupby("method")["value"].mean() - ends["proxy"]
    assert (lost[["bandit", "segment-as-bandit", "bandit-synthetic", "rs"]] > 1).all()
    assert (lost[["token", "random", "segment", "tlcr", "bandit-as-segment", "appo"]] < 0.2).all()
    kept = [ends[by][name] for by in ("cautious", "by_truth") for name in ("segment", "token")]  # from collapse
    assert ends["proxy"]["segment"] < ends["proxy"]["sft"] < 2 < min(kept)
    for mean in ends.values():
        learned = mean[[name for name in mean.index if not name.startswith("oracle")]]
        assert learned.idxmax() == "dpo" and len(mean) == 20, "nineteen rows and the SFT model"


def test_the_truth_passes_the_mark_of_headroom_and_nothing_learned_comes_near_it_at_any_setting(brief):
    there, short = instrument.with_room(brief), foretold.at_choices(brief, "by_truth", lam=sweeps.ROOM["lam"])
    (line,) = instrument.headroom({"there": there}).to_dict("records")
    assert line["of the way (share)"].startswith("0.84 ") and line["the bandit (share)"].startswith("0.56 ")
    own = foretold.at_choices(brief, "by_truth")
    settings = {"all": tables.alike(brief), "own": own, "short": short, "room": there}
    core = {*instrument.BEFORE, "online-dpo", "rs"}
    ways = {x: {m: mean_interval(of) for m, of in instrument.ways(runs).items()} for x, runs in settings.items()}
    learned = {(x, m): way for x, of in ways.items() for m, way in of.items() if m in core and "oracle" not in m}
    best = max(learned, key=lambda at: learned[at][0])
    assert best[1] == "dpo" and round(learned[best][0], 2) == 0.67
    assert max(high for *_, high in learned.values()) < controls.HEADROOM
    for of in ways.values():
        assert of["oracle-dense"][0] > max(way[0] for m, way in of.items() if m in core and "oracle" not in m)
    ppo = {at: way[0] for at, way in learned.items() if METHODS[at[1]].trainer == "ppo"}
    assert max(ppo, key=ppo.get) == ("all", "bandit") and round(max(ppo.values()), 2) == 0.63
    assert ways["short"]["oracle-dense"][1] > controls.HEADROOM < ways["room"]["oracle-dense"][1]


def test_with_a_short_reach_and_settings_of_their_own_tlcr_is_ahead_of_the_bandit_and_not_of_its_best(brief):
    lam = sweeps.ROOM["lam"]
    of = {x: foretold.at_choices(brief, "by_truth", **more) for x, more in (("own", {}), ("short", {"lam": lam}))}
    of["all"] = tables.alike(brief)

    def gap(one: tuple[str, str], other: tuple[str, str]) -> list[float]:
        ends = [{r["seed"]: r["final"]["true_return"] for r in of[at] if r["method"] == m} for at, m in (one, other)]
        assert len(ends[0]) == len(ends[1]) == 10
        return [ends[0][seed] - ends[1][seed] for seed in ends[0]]

    tlcr = ("short", "tlcr")
    assert min(ahead := gap(tlcr, ("short", "bandit"))) > 0 and round(sum(ahead) / 10, 2) == 0.27
    for best in (("own", "bandit"), ("all", "bandit")):
        _, low, high = mean_interval(gap(tlcr, best))
        assert low < 0 < high
    assert mean_interval(gap(("short", "bandit"), ("own", "bandit")))[2] < 0, "it loses by the reach"
    for name in ("token", "segment"):
        mean, _, high = mean_interval(gap(("short", name), ("own", name)))
        assert mean < -0.2 and high < 0.1
    _, low, high = mean_interval(gap(tlcr, ("short", "bandit-synthetic")))
    assert low < 0 < high, "one number from the same edits is not told from it"
    assert mean_interval(gap(("short", "oracle-dense"), ("short", "oracle-sequence")))[1] > 0


def test_where_the_truth_passes_the_mark_it_gains_by_being_paid_in_time_and_nothing_learned_comes_further(brief):
    now, there = instrument.runs(brief), instrument.with_room(brief)
    found = controls.tested(there).set_index(["metric", "row", "less"]).verdict
    assert found["return", "Oracle, per span", "Oracle, sequence"] == "holds"
    agree = found["fidelity"].xs("Random segments", level="less")
    assert (agree[["Token", "Segment (entropy)"]] == "holds").all() and agree["Bandit (sequence)"] == "fails"
    assert "fails" not in set(found.drop("fidelity", level=0))
    one, other = ({m: sum(x) / len(x) for m, x in instrument.ways(runs).items()} for runs in (now, there))
    beside = {"random-rewards", *instrument.UNREAD}  # the one says nothing, the others' runs are the same
    learned = [name for name in other if not name.startswith("oracle") and name not in beside]
    assert len(learned) == 14 and all(other[name] < one[name] for name in learned if name != "ars")
    assert instrument.less(there, "ars", "rs", "return")[1] == 10 and other["ars"] - one["ars"] < 0.03
    paid_once = {"bandit", "bandit-synthetic", "segment-as-bandit"}
    assert min(other[name] for name in paid_once) > max(other[name] for name in learned if name not in paid_once)
