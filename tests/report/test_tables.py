"""Each printed row of segment-ppo stands beside the right method; what no record has is a dash, what is said of order
and sign is what scipy says."""

import itertools
import re

import numpy as np
import pytest
from scipy import stats

from report import controlled, tables
from report.notebooks import ROOT
from report.published import load_published
from study import summary
from study.identity import RESULTS_0_1, of_0_1
from study.methods import METHODS
from study.records import read_records
from study.stats import mean_interval, paired_contrast
from test_figures import record, records

ROWS, MAIN, LENGTH = (found["segment-ppo"] for found in (tables.ROWS, tables.MAIN, tables.LENGTH))
TABLE_1 = tuple(ROWS[1].values())


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    """Table 1's rows with three seeds each."""
    return tables.alike(records(TABLE_1))


def returns(runs: list[dict], method: str) -> dict[int, float]:
    return {r["seed"]: r["final"]["true_return"] for r in runs if r["method"] == method}


# --- the mapping -----------------------------------------------------------------------------------------------------


def test_every_table_of_results_is_there():
    """Tables 8 and 9 hold settings; a table that is added to the data must be mapped, or left out here by name."""
    found = set(load_published("segment-ppo")["table"])
    assert set(ROWS) == found - {8, 9}


@pytest.mark.parametrize("table", ROWS)
def test_every_printed_row_is_a_method_and_every_mapped_row_is_printed(table):
    assert list(tables.printed(table).index) == list(ROWS[table])
    assert set(ROWS[table].values()) <= METHODS.keys()
    assert "segment" in ROWS[table].values(), "the paper's own method, which all others are set against"


def test_the_cut_offs_of_figure_3_are_those_of_the_rows():
    for nats, method in ROWS[tables.FIGURE_3].items():
        assert METHODS[method].segmentation["cutoff"] == float(nats)


@pytest.mark.parametrize("table", [t for t in ROWS if t != tables.FIGURE_3])
def test_a_method_says_of_itself_that_it_is_of_that_table(table):
    """`methods.py` names the source of each row: the two must not tell different stories."""
    named = {m for m, row in METHODS.items() if row.source == f"segment-ppo Table {table}"}
    assert named <= set(ROWS[table].values())
    places = re.compile(r"segment-ppo (Table|Figure|Section)")
    assert all(places.match(METHODS[m].source) for m in ROWS[table].values())


def test_the_rows_of_figure_3_and_our_own_are_methods():
    assert {*tables.LENGTHS, *tables.DEPARTURES} <= METHODS.keys()
    assert [METHODS[m].segmentation["length"] for m in tables.LENGTHS] == [10, 13, 17, 22]


def test_rows_that_follow_released_code_are_set_against_the_row_they_change():
    assert {*tables.FOLLOWED, *tables.FOLLOWED.values()} <= METHODS.keys()
    named = {name for name in METHODS if "released" in name or "softmax" in name}
    assert named <= tables.FOLLOWED.keys(), "book/deviations.md has each beside its effect"
    made = records(("segment", "ols", "tlcr-shifted"))  # nothing is said of a row whose plain one was not run
    runs = [r for r in made if (r["method"], r["seed"]) != ("ols", 0)]
    found = tables.followed(runs)
    one, other = returns(runs, "ols"), returns(runs, "segment")
    expected = paired_contrast(one, {seed: other[seed] for seed in one})
    assert found.row.tolist() == [f"{METHODS['ols'].label} (ols)"]
    assert found["difference (credit)"].item() == pytest.approx(expected["difference"])
    assert found["the latter ends at (credit)"].item() == pytest.approx(np.mean([other[seed] for seed in one]))
    assert (found.low.item(), found.high.item(), found.seeds.item()) == (expected["low"], expected["high"], len(one))


@pytest.mark.parametrize("table", MAIN)
def test_main_and_length_columns_are_printed(table):
    columns = tables.printed(table).columns
    assert MAIN[table] in columns
    assert (LENGTH.get(table) in columns) == any(c == "AlpacaEval 2.0 / # char" for c in columns)


