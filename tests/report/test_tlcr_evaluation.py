"""What is said of revisers, discriminators and policies under other rewards is what counting by hand gives."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.labels import labeling
from densereward.reward import rewards
from densereward.seeding import rng
from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from densereward.text.offsets import token_offsets
from densereward.text.tokens import tokenize_prompt, tokenize_response
from densereward.training import discriminator as D
from report import preference_figures, tables
from study import effort
from study.measures import answer_rewards, cross, discrimination, revisers
from study.methods import METHODS
from study.profiles import profile
from study.run import Run
from study.stages import scorer
from test_figures import record, records
from testbed import build, oracle, world


@pytest.fixture(scope="module")
def answers():
    """(tokenizer, pairs of the testbed as rows of token ids)."""
    rows = build.preference_pairs(world.World(kinds=3), "test", 24, rng(0, "revisers"))
    texts = [m["content"] for r in rows for m in r["prompt"] + r["chosen"] + r["rejected"]]
    tokenizer = build_tokenizer(texts, 600)
    return tokenizer, rows


def ids(tokenizer, rows, side):
    return [tokenize_response(tokenizer, r[side][0]["content"]) for r in rows]


# --- revisers --------------------------------------------------------------------------------------------------------


def test_agreement_is_what_a_loop_over_tokens_counts(answers):
    tokenizer, rows = answers
    prompts = [r["prompt"][-1]["content"] for r in rows]
    rejected, revised = ids(tokenizer, rows, "rejected"), ids(tokenizer, rows, "chosen")
    labels = [labeling.edit_labels(a, b) for a, b in zip(rejected, revised)]
    found = revisers.agreement(
        tokenizer, (prompts, rejected, [a for a, _ in labels]), (prompts, revised, [b for _, b in labels])
    )
    flawed, negative, worthy, positive, hit = [], [], [], [], []
    for prompt, bad, good, (a, b) in zip(prompts, rejected, revised, labels):
        for side, tokens, marked in (("rejected", bad, a), ("revised", good, b)):
            text, offsets = token_offsets(tokenizer, tokens)
            spans = oracle.parse(prompt, text)
            where = oracle.token_spans(spans, offsets)
            for i, label in zip(where, marked):
                if i >= 0 and side == "rejected":
                    flawed.append(spans[i].credit < 0 or spans[i].misspelt)
                    negative.append(label == 0)
                elif i >= 0:
                    worthy.append(spans[i].credit > 0)
                    positive.append(label == 1)
            if side == "rejected":
                for n, span in enumerate(spans):
                    if span.credit < 0 or span.misspelt:
                        hit.append(any(i == n and label == 0 for i, label in zip(where, marked)))
    flawed, negative, worthy, positive = map(np.array, (flawed, negative, worthy, positive))
    assert found["flawed"] == pytest.approx(flawed.mean())
    assert found["negatives right"] == pytest.approx(flawed[negative].mean())
    assert found["flaws found"] == pytest.approx(np.mean(hit))
    assert found["worthy"] == pytest.approx(worthy.mean())
    assert found["positives right"] == pytest.approx(worthy[positive].mean())


def test_a_reviser_that_errs_more_helps_less(answers):
    """Without error every revision is better and no flaw is missed by much; the more errors, the less of either."""
    tokenizer, rows = answers
    columns = {"prompt_ids": [tokenize_prompt(tokenizer, r["prompt"]) for r in rows]}
    columns |= {f"{side}_completion_ids": ids(tokenizer, rows, side) for side in ("chosen", "rejected")}
    pairs = labeling.table([dict(zip(columns, row)) for row in zip(*columns.values())], "pairs")
    kinds = {f"{e:g}": {"kind": "oracle", "error": e} for e in (0.0, 0.3, 0.6)} | {"clauses": {"kind": "clauses"}}
    found = revisers.compared(Run(profile("smoke")), kinds, pairs, tokenizer).set_index("reviser")
    assert list(found.index) == list(kinds) and (found.pairs == 24).all()
    assert (found.better + found.equal + found.worse).tolist() == pytest.approx([1] * 4)
    assert found.better["0"] == 1 and found.worse["0"] == 0 and found["flaws found"]["0"] > 0.95
    for name in ("gain (credit)", "flaws found", "positives right"):
        assert found[name]["0"] > found[name]["0.3"] > found[name]["0.6"], name
    assert found["positives right"]["0"] == 1


# --- discriminators --------------------------------------------------------------------------------------------------

tokens = st.lists(
    st.tuples(st.sampled_from([0.05, 0.3, 0.4, 0.5, 0.55, 0.6, 0.9]), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(tokens)
def test_areas_are_shares_of_pairs_in_order(told):
    p, labels = (torch.tensor(x) for x in zip(*told))
    found = discrimination.areas(p, labels)

    def share(high, low):
        pairs = [(a > b) + 0.5 * (a == b) for a in high for b in low]
        return np.mean(pairs) if pairs else np.nan

    away = (p - 0.5).abs()
    cases = {
        "positive against negative": share(p[labels == 1].tolist(), p[labels == 0].tolist()),
        "edited against neutral": share(away[labels != 0.5].tolist(), away[labels == 0.5].tolist()),
    }
    for name, wanted in cases.items():
        assert found[name] == pytest.approx(wanted, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(tokens)
def test_bands_count_what_is_called_and_hold_the_metrics_own(told):
    p, labels = (torch.tensor(x) for x in zip(*told))
    found = discrimination.bands(p, labels, (0.5, 0.6, 0.72)).set_index("confidence")
    for confidence in (0.5, 0.72):
        right = neutral = decided = edited = 0
        for x, y in zip(p.tolist(), labels.tolist()):
            sure = max(x, 1 - x) >= confidence
            called = float(x > 0.5) if sure else 0.5
            right, neutral = right + (called == y), neutral + (not sure)
            if sure and y != 0.5:
                edited, decided = edited + 1, decided + (called == y)
        row = found.loc[confidence]
        assert row.accuracy == pytest.approx(right / len(told))
        assert row.called_neutral == pytest.approx(neutral / len(told))
        assert row.decided == pytest.approx(decided / edited if edited else np.nan, nan_ok=True)
    metrics = D.discriminator_metrics(p, labels)
    assert found.majority.to_numpy() == pytest.approx(metrics["token_majority"])
    if not ({0.4, 0.6} & {round(x, 6) for x in p.tolist()}):  # at the edge, rounding decides
        assert found.accuracy[0.6] == pytest.approx(metrics["token_accuracy"])


def test_figures_of_a_discriminator_show_every_token_and_band():
    draw = torch.Generator().manual_seed(0)
    p, labels = torch.rand(500, generator=draw), torch.randint(0, 3, (500,), generator=draw) / 2
    curve = D.discriminator_metrics(p, labels)["reliability"]
    figure, numbers = preference_figures.reliability({"here": [curve], "records": [curve, curve]})
    figure.canvas.draw()
    assert len(figure.axes) == 2 and len(numbers) == 3 * len(curve)
    assert numbers.tokens.sum() == 3 * int((labels != 0.5).sum())
    figure, numbers = preference_figures.bands(discrimination.bands(p, labels), 0.6)
    figure.canvas.draw()
    assert len(numbers) == len(discrimination.CONFIDENCES)
    assert all(ax.get_xlabel() and "(" in ax.get_xlabel() for ax in figure.axes)


# --- policies under other rewards ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paid(answers):
    """(run, tokenizer, model, payers): two readings of one discriminator, and a bandit of another scorer."""
    tokenizer, _ = answers
    torch.manual_seed(0)
    model = tiny_llama(tokenizer, width=16, layers=1)
    nets = [scorer_from(model, aggregate=how).eval() for how in ("sum", "mean")]
    for net in nets:
        torch.nn.init.normal_(net.head.weight, std=1.0)
    payers = {}
    for name, net in (("bandit", nets[1]), ("tlcr-fixed", nets[0]), ("tlcr", nets[0])):
        row = METHODS[name] if name != "bandit" else replace(METHODS[name], normaliser={"kind": "none"})
        fitted = rewards.fit_normaliser(
            scores=torch.zeros(4, 1), segment_mask=torch.ones(4, 1).bool(), **row.normaliser
        )
        payers[name] = answer_rewards.Payer(row, None, net, fitted, None, None)
    return Run(profile("smoke")), tokenizer, model.eval(), payers


def test_answers_are_paid_what_their_tokens_add_up_to(paid, answers):
    run, tokenizer, model, payers = paid
    rows = answers[1]
    texts = {
        method: [(r["prompt"][-1]["content"], r[side][0]["content"]) for r in rows]
        for method, side in (("sft", "rejected"), ("tlcr", "chosen"))
    }
    frame = cross.tokenised(run, tokenizer, texts)
    found = cross.under(payers, model, tokenizer, frame).set_index(["reward", "method"])
    assert len(found) == 6 and (found.answers == 24).all()
    for method in texts:
        wanted = {"bandit": [], "tlcr-fixed": [], "tlcr": []}
        for row in frame[frame.method == method].itertuples():
            whole = torch.tensor([row.prompt_ids + row.completion_ids])
            with torch.no_grad():
                read = {
                    name: p.net.token_scores(whole, torch.ones_like(whole))[0, len(row.prompt_ids) :]
                    for name, p in payers.items()
                }
            p = read["tlcr"].sigmoid()
            wanted["tlcr"].append(float((2 * p - 1).sum()))
            wanted["tlcr-fixed"].append(float((p >= 0.6).sum() - (p <= 0.4).sum()))
            wanted["bandit"].append(float(read["bandit"][-1]))
        for name, totals in wanted.items():
            row = found.loc[(name, method)]
            assert row["mean"] == pytest.approx(np.mean(totals), abs=1e-4), (name, method)
            assert row.low < row["mean"] < row.high
    figure, shown = preference_figures.under(found.reset_index())
    figure.canvas.draw()
    assert len(figure.axes) == 3 and len(shown) == 6


def test_few_answers_have_no_interval(paid, answers):
    run, tokenizer, model, payers = paid
    row = answers[1][0]
    frame = cross.tokenised(run, tokenizer, {"sft": [(row["prompt"][-1]["content"], row["chosen"][0]["content"])]})
    assert cross.under(payers, model, tokenizer, frame)[["low", "high"]].isna().all(axis=None)


def test_samples_of_all_seeds_are_taken_and_methods_without_any_left_out():
    made = [record(m, s) for m in ("sft", "tlcr") for s in range(3)]
    for r in made:
        r["final"]["samples"] = [{"prompt": "p", "response": f"{r['method']} {r['seed']}"}] * 2
    found = cross.recorded(made, ("sft", "tlcr", "figa"))
    assert {m: len(rows) for m, rows in found.items()} == {"sft": 6, "tlcr": 6}
    assert {text for _, text in found["tlcr"]} == {"tlcr 0", "tlcr 1", "tlcr 2"}


def test_a_discriminator_and_a_reward_model_of_the_same_tokens_are_two_scorers(monkeypatch, paid):
    """`token` and `tlcr` cut alike: paid by one scorer, Figure 6 would compare a reward with itself."""
    asked = []

    def trained(run):
        asked.append(run.row.name)
        return run.row.name

    monkeypatch.setattr(scorer, "scorer", trained)
    monkeypatch.setattr(answer_rewards.TokenScorer, "from_pretrained", lambda folder, **kw: paid[3]["tlcr"].net)
    monkeypatch.setattr(answer_rewards, "calibration_scores", lambda *a: (torch.randn(8, 3), torch.ones(8, 3).bool()))
    names = ("token", "token-synthetic", "tlcr", "tlcr-fixed", "tlcr-clauses")
    rows = [replace(METHODS[name], normaliser={"kind": "none"}) for name in names]
    found = answer_rewards.payers(Run(profile("smoke")), rows)
    assert asked == ["token", "token-synthetic", "tlcr", "tlcr-clauses"]
    assert found["tlcr-fixed"].folder == "tlcr"


# --- what was used ---------------------------------------------------------------------------------------------------


def test_what_older_records_used_is_told_by_their_other_fields():
    old = record("bandit", 0)
    old["reward_model"]["pairs"], old["provenance"]["tokens"] = 28_000, 50_000
    assert effort.recorded(old) == {"preference_labels": 28_000, "revisions": 0, "tokens": 50_000}
    assert effort.recorded(record("dpo", 0))["preference_labels"] == profile("cpu").pairs
    assert effort.recorded(record("sft", 0)) == {"preference_labels": 0, "revisions": 0, "tokens": 0}
    assert effort.recorded(record("tlcr", 0, used={"revisions": 7}))["revisions"] == 7


def test_spent_keeps_rows_without_records():
    made = records(("sft", "tlcr"))
    for r in made:
        r["used"] = {"preference_labels": 28_000, "revisions": 27_000, "responses": 1, "tokens": 1000 + r["seed"]}
    frame = tables.spent(tables.alike(made), ("sft", "tlcr", "figa")).set_index("here")
    tlcr, figa = frame.loc[METHODS["tlcr"].label], frame.loc["FIGA"]
    assert tlcr["revisions (answers)"] == "27,000" and tlcr["sampled in training (tokens)"] == "1,001"
    assert " ± " in tlcr["KL (nats per response)"] and figa.isna().all()
    assert frame["updates of the policy"].tolist()[:2] == ["0", "224"], "56 of 64 rounds, 4 updates each"


def test_updates_are_those_of_each_kind_of_trainer():
    p = profile("cpu").to_dict()

    def updates(method, **more):
        return effort.updates({"method": method, "params": {"profile": p}} | more)

    assert updates("sft") == 0 and updates("bandit") == updates("appo") == (64 - 8) * 4
    soon = [{"warm": i > 2} for i in range(64)]  # a critic that explained enough after three rounds
    assert updates("bandit", curves=soon) == (64 - 3) * 4
    assert updates("rloo") == updates("ars") == updates("tlcr-grpo") == 64 * 4
    assert updates("dpo") == updates("kto-masked") == 28_000 // 16
    assert updates("figa", used={"revisions": 24_000}) == 1_500


def test_figure_7_names_its_units_and_reckons_perplexity():
    made = [
        r | {"curves": [row | {"entropy": 1.0, "kl": 6.0, "length": 3.0} for row in r["curves"]]}
        for r in records(("tlcr", "tlcr-without-negative", "tlcr-without-positive"), (0,))
    ]
    figure, numbers = preference_figures.one_sided([*made, *records(("sft",))])
    figure.canvas.draw()
    assert all("(" in ax.get_ylabel() for ax in figure.axes)
    assert isinstance(numbers, pd.DataFrame) and numbers.method.nunique() == 3
    means = numbers.groupby("metric")["mean"].agg(["min", "max"])
    assert set(means.index) == {"length", "kl", "perplexity", "perplexity_sft"}
    assert means.loc["perplexity"].tolist() == pytest.approx([np.e] * 2)
    assert means.loc["perplexity_sft"].tolist() == pytest.approx([np.e**3] * 2)  # 1 + 6 / 3 nats per token
