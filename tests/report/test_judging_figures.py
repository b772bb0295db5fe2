"""Figures and tables of labels and judges: a number in another row, a control left out, a tax against nothing."""

import json

import numpy as np
import pandas as pd
import pytest

from report import grid, tried
from report import judging_figures as j
from study.measures.judged import COLUMNS
from study.methods import ADAPTIVE, CORE, CREDIT, TLCR
from study.records import ROOT
from study.summary import label


def stored(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "data" / "results" / f"{name}.jsonl").read_text().splitlines()]


def test_the_table_of_spans_holds_the_records_numbers_and_every_control():
    records = stored("human_spans")
    rows = j.span_rows(records).set_index(["tokenizer", "label"])
    assert len(rows) == len(records) * len(j.LABELS)
    for r in records:
        for name, (*_, words) in j.LABELS.items():
            value, low, high = r[name]["precision"]
            assert rows.precision[r["tokenizer"], words] == f"{value:.3f} [{low:.3f}, {high:.3f}]"
        assert rows.recall[r["tokenizer"], "every token"] == "1"
    types = j.type_rows(records)
    assert types.spans.tolist() == sorted(types.spans, reverse=True)
    found = records[1]["types"]["Redundant"]["edit"]["recall"][0]
    assert types.set_index("type").loc["Redundant", records[1]["tokenizer"]].startswith(f"{found:.3f} (")
    figure, numbers = j.spans(records)
    assert len(figure.axes) == 3 and len(numbers) == 3 * len(rows)


def test_rates_of_judges_are_means_with_their_interval_over_seeds_and_the_page_shows_the_best_first():
    numbers = pd.DataFrame([["token", 0, *range(8)], ["token", 1, *range(2, 10)], ["bandit", 0, *range(8)]])
    numbers.columns = ["method", "seed", *COLUMNS]
    rows = j.rate_rows(numbers)
    assert rows.method.tolist() == ["Bandit (sequence)", "Token"] and rows.seeds.tolist() == [1, 2]
    assert rows["win rate"].tolist() == ["0.0", "1.0 ± 12.7"] and rows["longer (tokens)"][1] == "6.0 ± 12.7"
    assert rows["controlled, error"].tolist() == ["7.0", "8.0"]
    page = grid.table(rows)
    assert page.index("Token") < page.index("Bandit")
    figure, shown = j.length_control(numbers)
    assert (shown["raw"] == 1).all() and (shown["controlled_by"] == 2).all() and len(figure.axes) == 2


def test_win_rates_stand_beside_those_that_table_1_prints_each_against_the_baseline_of_its_seed():
    """A rate in another row, of another seed's baseline, or of no record; one seed looks like ten."""

    def record(method: str, seed: int, *returns: float) -> dict:
        answers = {"true_return": list(returns) * 5, "length": [9] * 20}
        return {"method": method, "seed": seed, "final": {"answers": answers}}

    runs = [record("sft", 0, 1, 1, 1, 1), record("sft", 1, 5, 5, 5, 5), record("token", 0, 2, 2, 2, 1)]
    runs += [record("token", 1, 6, 4, 4, 4), record("segment", 0, 2, 2, 0, 0), record("bandit", 2, 9, 9, 9, 9)]
    rates = j.oracle_judged(runs)
    raw = {(r["method"], r["seed"]): r["judged"]["raw"] for r in rates}
    assert raw == {("sft", 0): 50, ("sft", 1): 50, ("token", 0): 87.5, ("token", 1): 25, ("segment", 0): 50}
    rows = j.alpaca_rows(rates).set_index("here")
    assert rows["AlpacaEval 2.0 / WR (%)"]["Segment (entropy)"] == "34.53"
    assert rows["AlpacaEval 2.0 / LC (%)"]["Token"] == "27.82"
    assert rows["WR (%) here"]["Token"] == "56.2 (25.0 to 87.5)" and rows.seeds["Token"] == "2"
    assert rows["WR (%) here"]["SFT (no RL)"] == rows["LC (%) here"]["SFT (no RL)"] == "50.0"
    assert rows["WR (%) here"]["Segment (entropy)"] == "50.0 (one seed)"
    assert pd.isna(rows["WR (%) here"]["Bandit (sequence)"]) and rows.seeds["Bandit (sequence)"] == "0"
    page = grid.table(rows.reset_index())
    assert page.count("–</td>") == 8, "a dash for each of four rows without a record, and their printed rates stay"