def test_a_table_of_settings_is_refused():
    with pytest.raises(ValueError, match="table 8 has no results; choose one of 1, 2"):
        tables.printed(8)


# --- which runs ------------------------------------------------------------------------------------------------------


def test_ablations_at_the_settings_of_the_comparison_count_and_others_do_not():
    """An ablation with another profile beside the comparison's `segment` would compare two things at once."""
    core = records(("sft", "bandit", "segment"))
    ablation, other = records(("ngram-2",), (0,)), records(("ngram-5",), (0,), changes={"lam": 0.95})
    varied = record("normaliser-none", 0)
    varied["params"]["method"]["value_clip"] = 0.9
    chosen = tables.alike([*core, *ablation, *other, varied])
    assert {r["method"] for r in chosen} == {"sft", "bandit", "segment", "ngram-2"}
    assert len(chosen) == 10


def test_a_record_that_is_older_than_a_part_of_its_row_still_is_that_row():
    """A part that came later counts as its default; without them tables would lose rows."""
    made = records(("sft", "bandit", "segment"))
    for r in made:
        r["params"]["method"].pop("noise")
    assert {r["method"] for r in tables.alike(made)} == {"sft", "bandit", "segment"}


def test_a_run_made_again_counts_once():
    again = record("ngram-2", 0, provenance={"utc": "2027-01-01T00:00:00", "seconds": 1.0})
    chosen = tables.alike([*records(("sft", "bandit", "segment", "ngram-2")), again])
    assert len([r for r in chosen if r["method"] == "ngram-2"]) == 3 and again in chosen


def test_no_records_are_no_runs():
    assert tables.alike([]) == []


# --- side by side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ROWS)
@pytest.mark.parametrize("methods", [(), ("sft",), ("sft", "segment")], ids=["none", "sft", "two"])
def test_a_row_without_a_record_stays_with_dashes(table, methods):
    """A row that vanishes is a result that nobody misses."""
    frame = tables.beside(tables.alike(records(methods)), table)
    assert list(frame["in the paper"]) == list(tables.printed(table).index)
    missing = [method not in methods for method in ROWS[table].values()]
    assert list(frame["true return (credit)"].isna()) == missing
    assert list(frame["seeds"] == "0") == missing
    assert len(tables.contrasts(tables.alike(records(methods)), table)) == sum(
        method != "segment" for method in ROWS[table].values()
    )


def test_our_numbers_are_means_and_t_intervals_of_the_row_that_is_mapped(runs):
    frame = tables.beside(runs, 1).set_index("in the paper")
    mean, low, high = mean_interval(list(returns(runs, "bandit-as-segment").values()))
    row = frame.loc["Bandit as Segment"]
    assert row["true return (credit)"] == f"{mean:.2f} ± {high - mean:.2f}" and mean - low == pytest.approx(high - mean)
    assert row["here"] == METHODS["bandit-as-segment"].label and row["seeds"] == "3"
    assert row[MAIN[1]] == "14.39" and row[LENGTH[1]] == "691", "as printed"
    lengths = [r["final"]["length"] for r in runs if r["method"] == "bandit-as-segment"]
    assert row["length (tokens)"] == f"{np.mean(lengths):.1f}"


def test_the_column_at_equal_kl_is_the_summarys_and_says_how_many_runs_reached_it(runs):
    short = [r if r["seed"] or r["method"] != "token" else r | {"curves": r["curves"][:4]} for r in runs]
    frame = tables.beside(short, 1).set_index("in the paper")
    column = f"at KL {tables.KL:g} nats (credit)"
    wanted = controlled.matched_kl([r for r in short if r["method"] == "token"], tables.KL).iloc[0]
    assert wanted.seeds == 2
    text = summary.interval_text(wanted["mean"], wanted.low, wanted.high, seeds=2)
    assert frame.loc["Token", column] == f"{text} (2 of 3)"
    assert frame[column].isna()["Phi3-mini Instruct"], "the SFT model moves nowhere"


