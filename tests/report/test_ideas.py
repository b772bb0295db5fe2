"""The drawings of the papers' ideas show what the library does with the same numbers."""

import re

import numpy as np
import pytest
import torch

from densereward.labels.labeling import edit_labels
from densereward.reward import log_odds, masks, rewards, segments
from report import ideas, look

MASK = torch.ones(1, len(ideas.ANSWER), dtype=torch.bool)


def test_cuts_and_payments_of_the_segments_are_the_librarys():
    _, told = ideas.segments()
    starts = segments.entropy(torch.tensor([ideas.ENTROPIES]), MASK, ideas.CUTOFF)
    ids = segments.segment_ids(starts, MASK)
    assert told.segment.tolist() == (ids[0] + 1).tolist()
    assert told.paid.sum() == pytest.approx(sum(ideas.SCORES)), "an even split pays each score once"
    paid = rewards.interpolate(torch.tensor([ideas.SCORES]), ids, "even")
    assert told.paid.to_numpy() == pytest.approx(paid[0].numpy())


def test_the_mask_is_the_librarys_on_a_preferred_answer():
    _, told = ideas.masks()
    kept = masks.adaptive_mask(torch.tensor([ideas.TOKEN_REWARDS]), MASK, torch.tensor([True]), ideas.BASELINE).mask
    assert told.kept.tolist() == kept[0].bool().tolist()
    assert set(told.advantage) == {0, ideas.ADVANTAGE}


def test_edit_labels_and_rewards_are_the_librarys():
    _, told = ideas.edits()
    words = {word: i for i, word in enumerate(dict.fromkeys(ideas.ANSWER + ideas.REVISED))}
    of_rejected, of_revised = edit_labels(*([words[word] for word in row] for row in (ideas.ANSWER, ideas.REVISED)))
    assert told.label.tolist() == list(of_rejected) and told["of the revision"].tolist() == list(of_revised)
    assert told.paid.to_numpy() == pytest.approx(log_odds.continuous(torch.tensor(ideas.POSITIVE)).numpy(), abs=1e-6)


@pytest.mark.parametrize("draw", [ideas.segments, ideas.masks, ideas.edits])
def test_a_drawing_is_legible_on_a_phone_and_on_the_dark(draw):
    figure, told = draw()
    page = look.drawing(figure, "alt")
    wide = figure.get_figwidth() * 72
    assert all(text.get_fontsize() * min(1, 340 / wide) >= 8.5 for text in figure.axes[0].texts)
    colours = set(re.findall("[: ](#[0-9a-f]{6})", page))
    assert colours <= set(look.DARK), "each has its twin"
    assert len(told) == len(ideas.ANSWER) and np.isfinite(told.select_dtypes("number")).all(axis=None)
