"""The sweeps beyond the papers: a missing run is named by a line that makes it, gains are paired, labels are judged by
the truth."""

import json
import shlex
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.metrics import roc_auc_score

from densereward.labels.labeling import labelled
from densereward.labels.revision import conversations, revise_rows
from densereward.seeding import derive
from densereward.text import models
from densereward.text.models import load_causal_lm
from densereward.text.tokens import tokenize_pairs, tokenize_prompt
from report import horizon, horizon_figures, lines, process_figures
from report.notebooks import ROOT
from study import runner, sweeps
from study.identity import parameters
from study.measures import best_of_n, edit_labels, token_lengths
from study.methods import METHODS
from study.profiles import profile
from study.records import read_records
from study.run import Run
from test_figures import record
from testbed import revise, truth

SWEEPS = ("length", "spans", "pairs", "error", "whole")


def parsed(line: str) -> dict:
    """What the study is given by a line that the notebook prints: through make's recipe or as it stands."""
    words = shlex.split(line)
    if words[0] == "make":
        shown = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        words = shlex.split(next(row for row in shown.splitlines() if "study.runner" in row))
    assert words[1:3] == ["-m", "study.runner"]
    app = typer.Typer()
    app.command()(runner.main)
    return typer.main.get_command(app).make_context("study", words[3:]).params


def made(cell: sweeps.Cell, method: str, seed: int, **more) -> dict:
    """The record that the study would write for a run of a cell."""
    run = Run(profile("cpu", **cell.changes), seed)
    return record(method, seed) | {"params": parameters(run.of(METHODS[method]))} | more


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_lines_for_what_is_missing_parse_and_make_exactly_that(sweep):
    lines, records = sweeps.commands([], sweep, "cpu"), []
    assert lines
    for line in lines:
        asked = parsed(line)
        p = profile(asked["profile"], **json.loads(asked["change"]))
        for name in asked["methods"].split(","):
            for seed in map(int, asked["seeds"].split(",")):
                params = parameters(Run(p, seed, asked["dataset"], contrast=asked["contrast"]).of(METHODS[name]))
                records.append(record(name, seed) | {"params": params})
    assert sweeps.commands(records, sweep, "cpu") == [] and horizon.to_do(records, sweep, "cpu") == ""
    everything = [
        (c.at, m, s) for c in sweeps.cells("cpu") if c.sweep == sweep for m in c.methods for s in sweeps.SEEDS
    ]
    assert len(records) == len(everything), "a run is asked for twice"
    gone = records.pop()
    (line,) = sweeps.commands(records, sweep, "cpu")
    assert parsed(line)["methods"] == gone["method"]


@pytest.mark.parametrize("sweep", sweeps.OF_LENGTH)
def test_committed_runs_of_the_comparison_are_the_first_cell(sweep):
    """What the study has measured already is not asked for again."""
    records = read_records(ROOT / "data" / "results" / "brief" / "runs.jsonl")
    first = next(c for c in sweeps.cells("brief") if c.sweep == sweep)
    assert not sweeps.missing(records, first, "brief")
    frame = horizon.values(records, sweep, "brief")
    sft = [r["final"]["length"] for r in sweeps.found(records, first, "brief") if r["method"] == "sft"]
    assert frame["at"].min() == pytest.approx(np.mean(sft), abs=0.06)


def test_make_records_makes_every_length():
    recipe = (ROOT / "Makefile").read_text()
    long = recipe.split("\nLONG = ")[1].split("\n")[0]
    for cell in (c for c in sweeps.cells("brief") if c.sweep in sweeps.OF_LENGTH and c.changes):
        asked = recipe.split(f" --seeds $(FIVE) --change '{json.dumps(cell.changes)}'")[0].rsplit("--methods ", 1)[1]
        assert set(asked.replace("$(LONG)", long).split(",")) == set(cell.methods)
    for cell in (c for c in sweeps.cells("brief") if c.sweep in ("pairs", "whole") and c.changes):
        line = f"--methods {','.join(cell.methods)} --seeds $(FIVE) --change '{json.dumps(cell.changes)}'"
        assert line in recipe
    for name in sweeps.ERRORS:
        assert name == "tlcr" or f",{name}," in recipe or f" {name}," in recipe


def test_records_of_other_settings_are_left_out():
    cell = next(c for c in sweeps.cells("cpu") if c.sweep == "pairs" and c.at == 4_000)
    good = made(cell, "bandit", 0)
    other = json.loads(json.dumps(good))
    other["params"]["profile"]["kl_coef"] = 0.5
    assert sweeps.found([other, good], cell, "cpu") == [good]
    assert sweeps.missing([other], cell, "cpu") == cell.methods


# --- gains