def test_costs_of_a_run_are_calls_times_tokens_at_the_readers_prices_and_say_what_is_estimated():
    rows = j.cost_rows(stored("judging")[-1]["cost"], 2.0, 8.0).set_index("judge")
    one = rows.loc["MT-Bench, one answer"]
    assert one["of a run, in"] == pytest.approx(160 * one["in"]) and one["estimated"] == ""
    assert one["price of a run"] == pytest.approx((2 * one["of a run, in"] + 8 * one["of a run, out"]) / 1e6)
    assert np.isnan(rows["price of a run"]["adaptive-mask"]), "nobody says how many pairs"
    assert rows.estimated["Arena-Hard"] == "out" and rows["of a run, out"]["Arena-Hard"] == 600_000
    assert rows.estimated["AlpacaEval 2, weighted"] == "in" and rows["out"]["AlpacaEval 2, weighted"] == 1
    assert set(rows.index) == set(j.NEEDED), "every judge of the page has its price"
    assert rows["needed for"]["AlpacaEval, ranking in a list"] == "TLCR"
    page = (ROOT / "book" / "judging.md").read_text()
    assert "1,215" in page and "1,200" in page and "1,170" in page and "600 tokens at a guess" in page


def accuracies(*methods: str) -> pd.DataFrame:
    rows = [(t, m, s, 0.5 + 0.01 * s, 0.25) for t in ("choice", "generate") for m in methods for s in range(3)]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "accuracy", "chance"])


def test_the_tax_is_drawn_against_the_model_before_training():
    figure, numbers = j.tax(accuracies("sft", "bandit"))
    first = figure.axes[0]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["SFT (no RL)", "Bandit (sequence)"]
    assert {round(line.get_xdata()[0], 6) for line in first.lines if line.get_linestyle() == ":"} == {0.51}
    assert len(figure.axes) == 2 and len(numbers) == 12
    with pytest.raises(ValueError, match=r"no accuracy of SFT \(no RL\); measure it too"):
        j.tax(accuracies("bandit"))


def test_the_table_of_the_tax_holds_the_committed_records_and_what_the_page_says():
    """Every row against the SFT model of its own seed; and the page's five verdicts are those of the numbers."""
    records = [r for r in stored("tax") if r["profile"] == "small"]
    rows = j.tax_rows(records).set_index("method")
    choice = {(r["method"], r["seed"]): r["tasks"]["testbed_choice"]["accuracy"] for r in records}
    names = {name for name, _ in choice}
    lost = {m: np.mean([choice["sft", s] - choice[m, s] for s in range(4)]) for m in names}
    assert rows.difference[label("bandit")].startswith(f"{-lost['bandit']:.3f} ±")
    assert set(rows.seeds) == {4} and rows.difference.isna().sum() == 1 and len(rows) == len(names)
    numbers = j.tax_numbers(records)
    assert len(numbers) == 2 * len(records) and set(numbers.chance) == {0.25, 0.0}
    figure, _ = j.tax(numbers)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["choice", "generation"]
    said = j.tax_sentence(records, stored("small/runs"))
    assert said.startswith("Over 14 methods") and "is 0.65 with KL" in said
    # the chapter
    assert min(choice["sft", s] for s in range(4)) >= 0.95 and min(choice.values()) > 0.7
    within = {"oracle-sequence", "oracle-dense", "dpo"}
    failed = {"oracle-dense-even", "bandit", "segment-as-bandit", "tlcr"}
    assert all(lost[m] < 0.02 for m in within) and all(lost[m] > 0.02 for m in failed)
    assert all(choice["bandit", s] < choice["oracle-sequence", s] for s in range(4))
    assert 2.8 < lost["bandit"] / lost["oracle-sequence"] < 3.2 and lost["normaliser-none"] < lost["bandit"]
    assert sorted(names, key=lost.get)[-3:] == ["sentence", "bandit-as-segment", "appo"]
    generate = numbers[numbers.task == "generation"].groupby("method").accuracy.mean()
    assert generate["sft"] == 1 and (generate[list(failed)] < 1).all()
    less = numbers[numbers.task == "generation"].pivot(index="seed", columns="method", values="accuracy")
    assert (less[["tlcr", "appo"]] < 1).all(axis=None), "less in every seed"
    tax = [rows["generation, difference"][label(m)].replace("-", "") for m in ("tlcr", "appo")]
    page = " ".join((ROOT / "book" / "judging.md").read_text().split())
    assert f"TLCR names {tax[0]} less and APPO {tax[1]}: less in every seed, and neither mean is clear" in page
    assert f"the SFT model and {len(names) - 1} trained rows" in page


