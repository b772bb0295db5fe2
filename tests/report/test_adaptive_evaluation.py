"""What is said of masks is what counting by hand gives, and adaptive-mask's claim is paired as it is meant."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.reward import rewards
from densereward.reward.masks import Masked, adaptive_mask
from densereward.seeding import rng
from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from densereward.text.offsets import token_offsets
from densereward.text.tokens import tokenize_prompt, tokenize_response
from report import mask_figures, preference_figures, strips, tables, twins
from study.measures import answer_rewards, mask_quality
from study.methods import METHODS
from study.summary import label
from test_figures import records
from testbed import build, oracle, world

MASKED = tuple(twins.TWINS)
SIX = ("sft", *(name for pair in twins.TWINS.items() for name in pair))

# --- what a mask keeps -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told():
    """(Read of 24 testbed pairs under a random scorer, tokenizer, answers as a frame)."""
    rows = build.preference_pairs(world.World(kinds=3), "test", 24, rng(0, "masks"))
    tokenizer = build_tokenizer([m["content"] for r in rows for m in r["prompt"] + r["chosen"] + r["rejected"]], 600)
    torch.manual_seed(0)
    model = tiny_llama(tokenizer, width=16, layers=1).eval()
    net = scorer_from(model).eval()
    torch.nn.init.normal_(net.head.weight, std=1.0)
    payers = {}
    for name, cut in (("token", {"kind": "token"}), ("segment", {"kind": "ngram", "n": 5})):
        row = replace(METHODS[name], segmentation=cut, normaliser={"kind": "none"}, interpolation="repeat")
        fitted = rewards.fit_normaliser(
            scores=torch.zeros(4, 1), segment_mask=torch.ones(4, 1).bool(), **row.normaliser
        )
        payers[name] = answer_rewards.Payer(row, None, net, fitted, None, None)
    columns = {"prompt_ids": [tokenize_prompt(tokenizer, r["prompt"]) for r in rows]}
    columns |= {
        f"{s}_completion_ids": [tokenize_response(tokenizer, r[s][0]["content"]) for r in rows]
        for s in ("chosen", "rejected")
    }
    frame = answer_rewards.answers(columns, tokenizer, True, "additive")
    return mask_quality.read(payers, model, tokenizer, frame), tokenizer, frame, model, net


def test_answers_are_read_one_by_one_as_in_batches(told):
    """Rewards, credits and sides stay with their answer, however answers are sorted into batches."""
    read, tokenizer, frame, model, net = told
    assert read.chosen.tolist() == [True] * 24 + [False] * 24
    for i in (0, 7, 23, 24, 40):
        prompt, ids = frame.prompt_ids[i], frame.completion_ids[i]
        whole = torch.tensor([prompt + ids])
        with torch.no_grad():
            wanted = net.token_scores(whole, torch.ones_like(whole))[0, len(prompt) :]
        assert read.mask[i].sum() == len(ids)
        assert read.rewards["token"][i, : len(ids)].tolist() == pytest.approx(wanted.tolist(), abs=1e-4)
        text, offsets = token_offsets(tokenizer, ids)
        spans = oracle.parse(frame.prompt[i], text)
        credit = [spans[n].credit for n in oracle.token_spans(spans, offsets)]
        assert read.credit[i, : len(ids)].tolist() == pytest.approx(credit)
        last = [
            n != m for n, m in zip(oracle.token_spans(spans, offsets), [*oracle.token_spans(spans, offsets)[1:], -1])
        ]
        assert read.ends[i, : len(ids)].tolist() == last and not read.ends[i, len(ids) :].any()
        cut = read.segments[i, : len(ids)]
        paid = read.rewards["segment"][i, : len(ids)]
        assert all(len(set(paid[cut == s].tolist())) == 1 for s in cut.unique()), "one reward for a whole segment"
        assert not read.rewards["token"][i, len(ids) :].any() and (read.segments[i, len(ids) :] == -1).all()


tokens = st.tuples(st.sampled_from([-1.0, -0.2, 0.0, 0.2, 1.0]), st.sampled_from([-1.5, -0.5, 0.0, 0.3, 2.0]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(tokens, min_size=1, max_size=6)), min_size=1, max_size=5),
    st.sampled_from([("threshold", 0.0), ("three-way", 0.4), ("schmitt", 0.4), ("three-way", 9.0)]),
    st.sampled_from([-0.5, 0.0, 0.3]),
)
def test_counts_are_those_of_a_loop_over_tokens(answers, how, baseline):
    width = max(len(row) for _, row in answers)
    mask = torch.tensor([[i < len(row) for i in range(width)] for _, row in answers])
    credit, paid = (
        torch.tensor([[x[k] for x in row] + [0.0] * (width - len(row)) for _, row in answers]) for k in (0, 1)
    )
    chosen, (decision, delta) = torch.tensor([side for side, _ in answers]), how
    found = adaptive_mask(paid, mask, chosen, baseline, decision, delta)
    lines = mask_quality.counts(found, mask, chosen, credit).to_dict("records")
    for (side, row), line in zip(answers, lines):
        names = ("tokens", "kept", "right", "kept_right", "wrong", "kept_wrong", "flips", "changes")
        wanted, state, last, before = dict.fromkeys(names, 0), 0, None, None
        for worth, reward in row:
            if decision == "threshold":
                state = 1 if reward > baseline else -1
            elif reward > np.float32(baseline) + delta:
                state = 1
            elif reward < np.float32(baseline) - delta:
                state = -1
            elif decision == "three-way":
                state = 0
            kept = state == (1 if side else -1)
            right, wrong = (worth > 0, worth < 0) if side else (worth < 0, worth > 0)
            for name, is_so in (("tokens", True), ("kept", kept), ("right", right), ("wrong", wrong)):
                wanted[name] += is_so
            wanted["kept_right"] += kept and right
            wanted["kept_wrong"] += kept and wrong
            wanted["changes"] += before not in (None, state)
            before = state
            if state:
                wanted["flips"] += last not in (None, state)
                last = state
        assert {name: line[name] for name in wanted} == wanted
        assert (line["side"] == "chosen") == side and line["emptied"] == (wanted["kept"] == 0)


def test_shares_are_of_tokens_and_hold_in_their_intervals(told):
    read = told[0]
    found = adaptive_mask(read.rewards["token"], read.mask, read.chosen, 0.0)
    counted = mask_quality.counts(found, read.mask, read.chosen, read.credit)
    lines = mask_quality.shares(counted, rng(0, "shares")).set_index("side")
    for side, part in counted.groupby("side"):
        line, total = lines.loc[side], part.sum(numeric_only=True)
        assert line.kept == pytest.approx(total.kept / total.tokens)
        assert line.right == pytest.approx(total.kept_right / total.kept)
        assert line.wrong == pytest.approx(total.kept_wrong / total.kept)
        assert line.right_all == pytest.approx(total.right / total.tokens)
        assert line.found == pytest.approx(total.kept_right / total.right)
        assert line.left == pytest.approx(total.kept_wrong / total.wrong)
        for name in ("kept", "right", "found"):
            assert line[f"{name}_low"] <= line[name] <= line[f"{name}_high"]


def test_a_mask_of_the_truth_is_right_everywhere_and_its_opposite_nowhere(told):
    read = told[0]
    for sign, wanted in ((1, 1.0), (-1, 0.0)):
        oracle_read = read._replace(rewards={"token": sign * read.credit})
        setting = [{"by": "token", "baseline": 0.0, "decision": "three-way", "delta": 0.01}]
        lines = mask_quality.sweep(oracle_read, setting, rng(0, "truth"))
        assert lines.right.tolist() == [wanted] * 2 and lines.found.tolist() == [wanted] * 2
        assert lines.wrong.tolist() == [1 - wanted] * 2


def test_sweeps_say_what_they_set(told):
    read, *_ = told
    offsets = mask_quality.over_offsets(read, (0.0, 0.5, 50.0), rng(0, "sweep"))
    assert len(offsets) == 2 * 2 * 3 * 2
    widest = offsets[offsets.delta == 50]
    assert (widest.emptied == 1).all() and (widest.kept == 0).all() and widest.right.isna().all()
    means = {name: float(values[read.mask].double().mean()) for name, values in read.rewards.items()}
    assert offsets.baseline.tolist() == pytest.approx([means[by] for by in offsets.by])
    levels = mask_quality.over_baselines(read, (-100.0, 0.0, 100.0), rng(0, "sweep"))
    low, high = (levels[levels.baseline == x].set_index(["by", "side"]).kept for x in (-100, 100))
    assert (low.xs("chosen", level="side") == 1).all() and (low.xs("rejected", level="side") == 0).all()
    assert (high.xs("chosen", level="side") == 0).all() and (high.xs("rejected", level="side") == 1).all()
    per = mask_quality.sweep(read, [{"by": "token", "per": x} for x in ("token", "segment")], rng(0, "sweep"))
    assert per.flips[2:].sum() < per.flips[:2].sum(), "deciding a segment as one changes less often"
    ends = mask_quality.sweep(read, [{"by": "token", "at": "ends"}], rng(0, "sweep")).set_index("side")
    found = adaptive_mask(read.rewards["token"], read.mask, read.chosen, means["token"]).mask.bool()
    for side, rows in (("chosen", slice(24)), ("rejected", slice(24, 48))):
        at, sign = read.ends[rows], 1 if side == "chosen" else -1
        assert ends.kept[side] == pytest.approx(found[rows][at].double().mean())
        assert ends.right[side] == pytest.approx((sign * read.credit[rows][at & found[rows]] > 0).double().mean())
    shown = mask_quality.table(per)
    assert len(shown) == 4 and "token rewards, per segment" in set(shown["decided by"])
    changes = offsets[offsets.by == "token"].groupby(["decision", "delta"]).changes.mean()
    said = mask_quality.steadied(offsets, "token", 0.5)
    assert all(f"{changes[at]:.1f} times" in said for at in (("schmitt", 0.0), ("three-way", 0.5), ("schmitt", 0.5)))
    assert "chosen answers" in mask_quality.sentence(per[:2])


def found_of(read) -> Masked:
    return adaptive_mask(read.rewards["token"], read.mask, read.chosen, 0.0)


def test_on_text_without_credit_only_what_is_kept_is_told(told):
    read = told[0]._replace(credit=None, ends=None)
    lines = mask_quality.over_offsets(read, (0.5, 1.0), rng(0, "sweep"))
    assert "right" not in lines and lines.kept.between(0, 1).all() and lines.kept_low.notna().all()
    few = mask_quality.shares(mask_quality.counts(found_of(read), read.mask, read.chosen).iloc[20:28], rng(0, "few"))
    assert few.kept.between(0, 1).all() and few[["kept_low", "kept_high"]].isna().all(axis=None)
    figure, _ = mask_figures.over(lines, "delta", "offset (deviations)")
    figure.canvas.draw()
    assert len(figure.axes) == 2 and len(mask_quality.table(lines)) == len(lines)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_masks_name_their_units(told):
    read = told[0]
    offsets = mask_quality.over_offsets(read, (0.5, 1.0), rng(0, "sweep"))
    levels = mask_quality.over_baselines(read, (-1.0, 0.0, 1.0), rng(0, "sweep"))
    mark = mask_quality.sweep(read, [{"by": by} for by in read.rewards], rng(0, "sweep"))
    drawn = mask_figures.over(offsets, "delta", "offset (deviations)"), mask_figures.changes(offsets)
    figure, numbers = mask_figures.over(levels, "baseline", "baseline (deviations)", mark)
    assert len(numbers) == len(levels) + len(mark)
    for made in (figure, *(x for x, _ in drawn)):
        made.canvas.draw()
        assert all("(" in ax.get_ylabel() for ax in made.axes if ax.get_ylabel())
        assert any("(" in ax.get_xlabel() for ax in made.axes)


def test_a_masked_token_is_struck_through_and_a_kept_one_is_not():
    found = Masked(torch.tensor([1, 0, 0]), torch.tensor([1, -1, 0]), torch.tensor([False]))
    page = strips.masked("m", ["a", "b", "c"], found.mask.tolist(), found.states.tolist())
    struck = [m[1] for m in re.finditer(r"<span [^>]*line-through[^>]*>(.)</span>", page)]
    assert struck == ["b", "c"] and "1 of 3 tokens kept" in page
    assert 'title="good: kept"' in page and 'title="bad: masked"' in page and 'title="neutral: masked"' in page


def with_masks(names=SIX, seeds=(0, 1, 2)) -> list[dict]:
    made = records(names, seeds)
    for r in made:
        draw = np.random.default_rng([r["seed"], *map(ord, r["method"])])
        r["final"]["answers"] = {"true_return": draw.integers(-2, 3, 40).tolist()}
        for row in r.get("curves", []):
            if r["method"] == "appo":
                row |= {"kept": 0.7, "emptied": 1}
            elif r["method"] in MASKED:
                row |= {"kept_chosen": 0.6, "kept_rejected": 0.4, "emptied_chosen": 0, "emptied_rejected": 2}
            row["win_rate"] = float(draw.uniform(0, 1))
            if METHODS[r["method"]].trainer in ("online-dpo", "rs"):
                row["tokens"] = 1000
    return made


def test_training_is_drawn_over_the_tokens_that_were_sampled():
    made = with_masks()
    figure, numbers = mask_figures.over_tokens(made)
    figure.canvas.draw()
    assert len(figure.axes) == 9 and set(numbers.method) == set(SIX) - {"sft"}
    found = numbers[(numbers.method == "adpo") & (numbers.metric == "true_return")]
    assert found.tokens.tolist() == [1000 * (i + 1) for i in range(len(found))]
    runs = [r for r in made if r["method"] == "bandit"]
    counted = np.mean([np.cumsum([64 * row["length"] for row in r["curves"]]) for r in runs], axis=0)
    found = numbers[(numbers.method == "bandit") & (numbers.metric == "true_return")]
    assert found.tokens.to_numpy() == pytest.approx(counted)
    assert found["mean"].iloc[-1] == pytest.approx(np.mean([r["curves"][-1]["true_return"] for r in runs]))
    on_text = [r for r in with_masks() if "curves" in r]
    for row in (row for r in on_text for row in r["curves"]):
        del row["true_return"], row["win_rate"]
    figure, numbers = mask_figures.over_tokens(on_text)
    figure.canvas.draw()
    assert len(figure.axes) == 3 and set(numbers.metric) == {"proxy_reward"}
    figure, numbers = mask_figures.over_tokens(with_masks(("sft", "appo")))
    assert len(figure.axes) == 3 and set(numbers.method) == {"appo"}


def test_win_rates_over_training_are_paired_by_seed_and_round():
    made = with_masks()
    gone = next(r for r in made if (r["method"], r["seed"]) == ("ars", 2))
    for row in gone["curves"]:  # an older record
        del row["win_rate"]
    found = twins.through_training(made).set_index("method")
    rate = {
        (r["method"], r["seed"]): np.array([row.get("win_rate") for row in r["curves"]]) for r in made if "curves" in r
    }
    for masked, twin, seeds in (("appo", "bandit", 3), ("ars", "rs", 2)):
        still = 8 if masked == "appo" else 0  # rounds of the critic alone
        gaps = [(rate[masked, seed] - rate[twin, seed])[still:] for seed in range(seeds)]
        line = found.loc[label(masked)]
        assert line.seeds == seeds and line.difference == pytest.approx(np.mean(gaps))
        assert line["rounds ahead (share)"] == pytest.approx(np.mean(np.concatenate(gaps) > 0))
    assert twins.through_training(records(SIX)).empty, "records that are older than win rates"


def test_what_training_kept_is_drawn_and_summed():
    made = [r for r in with_masks() if r["method"] in MASKED]
    figure, numbers = mask_figures.kept(made)
    figure.canvas.draw()
    assert set(numbers.of) == set(mask_figures.KEPT) and len(figure.axes) == 3
    assert [len(ax.get_legend_handles_labels()[1]) for ax in figure.axes] == [1, 2, 2]
    assert numbers[numbers.of == "kept"]["mean"].unique() == pytest.approx([0.7])
    one, _ = mask_figures.kept([r for r in made if r["method"] == "appo"])
    one.canvas.draw()  # records of one masked method, with nothing of best and worst answers
    assert len(one.axes) == 1
    lines = mask_figures.emptied(made).set_index(["method", "of"])
    column = lines["emptied (samples, all rounds and seeds)"]
    assert column["APPO", "all answers"] == 36 and column["ADPO", "the worst"] == 72 and column["ARS", "the best"] == 0


# --- the claim -------------------------------------------------------------------------------------------------------


def test_every_masked_row_has_a_base_that_is_a_row():
    assert set(MASKED) | set(twins.variants()) == {name for name, row in METHODS.items() if row.mask is not None}
    for name in twins.variants():
        row, start = METHODS[name], METHODS[twins.base(name)]
        assert (row.trainer, row.segmentation) == (start.trainer, start.segmentation), name
    assert {twins.base(n) for n in twins.variants()} == {"dpo", "kto", "grpo", "token", "appo", "adpo", "ars"}
    for masked, twin in twins.TWINS.items():
        assert replace(METHODS[masked], name=twin, label="", source="", mask=None) == replace(
            METHODS[twin], label="", source=""
        )


def test_averages_are_the_papers_and_its_columns():
    found = twins.averages()
    assert found.printed["adpo"] == 0.8110 and found.recomputed["adpo"] == pytest.approx(0.8080, abs=5e-5)
    assert found.recomputed.idxmax() == "ars" and found.printed.idxmax() == "adpo"


def test_gains_pair_each_method_with_its_own_twin():
    made = with_masks()
    runs = tables.alike(made)
    found = twins.gains(runs).set_index("method")
    value = {(r["method"], r["seed"]): r["final"]["true_return"] for r in made}
    for masked, twin in twins.TWINS.items():
        gaps = [value[masked, s] - value[twin, s] for s in range(3)]
        line = found.loc[label(masked)]
        assert line.difference == pytest.approx(np.mean(gaps)) and line.seeds == 3 and line["less"] == label(twin)
        assert line.wins == sum(g > 0 for g in gaps)
    kl = twins.changes(runs, twins.TWINS, "final.kl").set_index("row")
    gaps = [
        r["final"]["kl"] * (1 if r["method"] == "adpo" else -1) for r in made if r["method"] in ("adpo", "online-dpo")
    ]
    assert kl.difference["ADPO"] == pytest.approx(sum(gaps) / 3) and kl.seeds.tolist() == [3, 3, 3]
    assert found.printed["APPO"] == pytest.approx(0.8044 - 0.7923)
    assert found.recomputed["ARS"] == pytest.approx(0.8087 - 0.7928, abs=1e-4)
    assert "APPO less Bandit (sequence)" in twins.verdict(found.reset_index())


def test_pairs_without_records_stay_and_say_so():
    runs = tables.alike(with_masks(("sft", "bandit", "appo")))
    found = twins.gains(runs).set_index("method")
    assert found.seeds.tolist() == [3, 0, 0] and found.sign["ADPO"] == "no record" and found.printed.notna().all()
    assert twins.verdict(found.reset_index()).count("no record") == 2
    assert twins.duels(runs)[["method", "other"]].values.tolist() == [["appo", "bandit"]]
    assert twins.duels(runs, "sft").method.tolist() == ["bandit", "appo"]
    assert twins.orders(runs).tau.isna().all()
    lines = twins.changes(runs, ["appo-fixed", "adpo-fixed"])
    assert lines.seeds.tolist() == [0, 0] and lines.difference.isna().all()
    empty = twins.duels([])
    assert empty.empty and isinstance(empty, pd.DataFrame)


def test_orders_and_duels_with_every_record():
    made = with_masks()
    runs = tables.alike(made)
    found = twins.orders(runs)
    assert len(found) == 14 and found.rows.eq(7).all() and found.tau.between(-1, 1).all()
    duels = twins.duels(runs)
    assert duels.method.tolist() == list(MASKED) and duels.other.tolist() == list(twins.TWINS.values())
    figure, _ = preference_figures.win_bars(duels)
    figure.canvas.draw()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()][0] == "APPO\nagainst Bandit (sequence)"
    figure, _ = preference_figures.win_bars(twins.duels(runs, "sft"))
    figure.canvas.draw()
    assert "APPO" in [t.get_text() for t in figure.axes[0].get_yticklabels()]
    triggered = made + with_masks(tuple(twins.TRIGGERED))
    lines = twins.changes(triggered, twins.TRIGGERED, less=twins.TRIGGERED.get)
    assert lines.seeds.tolist() == [3, 3, 3], "the twin without a mask, not the masked row that a trigger changes"
    assert lines["less"].tolist() == [label(twin) for twin in twins.TWINS.values()]
    lines = twins.changes(made + records(("appo-fixed",), (0,)), ["appo-fixed"])
    assert lines.seeds.tolist() == [1] and np.isnan(lines.low[0]) and lines["less"][0] == "APPO"