def planted(slope: float) -> pd.DataFrame:
    """Returns at three lengths whose gain over the bandit grows by `slope` per doubling, on seeds far apart."""
    rows = []
    for seed in (0, 1, 2):
        for at in (25.0, 50.0, 100.0):
            base = 10 * seed + at
            rows += [(at, "bandit", seed, base), (at, "token", seed, base + slope * np.log2(at) + 0.01 * seed)]
    return pd.DataFrame(rows, columns=["at", "method", "seed", "value"])


def test_a_gain_over_a_row_that_training_took_below_the_sft_model_is_left_out():
    """A policy that stops at once is ahead of one that loops; on a page that looks like a gain of density."""
    ends = {"sft": 0.0, "bandit": -5.0, "segment": -1.0, "oracle-dense": 2.0, "oracle-sequence": 1.5}
    frame = pd.DataFrame(
        [
            (at, m, s, x + (6 if at < 100 else 0) * (m == "bandit"))
            for at in (30.0, 190.0)
            for m, x in ends.items()
            for s in (0, 1)
        ],
        columns=["at", "method", "seed", "value"],
    )
    kept = horizon.readable(horizon.gains(frame), frame)
    assert set(zip(kept["at"], kept.against)) == {
        (30.0, "bandit"),
        (30.0, "oracle-sequence"),
        (190.0, "oracle-sequence"),
    }
    unknown = frame[frame.method != "sft"]
    assert len(horizon.readable(horizon.gains(unknown), unknown)) == len(horizon.gains(unknown)), "no start, no verdict"


@pytest.mark.parametrize("slope, verdict", [(0.7, "grows"), (-0.7, "shrinks")])
def test_a_planted_slope_is_found_whatever_seeds_have_in_common(slope, verdict):
    gaps = horizon.gains(planted(slope))
    found = horizon.slopes(gaps)
    assert found["mean"].tolist() == pytest.approx([slope]) and found.seeds.tolist() == [3]
    told = horizon.changes(gaps, "length").iloc[0]
    assert (told.gain, told.verdict, told.seeds) == ("Token over Bandit (sequence)", verdict, 3)
    assert told["change per doubling of length (credit)"].startswith(f"{slope:.2f} ")


def test_a_seed_without_its_partner_has_no_gain():
    frame = planted(1.0)
    frame = frame[~((frame.method == "bandit") & (frame.seed == 2))]
    assert set(horizon.gains(frame).seed) == {0, 1}
    one = horizon.gains(frame[frame["at"] == 25.0])
    assert horizon.changes(one, "length").empty


def test_lengths_go_from_words_to_letters_and_limits_cut_next_to_nothing():
    found = token_lengths.token_lengths(Run(profile("cpu")), 300)
    assert found["tokens per answer"].is_monotonic_increasing
    assert found["tokens per answer"].iloc[-1] > 4 * found["tokens per answer"].iloc[0]
    assert (found["cut (share)"] < 0.005).all()
    assert (found.limit / found["tokens per answer"]).between(3, 4.5).all(), "room for loops differs between lengths"
    assert found["spans per answer"].nunique() == 1, "the same answers"
    for changes in sweeps.LENGTHS:
        p = profile("cpu", **changes)
        assert p.max_prompt_length >= {768: 20, 400: 40, 275: 70, 261: 80}[p.vocab_size]


def test_more_parts_make_answers_of_more_spans_up_to_200_tokens():
    run = Run(profile("cpu"))
    found = token_lengths.token_lengths(run, 300, "spans")
    assert list(found)[0] == "kinds at once" and found["kinds at once"].tolist() == [1, 2, 3, 4]
    assert (found["spans per answer"] / found["spans per answer"].iloc[0]).tolist() == pytest.approx(
        [1, 1.85, 2.7, 3.5], rel=0.1
    )
    assert found["tokens per answer"].iloc[-1] == pytest.approx(200, abs=8)
    assert (found["cut (share)"] == 0).all()
    assert (found.limit / found["tokens per answer"]).between(3, 4.5).all(), "room for loops differs between lengths"
    for changes in sweeps.SPANS:
        p = profile("cpu", **changes)
        assert p.world.kinds == p.world.parts + 2, "how many kinds are asked for, and not this time, differs"
        texts = [row["prompt"] for row in replace(run, profile=p).splits(ppo=300)["ppo"]]
        words = [m["content"] for row in texts for m in row]
        tokenizer = models.build_tokenizer(words, p.vocab_size)
        longest = max(len(tokenize_prompt(tokenizer, row)) for row in texts)
        assert longest <= p.max_prompt_length, "prompts would be left out"