def test_the_tax_of_every_core_row_is_known_at_one_size_or_the_other():
    asked = {r["method"] for r in stored("tax")}
    assert {*CORE, *TLCR, *ADAPTIVE, *CREDIT} <= asked


def test_what_the_page_says_of_the_tax_at_size_brief():
    records = [r for r in stored("tax") if r["profile"] == "brief"]
    seeds = {r["seed"] for r in records}
    found = {task: {(r["method"], r["seed"]): r["tasks"][task]["accuracy"] for r in records} for task in j.TASKS}
    choice, named = found["testbed_choice"], found["testbed_generate"]
    lost = {m: np.mean([choice["sft", s] - choice[m, s] for s in seeds]) for m, _ in choice}
    assert len(seeds) == 2 and all(choice["sft", s] >= 0.95 for s in seeds)
    assert max(lost[m] for m in ("online-dpo", "adpo", "ars")) < 0.02 and round(lost["rs"], 3) == 0.024
    assert lost["distil"] < lost["bandit"] < min(lost["oracle-dense-noisy"], lost["oracle-sequence-noisy"])
    assert min(lost["tlcr-fixed"], lost["bandit-synthetic"]) > 0.05 and lost["q-rm"] < lost["bandit"]
    assert min(lost["appo"], lost["vine"]) > 0.2 and {"appo", "vine"} <= {*sorted(lost, key=lost.get)[-3:]}
    assert np.mean([named["q-rm", s] for s in seeds]) < 0.5


def test_a_model_of_no_use_is_tabled_as_one():
    """No pick is no share of zero; and what failed is named with its reason."""
    position = {"pairs": 2, "unreadable": 2, "same": 0, "reversed": 0, "to_first": 0, "tie_in_one": 0}
    silent = {"judge": "a", "asked": 4, "read": 0, "unreadable": 4, "picked": 0, "right": [], "shown_first": []}
    silent |= {"right_of_all": [0.0, 0.0, 0.0], "position": position}
    good = silent | {"judge": "b", "read": 4, "picked": 4, "right": [1.0, 0.5, 1.0], "shown_first": [0.5, 0.2, 0.8]}
    good |= {"position": position | {"unreadable": 0}}
    made = {"read": 2, "revised": 0, "failed: markers": 2, "words": 0, "taken_out": 0, "preferred_copied": 0}
    record = {"model": "m", "verdicts": [silent, good], "revisions": made | {"usable": [0.0, 0.0, 0.66]}}
    record["revisions_spent"] = {"tokens": 1200, "requests": 2}
    rows = tried.rows(record).set_index("judge")
    assert pd.isna(rows.right["a"]) and rows.right["b"] == "1.00 [0.50, 1.00]" and rows.read["a"] == "0 of 4"
    assert rows["turned around"].tolist() == ["0 of 0", "0 of 2"]
    said = tried.revisions(record)
    assert (
        "0 are of use (share 0.00 [0.00, 0.66]), 2 fail (markers)." in said and "2 requests took 1,200 tokens" in said
    )
    assert "take out" not in said


def test_the_page_says_of_the_small_model_what_its_records_hold():
    asked, weighed = ({r["kind"]: r for r in stored("asked")}[kind] for kind in ("asked", "weighed"))
    assert asked["revisions"]["revised"] == 0 and all(of["read"] == 0 for of in asked["verdicts"])
    assert (asked["revisions"]["read"], {of["items"] for of in asked["verdicts"]}) == (24, {15})
    assert (asked["revisions"]["failed: cut"], asked["revisions"]["failed: markers"]) == (21, 3)
    assert "picks the labelled output 0.50" in tried.weighed(weighed)
    assert weighed["shown_first"][0] == weighed["same"][0] == 0, "it takes M, whatever it stands for"