def test_one_seed_has_no_interval():
    made = tables.alike([*records(("sft", "bandit", "segment")), record("ngram-2", 0)])
    frame = tables.beside(made, 4).set_index("in the paper")
    assert frame["seeds"]["n = 2"] == "1" and frame["seeds"]["Ours"] == "3"
    assert re.fullmatch(r"-?\d+\.\d\d", frame["true return (credit)"]["n = 2"]), "one seed has no interval"
    assert set(tables.contrasts(made, 4).set_index("row").sign[["n = 2"]]) <= {"same, one seed", "opposite, one seed"}


def test_each_backbone_stands_beside_the_same_runs(runs):
    frame = tables.beside(runs, 2)
    assert len(frame) == 8
    assert list(frame["true return (credit)"][:4]) == list(frame["true return (credit)"][4:])


def test_figures_draw_every_printed_value_once_and_our_runs(runs):
    drawn = summary.values(tables.drawn(runs[:-3], 1), "paper.main").set_index("method")["value"]
    assert dict(drawn) == {m: float(tables.printed(1).loc[row, MAIN[1]]) for row, m in ROWS[1].items()}
    ours = summary.values(tables.drawn(runs[:-3], 1), tables.RETURN)
    assert len(ours) == len(runs) - 3


# --- order -----------------------------------------------------------------------------------------------------------


def test_ranks_put_the_highest_first_and_leave_out_what_has_no_record(runs):
    found = tables.ranks([r for r in runs if r["method"] != "token"], 1)
    assert found.paper["segment"] == 1 and found.paper["bandit-as-segment"] == 7
    means = {m: np.mean(list(returns(runs, m).values())) for m in TABLE_1 if m != "token"}
    assert found.here.dropna().sort_values().index.tolist() == sorted(means, key=means.get, reverse=True)
    assert np.isnan(found.here["token"])


@pytest.mark.parametrize("table", [1, 7])
def test_kendall_is_scipys(runs, table):
    means = [np.mean(list(returns(runs, method).values())) for method in TABLE_1]
    for column, cells in tables.printed(table).astype(float).items():
        found = tables.kendall(runs, table, column)
        wanted = stats.kendalltau(cells, means)
        assert found["tau"] == pytest.approx(wanted.statistic)
        assert found["rows"] == 7
        if cells.is_unique:
            assert found["p"] == pytest.approx(stats.kendalltau(cells, means, method="exact").pvalue)


def test_the_permutation_p_counts_ties_as_they_are(runs):
    """scipy has no exact p with ties: count all 5040 orders one by one."""
    column = tables.printed(7)["ARC"].astype(float).to_numpy()
    means = np.array([np.mean(list(returns(runs, method).values())) for method in TABLE_1])
    order = np.sign(means[:, None] - means)

    def concordance(x):
        return (np.sign(x[:, None] - x) * order).sum()

    null = np.array([concordance(np.array(x)) for x in itertools.permutations(column)])
    tail = min((null >= concordance(column)).mean(), (null <= concordance(column)).mean())
    assert tables.kendall(runs, 7, "ARC")["p"] == pytest.approx(min(1, 2 * tail))


def test_the_interval_is_over_seeds_that_are_drawn_for_all_rows_together(runs):
    """Drawn for each row alone, seeds would lose their pairing. Three seeds have 27 draws: the bootstrap's interval is
    that of their taus, and closes where all seeds say the same."""
    printed = [float(tables.printed(1).loc[row, MAIN[1]]) for row in ROWS[1]]
    wide = np.array([[returns(runs, method)[seed] for seed in range(3)] for method in TABLE_1])
    draws = [wide[:, list(d)].mean(axis=1) for d in itertools.product(range(3), repeat=3)]
    taus = [stats.kendalltau(printed, means).statistic for means in draws]
    found = tables.kendall(runs, 1, MAIN[1])
    low, high = np.quantile(taus, [0.025, 0.975], method="inverted_cdf")
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.1)
    alike = [r | {"final": r["final"] | {"true_return": returns(runs, r["method"])[0] + r["seed"]}} for r in runs]
    found = tables.kendall(alike, 1, MAIN[1])
    assert found["low"] == pytest.approx(found["tau"]) and found["high"] == pytest.approx(found["tau"])