def test_values_know_how_many_kinds_a_prompt_asks_for():
    cells = [c for c in sweeps.cells("cpu") if c.sweep == "spans"][:2]
    made_of = [made(cell, name, 0) for cell in cells for name in ("sft", "bandit")]
    for r, length in zip(made_of, (30.0, 30.0, 60.0, 60.0)):
        r["final"] = r["final"] | {"length": length}
    frame = horizon.values(made_of, "spans", "cpu")
    assert frame.groupby("at")["parts"].first().to_dict() == {30.0: 1, 60.0: 2}
    table = horizon.table(made_of, "spans", "cpu")
    assert "kinds asked for at once: 2" in set(table.setting)
    assert list(horizon.table(made_of[2:], "spans", "cpu"))[0] == "method", "one setting names no row"


# --- labels


def test_the_area_under_the_curve_is_that_of_the_truth_and_falls_with_the_revisers_error():
    run = Run(profile("smoke"))
    tokenizer = load_causal_lm(ROOT / "data" / "models" / "cpu" / "sft")[1]
    rows, _ = tokenize_pairs(run.splits(test=80)["test"], tokenizer, 64, 128)
    found = edit_labels.auc(run, tokenizer, rows, (0.0, 0.5))
    bad, out = [], []
    reviser = revise.oracle_reviser(derive(0, "reviser"), 0.5)
    for row in labelled(rows, revise_rows(reviser, conversations(rows, tokenizer)), tokenizer, 128)[0]:
        if row["side"] == "rejected":
            prompt = truth.text_of(tokenizer, row["prompt_ids"])
            ids, credits, *_ = truth.spans_of(tokenizer, [prompt], [row["completion_ids"]])
            bad += [bool(credits[0][i] < 0) for i in ids[0]]
            out += [label == 0 for label in row["labels"]]
    assert found.auc.iloc[1] == pytest.approx(roc_auc_score(bad, np.array(out, float)))
    assert found.edited.iloc[1] == pytest.approx(np.mean(out))
    assert found.low.iloc[0] > found.high.iloc[1] > 0.5


# --- figures


def beside(ax) -> set[str]:
    """The names that stand at the right of the axes, and so through no point."""
    return {text.get_text() for text in ax.texts if text.get_gid() == lines.NAME}


def test_figures_draw_every_seed_and_setting():
    gaps = horizon.gains(planted(1.0))
    figure, numbers = horizon_figures.gains(gaps)
    assert numbers[["line", "at"]].values.tolist() == [["token/bandit", at] for at in (25.0, 50.0, 100.0)]
    dots = [len(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert dots == [9], "a dot for each seed and setting"
    figure, numbers = horizon_figures.by_pairs(planted(1.0), planted(0.1), {"gate": 0.7})
    assert "gate" in beside(figure.axes[1])
    assert set(numbers.measure) == {"true return (credit)", "agrees with held-out labels (share of pairs)"}
    auc = pd.DataFrame({"error": [0.0, 0.5], "auc": [0.9, 0.7], "low": [0.8, 0.6], "high": [0.95, 0.8]})
    none = pd.DataFrame(columns=["at", "method", "seed", "value"])
    assert len(horizon_figures.by_error(none, auc)[0].axes) == 1
    returns = pd.DataFrame({"at": [0.0, 0.5], "method": "tlcr", "seed": 0, "value": [1.0, 0.0]})
    figure, _ = horizon_figures.by_error(returns, auc)
    assert len(figure.axes) == 2 and "chance" in beside(figure.axes[1])


def test_best_of_n_is_drawn_with_every_reader_and_pooled_over_seeds():
    draw = np.random.default_rng(0)
    records = [
        {"seed": s, "ns": [1, 2], "values": {r: draw.normal(size=(12, 2)) for r in ("bandit", "process-1-sum")}}
        for s in (0, 1)
    ]
    values, ns = best_of_n.pooled(records)
    assert np.allclose(values["bandit"], (records[0]["values"]["bandit"] + records[1]["values"]["bandit"]) / 2)
    numbers = best_of_n.summed(values, ns, "bandit", np.random.default_rng(1))
    figure, drawn = process_figures.over_n({"a": numbers, "b": numbers}, "right (share)")
    assert figure.axes[0].get_ylabel().split() == ["right", "(share)"] and len(drawn) == 8
    assert process_figures.words("process-1-sum") == "process, sum, label noise 1"
    lead = best_of_n.over_seeds(records, "bandit")
    assert lead.reader.tolist() == ["process-1-sum"] and lead.low.iloc[0] < lead.lead.iloc[0] < lead.high.iloc[0]
    records[1]["ns"] = [1]
    with pytest.raises(ValueError, match="seeds 0 and 1 hold other n"):
        best_of_n.pooled(records)
