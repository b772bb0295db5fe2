"""The instrument before and after: what would break is a fault that looks mended, or a mended one that looks broken."""

import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from densereward.reward.segments import segment_lengths
from report import controls, instrument, instrument_figures, parameters
from report.notebooks import ROOT, run_notebook
from study import choosing, sweeps
from study.measures import in_time
from study.methods import METHODS
from study.records import write_record
from test_causal import ROWS, TOKENIZER
from test_figures import record, records, svg
from test_notebooks import namespace, page
from testbed import truth


def ended(name: str, seed: int, end: float, **more) -> dict:
    """A record that ends at a true return, with settings changed or parts added."""
    made = record(name, seed, **more)
    return made | {"final": made["final"] | {"true_return": end}}


def test_longer_answers_and_ablations_keep_to_their_own_groups():
    """The comparison leaves rows outside the core out, and must not mix prompts that ask for more."""
    two = {"world": {"parts": 2, "kinds": 4}, "max_completion_length": 256}
    every = [ended("oracle-dense", 0, 2.0), ended("sentence-end", 0, 1.0), ended("bandit", 0, 1.5)]
    every += [ended("oracle-dense", 0, 5.0, changes=two), {"kind": "best of n", "seed": 0}]
    assert [r["method"] for r in instrument.runs(every)] == ["oracle-dense", "sentence-end", "bandit"]
    found = instrument.by_parts(every, [])
    rows = found[found.method == "Oracle, per span"].set_index("kinds asked for")["now"]
    assert rows.to_dict() == {1: "2.00 (1)", 2: "5.00 (1)"}
    assert len(found) == 3, "rows without a record are left out"


def test_version_01s_per_span_oracle_is_todays_even_split():
    """Its 2.03 beside today's oracle-dense would compare two ways to pay."""
    old = ended("oracle-dense", 0, 2.03)
    old["params"]["method"] |= {"interpolation": "even"}
    found = instrument.headline([ended("oracle-dense", 0, 2.9)], [old], []).set_index("method")
    assert found.loc["Oracle, span's even split", "version 0.1"] == "2.03 (1)"
    assert pd.isna(found.loc["Oracle, per span", "version 0.1"])
    assert found.loc["Oracle, per span", "now"] == "2.90 (1)"


def test_the_effect_of_scale_is_paired_and_a_larger_size_stands_beside_it():
    """Ten seeds of one row beside three of the other said 4.8 where the three that both have say 2.7, open."""
    now = [ended("token", s, x) for s, x in ((0, 1.0), (1, 1.5), (2, 9.0))]
    now += [ended("token-literal", s, x) for s, x in ((0, -3.0), (1, -3.5))]
    found = instrument.headline(now, [], [ended("token", 0, 4.0)]).set_index("method").loc["Token"]
    assert found[["now, unscaled", "now, larger"]].str[-3:].tolist() == ["(2)", "(1)"]
    assert found["scaled less unscaled"].startswith("4.50 ± ") and found["scaled less unscaled"].endswith(" (2)")


def test_paid_at_the_end_is_compared_on_shared_seeds_alone():
    now = [ended("sentence", s, 1.0) for s in (0, 1, 2)] + [
        ended("sentence-end", s, x) for s, x in ((0, 1.5), (1, 1.7))
    ]
    for r in now:
        r["credit"] = {"advantages_credit_pearson": 0.2 + 0.1 * r["method"].endswith("end"), "causal_share": 0.6}
    found = instrument.ends(now).set_index("row")
    assert found.loc["Sentence", "seeds"] == 2
    assert found.loc["Sentence", "return, end less even"].startswith("0.60 ± ")
    assert found.loc["Sentence", "fidelity, end less even"].startswith("0.10")
    assert found.loc["Sentence", "even split pays in time"] == pytest.approx(0.6)
    assert len(found) == 5 and found.loc["Random segments", "seeds"] == 0