def test_too_few_rows_or_seeds_give_no_tau_or_no_interval(runs):
    few = tables.kendall([r for r in runs if r["method"] in TABLE_1[:5]], 1, MAIN[1])
    assert few["rows"] == 5 and all(np.isnan(few[name]) for name in ("tau", "low", "high", "p"))
    two = tables.kendall([r for r in runs if r["seed"] < 2], 1, MAIN[1])
    assert np.isfinite(two["tau"]) and np.isnan(two["low"])
    assert tables.kendall([], 1, MAIN[1])["rows"] == 0


@pytest.mark.parametrize(
    "table, column, says",
    [
        (4, MAIN[4], "table 4 has 5 methods, a rank correlation needs 6: use contrasts"),
        (2, MAIN[2], "table 2 prints a method on several backbones: use contrasts"),
        (1, "GSM8K", "table 1 has no column 'GSM8K'; choose one of AlpacaEval 2.0 / LC (%)"),
    ],
)
def test_what_has_no_rank_correlation_is_refused(runs, table, column, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        tables.kendall(runs, table, column)


# --- differences -----------------------------------------------------------------------------------------------------


def test_contrasts_are_printed_differences_and_ours_paired_by_seed(runs):
    row = tables.contrasts(runs, 1).set_index("row").loc["Bandit (Sequence)"]
    assert row.paper == pytest.approx(27.05 - 31.05)
    wanted = paired_contrast(returns(runs, "bandit"), returns(runs, "segment"))
    assert (row.difference, row.low, row.high) == pytest.approx([wanted[k] for k in ("difference", "low", "high")])
    against = tables.contrasts(runs, 1, "bandit").set_index("row")
    assert "Bandit (Sequence)" not in against.index
    assert against.paper["Segment (Ours)"] == pytest.approx(4.0)


def test_a_backbone_is_compared_with_itself(runs):
    found = tables.contrasts(runs, 3).set_index("row").paper
    assert found["Llama-3-8B-SFT / DPO"] == pytest.approx(24.71 - 25.11)


def test_lengths_are_compared_with_lengths(runs):
    row = tables.contrasts(runs, 1, name="final.length").set_index("row").loc["Sentence"]
    assert row.paper == 2626 - 2257
    lengths = [{r["seed"]: r["final"]["length"] for r in runs if r["method"] == m} for m in ("sentence", "segment")]
    assert row.difference == pytest.approx(paired_contrast(*lengths)["difference"])


@pytest.mark.parametrize(
    "returns, sign",
    [
        ((1.0, 1.1, 0.9), "opposite"),  # printed: bandit below segment
        ((-1.0, -1.1, -0.9), "same"),
        ((1.0, -1.1, 0.1), "open"),
        ((1.0,), "opposite, one seed"),
        ((-1.0,), "same, one seed"),
        ((), "no record"),
    ],
)
def test_the_sign_is_settled_only_where_the_interval_is(returns, sign):
    made = [record("segment", s) for s in range(3)] + [record("bandit", s) for s in range(len(returns))]
    for r in made:
        r["final"]["true_return"] = returns[r["seed"]] if r["method"] == "bandit" else 0.0
    found = tables.contrasts(made, 1)
    assert found.set_index("row").sign["Bandit (Sequence)"] == sign
    assert re.search(f"1 has|[2-9] have {tables.SIGNS[sign]}[;.]", tables.verdict(found))
    counts = tables.verdicts(made, (1, 4)).set_index("differences from segment")
    assert counts.loc["Table 1", tables.SIGNS[sign]] == (found.sign == sign).sum() >= 1
    assert list(counts.sum(axis=1)) == [6, 4], "every difference is counted once"


def test_figure_3_prints_no_values_to_agree_with():
    made = records(("segment", "cutoff-1.5"))
    found = tables.contrasts(made, tables.FIGURE_3).set_index("row")
    assert found.paper.isna().all() and found.difference.notna()["1.5"]
    assert found.sign.isna()["1.5"] and found.sign["2.0"] == "no record"


def test_a_contrast_that_the_table_cannot_give_is_refused(runs):
    for table, against, name in ((4, "bandit", tables.RETURN), (3, "segment", "final.length")):
        with pytest.raises(ValueError, match=f"table {table} has no row of '{against}', or no printed column"):
            tables.contrasts(runs, table, against, name)


def test_records_of_version_0_1_stand_under_the_names_that_their_rows_had():
    """Rows have changed since; chapters that interpret the old records must draw as many runs as version 0.1 drew."""
    old = [r for r in read_records(ROOT / "data" / "results" / RESULTS_0_1 / "runs.jsonl") if r["kind"] == "run"]
    assert all(of_0_1(r["params"]) for r in old) and not of_0_1(record("bandit", 0)["params"])
    assert [len(tables.alike(old)), len(tables.alike(old, tuned=True)), len(summary.study(old))] == [188, 51, 48]
    counts = {len([r for r in tables.alike(old) if r["method"] == name]) for name in ("appo", "oracle-dense", "tlcr")}
    assert counts == {3}, "rows whose mask, payment and scale are others now"


def test_a_sweep_has_a_line_per_method_and_level_with_its_seeds():
    given = [("segment", 0.8, 0, 1.0), ("segment", 0.8, 1, 2.0), ("segment", 1.0, 0, 5.0), ("bandit", 0.8, 0, 3.0)]
    runs = [
        {"kind": "run", "method": m, "seed": s, "params": {"profile": {"lam": x}}, "final": {"true_return": value}}
        for m, x, s, value in given
    ]
    found = tables.sweep(runs, "params.profile.lam", "lambda", {"final.true_return": "true return"})
    assert found.to_numpy().tolist() == [
        ["Bandit (sequence)", 0.8, 1, 3.0],
        ["Segment (entropy)", 0.8, 2, 1.5],
        ["Segment (entropy)", 1.0, 1, 5.0],
    ]
    assert list(found) == ["method", "lambda", "seeds", "true return"]


def test_what_a_segment_earns_has_a_line_per_seed_and_the_foretold_sign():
    """The page says that it is above zero under every seed whose policy loops: the committed records must say so."""
    made = [r for r in read_records(ROOT / "data" / "results" / "wages.jsonl") if r["profile"] == "small"]
    frame = tables.wages(made)
    assert list(frame.seed) == ["0", "1", "2", "3"] and METHODS["segment"].label in frame
    assert all(r["earned"][m][1] > 0 for r in made for m in ("segment", "normaliser-none")), "the lower bound"
    looped = [r for r in read_records(ROOT / "data" / "results" / "small") if r["method"] == "normaliser-none"]
    assert {r["seed"] for r in looped} <= {r["seed"] for r in made}
    assert all(r["final"]["repetition"] > 5 for r in looped), "a seed that does not loop is news for the page"


def test_parts_of_fidelity_stand_by_their_sum_and_random_rewards_come_last():
    frame = tables.fidelity_parts(read_records(ROOT / "data" / "results" / "fidelity.jsonl"))
    assert frame.method.iloc[[0, -1]].tolist() == ["Oracle, per span", "Random rewards"] and set(frame.seeds) == {10}
    assert frame["together"].str.split().str[0].astype(float).is_monotonic_decreasing
    assert frame["together"].iloc[-1] == "0.04 ± 0.05" and frame["paid behind it"].str.contains("±").all()
