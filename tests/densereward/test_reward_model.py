"""Reward models: pairs that reach TRL's trainer with other segments, or another loss, than the paper's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from densereward.training import reward_model
from study import methods
from study.profiles import profile
from study.stages.preferences import with_entropies
from study.stages.scorer import scores_of

TOKENIZER = build_tokenizer(["a b c d e f g h"] * 4, 280)
EOS = TOKENIZER.eos_token_id


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(48):
        good, bad = ([int(t) for t in rng.integers(low, low + 5, rng.integers(3, 8))] + [EOS] for low in (10, 30))
        rows.append(
            {"prompt_ids": [5, 6, 7], "chosen_completion_ids": good, "rejected_completion_ids": bad,
             "chosen_entropies": rng.random(len(good)).tolist(), "rejected_entropies": rng.random(len(bad)).tolist()}
        )  # fmt: skip
    return Dataset.from_list(rows)


def model():
    torch.manual_seed(0)
    return tiny_llama(TOKENIZER, 32, 1, heads=2)


def test_segment_ends_reach_the_trainer_at_the_completions_tokens(pairs):
    row = methods.method("segment", entropy_cutoff=0.5)
    cut = reward_model.with_segments(pairs, row, TOKENIZER, 0)
    batch = reward_model.collate(cut.select(range(4)).to_list(), TOKENIZER.pad_token_id)
    for i in range(8):
        side, source = ("chosen", "rejected")[i // 4], pairs[i % 4]
        ids, entropies = source[f"{side}_completion_ids"], source[f"{side}_entropies"]
        starts = [t for t in range(1, len(ids)) if entropies[t] > 0.5]
        ends = [3 + t - 1 for t in starts] + [3 + len(ids) - 1]
        assert batch["input_ids"][i, : 3 + len(ids)].tolist() == [5, 6, 7, *ids]
        assert batch["segment_ends"][i].nonzero()[:, 0].tolist() == ends
        assert batch["attention_mask"][i].sum() == 3 + len(ids)


def test_the_first_loss_is_bradley_terry_on_the_mean_over_segments(pairs, tmp_path):
    """segment-ppo Eq. 3-4, computed by hand from token scores, against what TRL's trainer minimises."""
    cut = reward_model.with_segments(pairs.select(range(8)), methods.METHODS["token"], TOKENIZER, 0)
    scorer = scorer_from(model(), scale=4.0)
    batch = reward_model.collate(cut.to_list(), TOKENIZER.pad_token_id)
    scorer.eval()
    with torch.no_grad():
        scores = scorer.token_scores(batch["input_ids"], batch["attention_mask"])
    e = [4.0 * scores[i, 3 : int(n)].mean() for i, n in enumerate(batch["attention_mask"].sum(1))]
    by_hand = np.mean([-torch.nn.functional.logsigmoid(e[i] - e[i + 8]).item() for i in range(8)])
    margins = reward_model.margins(scorer, cut, TOKENIZER.pad_token_id)
    assert np.mean(np.log1p(np.exp(-margins))) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", ["bandit", "token", "segment", "random"])
def test_every_granularity_learns_a_plain_difference(pairs, tmp_path, name):
    row = methods.METHODS[name]
    if name == "random":
        row = reward_model.resolve(row, pairs, TOKENIZER, methods.METHODS["segment"])
        assert 0 <= row.segmentation["rate"] <= 1
    if name == "segment":
        row = methods.method("segment", entropy_cutoff=0.5)
    cut = reward_model.with_segments(pairs, row, TOKENIZER, 0)
    scorer = scorer_from(model())
    p = replace(profile("smoke"), rm_batch=8, rm_learning_rate=1e-2)
    curve = reward_model.train_reward_model(scorer, TOKENIZER, cut, cut, tmp_path, 0, p.rm_batch, p.rm_learning_rate)
    assert [r["pairs"] for r in curve] == sorted(r["pairs"] for r in curve) and curve[-1]["accuracy"] > 0.9
    assert (tmp_path / "model.safetensors").exists()


def test_equal_seeds_train_equal_scorers(pairs, tmp_path):
    cut = reward_model.with_segments(pairs, methods.METHODS["token"], TOKENIZER, 0)
    p = replace(profile("smoke"), rm_batch=8)
    weights = []
    for folder in ("a", "b"):
        scorer = scorer_from(model())
        scorer.head.weight.data.fill_(0.01)
        reward_model.train_reward_model(
            scorer, TOKENIZER, cut, cut, tmp_path / folder, 3, p.rm_batch, p.rm_learning_rate
        )
        weights.append(scorer.head.weight.detach().clone())
    assert torch.equal(*weights)


def test_margins_and_entropies_are_each_pairs_own(pairs):
    """Pairs are read sorted by length: put back in another place, a margin or a boundary would be another pair's."""
    scorer, causal = scorer_from(model()).eval(), model().eval()
    bare = pairs.remove_columns(["chosen_entropies", "rejected_entropies"])
    together = with_entropies(causal, TOKENIZER, bare, batch_size=7)
    cut = reward_model.with_segments(together, methods.METHODS["token"], TOKENIZER, 0)
    margins = reward_model.margins(scorer, cut, TOKENIZER.pad_token_id, batch_size=7)
    for i in range(0, len(pairs), 5):
        alone = with_entropies(causal, TOKENIZER, bare.select([i]))
        for side in reward_model.SIDES:
            assert alone[0][f"{side}_entropies"] == pytest.approx(together[i][f"{side}_entropies"], abs=1e-4)
        assert reward_model.margins(scorer, cut.select([i]), TOKENIZER.pad_token_id)[0] == pytest.approx(
            margins[i], abs=1e-5
        )


def test_normalisers_see_each_responses_segment_scores_in_order(pairs):
    """In one pass or in several: each answer's scores in its own row, those of an answer read alone."""
    scorer = scorer_from(model()).eval()
    for size in (128, 10):
        scores, lengths = scores_of(methods.METHODS["token"], scorer, pairs, TOKENIZER, 0, size)
        rows = [(side, i) for side in reward_model.SIDES for i in range(len(pairs))]
        assert len(scores) == len(rows) == 96
        assert set(lengths.unique().tolist()) == {0, 1}
        for (side, i), found, real in zip(rows, scores, lengths > 0, strict=True):
            ids = torch.tensor([pairs[i]["prompt_ids"] + pairs[i][f"{side}_completion_ids"]])
            alone = scorer.token_scores(ids, torch.ones_like(ids))[0, 3:]
            torch.testing.assert_close(found[real], alone.detach(), atol=1e-5, rtol=1e-4)
            assert not found[~real].any()


def test_the_seed_redraws_random_segments_and_nothing_else_does(pairs):
    """Ignored, all seeds of the random control would share their cuts; drawn anew each time, none could be repeated."""
    row = replace(methods.METHODS["random"], segmentation={"kind": "random", "rate": 0.4})
    one, again, other = (reward_model.with_segments(pairs, row, TOKENIZER, seed) for seed in (0, 0, 1))
    for side in reward_model.SIDES:
        assert one[f"{side}_segment_ids"] == again[f"{side}_segment_ids"] != other[f"{side}_segment_ids"]
    named = reward_model.with_segments(pairs, replace(row, name="random, again"), TOKENIZER, 0)
    assert named["chosen_segment_ids"] != one["chosen_segment_ids"]