def test_how_far_the_truth_comes_is_told_by_size_smallest_first_from_each_seeds_own_start():
    def size(answers: int, *ways: float) -> list[dict]:
        found = []
        for seed, way in enumerate(ways):  # from a start of its own to a perfect 5
            found.append(ended("sft", seed, float(seed)))
            found.append(ended("oracle-dense", seed, seed + way * (5 - seed)))
            found[-1]["final"]["perfect"] = 5.0
            rows = found[-1]["curves"]
            found[-1]["curves"] = [row | {"responses": answers // len(rows)} for row in rows]
        return found

    found = instrument.headroom({"large": size(480, 0.8, 0.8), "short": size(120, 0.5, 0.7), "none": []})
    assert found["size and setting"].tolist() == ["short", "large"] and found.answers.tolist() == [120, 480]
    assert found["of the way (share)"].tolist() == ["0.60 (0.50 to 0.70)", "0.80 (0.80 to 0.80)"]
    assert found.seeds.tolist() == [2, 2] and found["the truth's repetitions per right item"].tolist() == ["0.100"] * 2


def test_how_far_rows_come_at_two_settings_is_told_of_the_seconds_rows_each_from_its_seeds_own_start():
    def at(**ends: list[float]) -> list[dict]:
        found = [ended(m.replace("_", "-"), s, x) for m, of in ends.items() for s, x in enumerate(of)]
        for r in found:
            r["final"]["perfect"] = 5.0
        return found

    start = at(sft=[0.0, 1.0])
    here, there = at(bandit=[2.5, 3.0], dpo=[4.0, 4.0]), at(bandit=[1.0, 1.8], oracle_dense=[4.0, 4.2])
    found = instrument.room({"here": start + here, "there": start + there}).set_index("method")
    assert set(found.index) == {"Bandit (sequence)", "Oracle, per span"} and set(found.seeds) == {2}
    assert found["of the way, here (share)"].dropna().to_dict() == {"Bandit (sequence)": "0.50 (0.50 to 0.50)"}
    assert list(found["of the way, there (share)"]) == ["0.20 (0.20 to 0.20)", "0.80 (0.80 to 0.80)"]
    assert found["less the bandit (credit)"].dropna().to_dict() == {"Oracle, per span": "2.70 ± 3.81"}
    assert instrument.room({"here": start + here, "there": start}).empty


def test_with_room_stand_runs_at_that_setting_and_rows_that_read_none_of_it():
    """A row that trains otherwise there, or a run of another setting, would stand for what was never run."""
    core = {*instrument.BEFORE, *instrument.UNREAD, "rs", "random-rewards"}
    read = {name for name in core if choosing.POLICIES.get(METHODS[name].trainer, {}).keys() & sweeps.ROOM.keys()}
    assert core - read == set(instrument.UNREAD)
    here = [ended(name, 0, 3.0) for name in ("sft", "dpo", "bandit")]
    room = [ended("bandit", 0, 2.0, changes=sweeps.ROOM)]
    assert instrument.with_room(here + room) == [*here[:2], *room] and instrument.with_room(here) == []


def test_the_ways_are_drawn_at_each_setting_and_what_lies_far_below_is_written():
    def at(**ends: list[float]) -> list[dict]:
        found = [ended(m, s, x) for m, of in ends.items() for s, x in enumerate(of)]
        return [r | {"final": r["final"] | {"perfect": 5.0}} for r in found]

    start = at(sft=[0.0, 0.0])
    of = {"here": start + at(bandit=[2.0, 3.0], token=[4.0, 4.0]), "there": start + at(bandit=[-9.0, -11.0])}
    figure, numbers = instrument_figures.way(of, 0.8)
    drawn = svg(figure)
    assert "−2.0" in drawn and "here" in drawn and "perfect answer (share)" in drawn and "Token" not in drawn
    found = numbers.set_index(["setting", "method"])["mean"]
    assert found["here", "bandit"] == pytest.approx(0.5) and found["there", "bandit"] == pytest.approx(-2)


def test_the_truth_over_lengths_is_a_mean_of_each_seed_that_has_them_all():
    def at(kinds: int, *gaps: float) -> list[dict]:
        found = []
        for seed, gap in enumerate(gaps):  # of a perfect 10 per kind
            changes = {"world": {"parts": kinds, "kinds": 6}} if kinds > 1 else {}
            found += [ended("oracle-sequence", seed, 1.0, changes=changes)]
            found += [ended("oracle-dense", seed, 1.0 + gap, changes=changes)]
            found[-1]["final"]["perfect"] = 10.0 * kinds
        return found

    every = at(1, 1.0, 3.0, 9.0) + at(2, 2.0, 2.0, 9.0) + at(3, 3.0, 3.0, 9.0)
    assert "no record yet" in instrument.over_lengths(every), "no seed has four kinds"
    said = instrument.over_lengths(every + at(4, 4.0, 4.0))
    assert "0.125 (0.100 to 0.150), 2 seeds, above zero in 2." in said


def test_warm_up_is_counted_where_a_record_says_so():
    def critic(name: str, seed: int, warm: list[bool] | None) -> dict:
        explained = [0.0, 0.2, 0.5, 0.7]
        rows = [{"rollout": i, "explained_variance": x} for i, x in enumerate(explained)]
        if warm:
            rows = [row | {"warm": w} for row, w in zip(rows, warm)]
        return record(name, seed) | {"curves": rows}

    now = [critic("bandit", 0, [False, False, True, True]), critic("bandit", 1, [False, True, True, True])]
    found = instrument.warmup([*now, critic("token", 0, None), record("sft", 0)]).set_index("method")
    bandit = found.loc["Bandit (sequence)"]
    assert bandit["warm-up (rounds)"] == 1.5
    assert bandit["explained at first (share)"] == pytest.approx((0.5 + 0.2) / 2)
    assert bandit["explained after (share)"] == pytest.approx((0.6 + 1.4 / 3) / 2)
    assert np.isnan(found.loc["Token", "warm-up (rounds)"]) and list(found.index) == ["Bandit (sequence)", "Token"]


def test_a_longer_warm_up_is_set_against_the_short_one_seed_by_seed():
    def warmed(name: str, seed: int, end: float, explained: float, **more) -> dict:
        curves = [{"explained_variance": 0.0, "warm": False}, {"explained_variance": explained, "warm": True}]
        return record(name, seed, **more) | {"curves": curves, "final": {"true_return": end}}

    short = [warmed("token", s, s, 0.1) for s in range(4)] + [warmed("bandit", 0, 2.0, 0.2)]
    assert instrument.longer(short).empty
    more = {"changes": {"critic_warmup": 12, "rounds": 40}}
    found = instrument.longer([*short, *(warmed("token", s, s + 1 + 0.1 * s, 0.4, **more) for s in range(3))])
    (token,) = found.itertuples(index=False)
    assert token[:3] == ("Token", pytest.approx(0.1), pytest.approx(0.4)) and token.seeds == 3
    assert token[3] == pytest.approx(1.1) and token.low < 1.1 < token.high


def test_a_control_that_fails_stands_first_and_version_01_beside_it():
    now = [ended("oracle-dense", s, 2.0 + 0.01 * s) for s in (0, 1, 2)]
    now += [ended("oracle-dense-even", s, 3.0) for s in (0, 1, 2)] + [
        ended("oracle-sequence", s, 1.0) for s in (0, 1, 2)
    ]
    old = [ended("oracle-dense", 0, 2.03), ended("oracle-sequence", 0, 2.28)]
    found = instrument.checks(now, old)
    assert len(found) == len(controls.CONTROLS)
    assert list(found.verdict) == sorted(found.verdict, key=instrument.VERDICTS.index)
    found = found.set_index("control")
    assert found.loc["return: Oracle, per span above Oracle, span's even split", "verdict"] == "fails"
    above = found.loc["return: Oracle, per span above Oracle, sequence"]
    assert above[["verdict", "version 0.1"]].tolist() == ["holds", "-0.25"]


def test_every_control_has_a_sentence_with_or_without_records():
    """Pages quote them by key: one that is missing breaks the book."""
    empty, told = instrument.sentences([]), instrument.sentences([ended("oracle-dense", 0, 2.0), ended("sft", 0, 0.0)])
    assert len(empty) == len(controls.CONTROLS) and empty.keys() == told.keys()
    assert all(text.endswith("no record yet.") for text in empty.values())
    prose = (ROOT / "book" / "what_we_got_wrong.md").read_text()
    assert "return_oracle-dense_oracle-dense-even" in empty and "{glue} return_oracle-dense_oracle-dense-even" in prose
    assert instrument.repetitions([]).endswith("no record yet.")
    assert "SFT (no RL) 0.40 (0.100)" in instrument.repetitions([record("sft", 0)])


@pytest.fixture(scope="module")
def answers():
    """60 generated answers; entropy is high where a credit is decided, and nowhere else."""
    prompts = [row["prompt"][0]["content"] for row in ROWS[:60]]
    ids = [[*TOKENIZER(row["completion"][0]["content"])["input_ids"], TOKENIZER.eos_token_id] for row in ROWS[:60]]
    spans, pad = truth.spans_of(TOKENIZER, prompts, ids), torch.nn.utils.rnn.pad_sequence
    batch = {"completion_ids": pad([torch.tensor(x) for x in ids], batch_first=True)}
    batch["completion_mask"] = pad([torch.ones(len(x), dtype=torch.long) for x in ids], batch_first=True)
    held = torch.arange(spans.credits.size(1)) <= spans.ids.max(1, keepdim=True).values
    high = torch.zeros(batch["completion_ids"].shape)
    for row, decided, real in zip(high, spans.deciding, held):
        row[decided[real]] = 3.0
    return batch | {"ref_entropies": high}, spans


def test_an_even_split_loses_nothing_where_segments_begin_at_decisions(answers):
    found = in_time.shares(*answers, TOKENIZER, 0).set_index("method")
    assert set(found.index) == set(in_time.CUT)
    for name in ("segment", "token"):
        assert found.loc[name, ["begins", "even", "repeat", "items"]].tolist() == [1, 1, 1, 1]
    assert (found["none"] == 1).all() and (found["even"] <= 1).all()
    late = found.loc[["oracle-dense-even", "sentence", "random", "bandit", "ngram-10"]]
    assert (late["even"] < 0.8).all() and (late["begins"] < 0.5).all()
    assert (found["even"] >= found["begins"] - 1e-6).all(), "what begins a segment is paid in time whole"


def test_shares_of_one_segment_are_those_of_what_is_left_of_the_answer(answers):
    batch, spans = answers
    found = in_time.shares(batch, spans, TOKENIZER, 0).set_index("method")
    length = batch["completion_mask"].sum(1, keepdim=True)
    weights = spans.credits.abs()
    expected = float(((length - spans.deciding) / length * weights).sum() / weights.sum())
    assert found.loc["bandit", "even"] == pytest.approx(expected)
    assert found.loc["bandit", "tokens"] == pytest.approx(float(length.double().mean()))
    spanned = segment_lengths(spans.ids)
    assert found.loc["oracle-dense-even", "tokens"] == pytest.approx(float(spanned.sum() / (spanned > 0).sum()))


def test_shares_and_curves_are_drawn_with_their_units(answers):
    figure, numbers = instrument_figures.shares(in_time.shares(*answers, TOKENIZER, 0))
    assert "credit (share)" in svg(figure) and len(numbers) == len(in_time.CUT)
    made = records(("bandit", "segment"))
    text = "true return (credit)"
    figure, numbers = instrument_figures.over_rounds({"then": [], "now": made}, "true_return", text)
    assert "rollout batches" in svg(figure) and set(numbers.group) == {"now"}
    assert set(numbers.method) == {"bandit", "segment"}


def test_records_of_version_01_may_be_missing_and_todays_may_not_be_misspelt(capsys):
    made = namespace("instrument", before="nowhere")
    assert parameters.results(made, "before", needed=False) == ([], "")
    with pytest.raises(ValueError, match="before 'nowhere' is no folder below data/results"):
        parameters.results(made, "before")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of what the notebook needs, without records."""
    for name in ("lib", "data/models/cpu/sft"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "instrument.ipynb", tmp_path / "notebooks")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    return tmp_path


def executed(tree) -> nbformat.NotebookNode:
    made = tree / "out.ipynb"
    run_notebook(tree / "notebooks" / "instrument.ipynb", made, {"profile": "smoke", "n": 100}, tree, say=str)
    return nbformat.read(made, as_version=4)


def quoted(notebook) -> set[str]:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return {o.metadata["scrapbook"]["name"] for o in outputs if "scrapbook" in o.get("metadata", {})}


def test_the_notebook_shows_what_needs_no_record_then_what_two_seeds_say(tree):
    """And what other pages quote is there both times."""
    empty = executed(tree)
    assert "no record yet" in page(empty) and "True spans" in page(empty)
    made_at = {"commit": "c0ffee", "device": "cpu", "tokens": 9, "peak_rss_mib": 1.0}
    for r in records(("sft", "bandit", "oracle-dense", "appo", "token-literal"), seeds=(0, 1)):
        r["provenance"] |= made_at
        r["curves"] = [row | {"preferred": 0.5, "explained_variance": 0.3} for row in r.get("curves", [])]
        for name in ("brief", "cpu-0.1"):
            write_record(tree / "data" / "results" / name / "runs.jsonl", r)
    full = executed(tree)
    assert quoted(empty) == quoted(full)
    shown = page(full)
    assert "Oracle, per span less" in shown and "c0ffee" in shown and shown.count("<figure ") == 5
    assert METHODS["appo"].label in shown and "Left out: True return where a held-out proxy" in shown


def test_what_a_control_reads_of_a_record_by_hand():
    run = {
        "method": "appo",
        "seed": 4,
        "final": {"true_return": 3.0, "perfect": 5.0},
        "params": {"profile": {"rollouts": 8}},
    }
    run["credit"] = {"advantages_credit_pearson": 0.3, "rewards_credit_pearson": 0.9, "causal_share": 0.7}
    run["curves"] = [{"true_return": x, "kl": 0.0, "preferred": x / 10} for x in (1.0, 2.0, 6.0)]
    expected = {"return": 3.0, "area": 3.0, "headroom": 0.5, "fidelity": 0.3, "paid too early": 0.3}
    expected |= {"preferred": 0.3, "not preferred": 0.7}
    found = {metric: controls.value(run, metric, {4: 1.0}) for metric in expected}
    assert found == pytest.approx(expected) and {c.metric for c in controls.CONTROLS} == set(expected)
    assert controls.value(run, "headroom", {0: 1.0}) is None, "another seed's SFT model is another start"
    bare = {"method": "dpo", "seed": 4, "final": {"true_return": 3.0}}
    assert [controls.value(bare, metric, {4: 1.0}) for metric in expected if metric != "area"] == [3.0] + [None] * 5


@pytest.mark.parametrize(
    "returns, verdict",
    [([4.5, 4.6, 4.7], "holds"), ([3.9, 4.0, 4.6], "open"), ([3.0, 3.1, 3.2], "fails"), ([4.5], "one seed")],
)
def test_a_level_is_reached_where_the_whole_interval_is_above_it(returns, verdict):
    """The headroom of .8 is a return of 4 here; a mean above it is no proof."""
    runs = [{"method": "sft", "seed": s, "final": {"true_return": 0.0}} for s in range(3)]
    runs += [
        {"method": "oracle-dense", "seed": s, "final": {"true_return": x, "perfect": 5.0}, "curves": []}
        for s, x in enumerate(returns)
    ]
    line = controls.tested(runs).query("metric == 'headroom'").iloc[0]
    assert line["verdict"] == verdict and line["difference"] == pytest.approx(sum(returns) / len(returns) / 5 - 0.8)
