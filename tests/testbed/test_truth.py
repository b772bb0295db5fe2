"""What the testbed measures beside training: a number of another unit, or of a neighbour, is a wrong finding."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from densereward.text import models, tokens
from study.methods import METHODS
from study.profiles import models_folder, profile
from study.run import Run
from testbed import build, oracle, truth
from testbed.world import World


def cut_every(n: int, spans: list[int]) -> dict:
    """`truth.boundaries` of segments of n tokens against the spans of one answer."""
    row = replace(METHODS["segment"], segmentation={"kind": "ngram", "n": n})
    batch = {"completion_ids": torch.zeros(1, len(spans)), "completion_mask": torch.ones(1, len(spans))}
    return truth.boundaries(row, batch, torch.tensor([spans]), None, 0)


@pytest.mark.parametrize("first, near, exact", [(4, 1, 1), (3, 1, 0), (5, 0, 0), (2, 0, 0)])
def test_a_cut_may_stand_on_a_spans_first_token_or_behind_it_but_not_before(first, near, exact):
    """One cut, at token 4; one true start, at token `first`: the joint, behind which the word begins, is span too."""
    found = cut_every(4, [0] * first + [1] * (8 - first))
    for name, expected in (("", near), ("exact_", exact)):
        assert (found[f"boundary_{name}precision"], found[f"boundary_{name}recall"]) == (expected, expected)
    assert found["segment_length"] == 4


def test_the_oracles_unit_is_the_standard_deviation_of_true_returns():
    """A variance in its place would put the controls on another scale than z-scored rewards."""
    tokenizer = models.load_causal_lm(models_folder("cpu") / "sft")[1]
    pairs = build.preference_pairs(World(), "preference", 30, np.random.default_rng(0))
    rows = tokens.tokenize_pairs(pairs, tokenizer, 64, 256)[0]
    worth = [
        oracle.true_return(p["prompt"][0]["content"], p[side][0]["content"])
        for p in pairs
        for side in ("chosen", "rejected")
    ]
    unit = truth.return_deviation(tokenizer, rows, "additive")
    assert unit == pytest.approx(statistics.stdev(worth)) and abs(unit - unit**2) > 0.1
    first = truth.return_deviation(tokenizer, rows, "additive", limit=10)
    assert first == pytest.approx(statistics.stdev(worth[:20]))


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_causal_lm(models_folder("cpu") / "sft")[1]


def test_scores_are_those_of_each_response_read_alone(tokenizer):
    """They are read sorted by length: put back in another place, a flip rate would compare strangers."""
    torch.manual_seed(0)
    model = models.tiny_llama(tokenizer, 16, 1).eval()
    scorer = models.scorer_from(model)
    torch.nn.init.normal_(scorer.head.weight)
    prompt = build.messages("please name three fruits.")
    texts = ["apple, pear and plum. lemon, mango, cherry.", "apple.", "pear, plum.", "sure: grape, peach and apple."]
    pairs = [(prompt, text) for text in texts]
    together = truth.response_scores(scorer, METHODS["token"], model, tokenizer, pairs, 0)
    alone = [truth.response_scores(scorer, METHODS["token"], model, tokenizer, [pair], 0)[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-5) and len(set(together.tolist())) == 4
    with pytest.raises(AttributeError):  # entropy segments need a pass of the SFT model, tokens are read without one
        truth.response_scores(scorer, METHODS["segment"], None, tokenizer, pairs, 0)
    assert truth.response_scores(scorer, METHODS["token"], None, tokenizer, pairs, 0).tolist() == together.tolist()


def test_an_exchange_never_makes_an_answer_better_and_a_repetition_always_makes_it_worse(monkeypatch):
    """Where wrong items were exchanged too, the best scorer there can be would seem to fail. (An item that is named
    again, or one too many, takes the place of the one exchanged: then the truth sees no drop either.)"""
    seen = []

    def by_truth(scorer, method, model, tokenizer, pairs, seed):
        seen.append(np.array([oracle.true_return(prompt[-1]["content"], text) for prompt, text in pairs]))
        return seen[-1]

    monkeypatch.setattr(truth, "response_scores", by_truth)
    rows = build.preference_pairs(World(), "preference", 200, np.random.default_rng(0))
    rates = truth.drop_rates(None, None, None, None, rows, 0)
    assert len(seen) == 1 and len(seen[0]) > 450 and rates["flip"] > 0.8 and rates["repeat"] == 1
    rising = np.vectorize(lambda before, after: after > before + 1e-9)
    monkeypatch.setattr(truth, "_drops", lambda scores: rising(scores[::2], scores[1::2]).sum())
    assert truth.drop_rates(None, None, None, None, rows, 0) == {"flip": 0, "repeat": 0}


@pytest.mark.parametrize("margins, passes, agreement", [([1, 1, -1, 1], True, 1 / 3), ([1, -1, 1, 0], False, 1)])
def test_a_scorer_passes_halfway_from_style_to_ceiling_and_is_held_against_the_true_order_where_there_is_one(
    margins, passes, agreement, tokenizer, monkeypatch
):
    """Of the second pair the rejected answer is truly better, of the fourth neither is."""
    for name, value in (("style_level", 0.6), ("ceiling", 0.9)):
        monkeypatch.setattr(build, name, lambda *given, value=value: value)
    monkeypatch.setattr(truth, "drop_rates", lambda *given: {})
    sides = [("apple, pear.", "apple."), ("saw.", "apple."), ("apple, plum.", "saw, plum."), ("plum.", "pear.")]
    pairs = [
        {"prompt": build.messages("please name three fruits."), "chosen": build._reply(a), "rejected": build._reply(b)}
        for a, b in sides
    ]
    rows = tokens.tokenize_pairs(pairs, tokenizer, 64, 64)[0]
    run = Run(profile("smoke"), 0)
    sets = {"validation": rows, "preference": rows}
    found = truth.scorer_metrics(
        "validation", None, None, None, tokenizer, sets, np.array(margins, float), run.profile.world, run.seed
    )
    assert found["gate_validation"] == pytest.approx(0.75)
    assert found["passes_validation"] == passes
    assert found["truth_validation"] == pytest.approx(agreement)


def test_curves_read_the_last_turn_of_a_prompt_and_leave_out_what_has_no_number():
    asked = "please name three fruits."
    prompt = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, *build.messages(asked)]
    answers = ["apple, saw, apple.", ""]
    found = {
        metric.__name__: metric(prompts=[prompt] * 2, completions=[build._reply(text) for text in answers])
        for metric in truth.metrics("additive")
    }
    assert found["true_return"] == [oracle.true_return(asked, text) for text in answers]
    assert found["fact_accuracy"] == [pytest.approx(2 / 3), None] and found["repetition"] == [1.0, 0.0]
