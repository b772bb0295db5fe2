"""What the testbed measures beside training: a number of another unit, or of a neighbour, is a wrong finding."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from densereward import models, tokens
from densereward.methods import METHODS
from densereward.profiles import models_folder
from densereward.testbed import build, oracle, truth
from densereward.testbed.world import World


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
