"""From a scorer's head to segment scores: a score read at a neighbour, or in another unit than the row says, would
train a policy on another reward under the same name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from densereward.reward import dense
from densereward.reward.rewards import Normaliser
from densereward.reward.segments import segment_ends, segment_lengths
from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from study.methods import METHODS, Method
from study.stages.scorer import scores_of

TOKENIZER = build_tokenizer(["a b c d e f g h"] * 4, 280)
PLAIN = Normaliser("none", 0.0, 0.0, 0.0, 1.0)


def scorer(**settings):
    """A scorer whose head at a token is the token's id."""
    torch.manual_seed(0)
    net = scorer_from(tiny_llama(TOKENIZER, 32, 1, heads=2), **settings)
    net.token_scores = lambda input_ids: input_ids.float()
    return net


def batch_of(completions, entropies):
    """Answers [B, T], padded on the right, to a prompt of two tokens."""
    ids, mask, ref = (torch.zeros(len(completions), max(map(len, completions))) for _ in range(3))
    for b, (row, surprise) in enumerate(zip(completions, entropies, strict=True)):
        ids[b, : len(row)], mask[b, : len(row)], ref[b, : len(row)] = torch.tensor(row), 1, torch.tensor(surprise)
    prompt = torch.full((len(ids), 2), 7)
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": ids.long(),
        "completion_mask": mask.long(),
        "ref_entropies": ref,
    }


# three segments of the row "segment", whose scores are 1, 3 and 5, and an answer of one segment with score 2
ANSWERS = batch_of([[9, 1, 9, 9, 3, 5], [9, 2]], [[3.0, 0, 3.0, 0, 0, 3.0], [0, 0]])


def paid(row: Method, net, normaliser=PLAIN, batch=None) -> torch.Tensor:
    return dense.reward_function(row, net, normaliser, TOKENIZER)(ANSWERS if batch is None else batch)


def test_a_tokens_score_is_the_head_at_that_token():
    """Read one token early, every segment would be paid for the text that it does not hold yet."""
    torch.manual_seed(0)
    net = scorer_from(tiny_llama(TOKENIZER, 32, 1, heads=2)).eval()
    torch.nn.init.normal_(net.head.weight)
    batch = batch_of([[11, 12, 13, 14], [15, 16]], [[0.0] * 4, [0.0] * 2])
    batch["prompt_ids"] = torch.tensor([[5, 6, 7], [0, 8, 9]])
    batch["prompt_mask"] = torch.tensor([[1, 1, 1], [0, 1, 1]])
    found = dense.token_scores(net, batch)
    for b, (prompt, answer) in enumerate((([5, 6, 7], [11, 12, 13, 14]), ([8, 9], [15, 16]))):
        for t in range(len(answer)):
            ids = torch.tensor([prompt + answer[: t + 1]])  # the answer so far, its last token read
            expected = net.token_scores(ids, torch.ones_like(ids))[0, -1]
            torch.testing.assert_close(found[b, t], expected.detach(), atol=1e-5, rtol=1e-4)


def test_segment_as_bandit_pays_the_mean_over_segments_at_the_last_token():
    """segment-ppo Section 4.2 (B): all segment rewards, aggregated by Eq. 4; not the last one's."""
    row = METHODS["segment-as-bandit"]
    assert paid(row, scorer()).tolist() == [[0, 0, 0, 0, 0, 3], [0, 2, 0, 0, 0, 0]]
    assert paid(row, scorer(scale=16.0)).max() == 48, "with the factor that is on it in the loss"
    assert paid(row, scorer(aggregate="sum"))[0, 5] == 9


def test_bandit_as_segment_reads_the_bandits_scorer_at_the_ends_of_segments():
    """Section 4.2 (A): the same numbers as of a segment scorer with that head."""
    row = replace(METHODS["bandit-as-segment"], interpolation="none")
    assert paid(row, scorer(scale=16.0)).tolist() == [[0, 1, 0, 0, 3, 5], [0, 2, 0, 0, 0, 0]]


def test_without_a_normaliser_the_score_of_the_loss_is_paid_and_the_heads_in_a_row_of_its_own():
    """A Bradley-Terry loss that saw 16 r has r in units of its own: paid bare, it is a sixteenth of the paper's. At one
    scale the two are the same."""
    loss, bare = (METHODS[f"normaliser-none-{x}"] for x in ("literal", "head"))
    ids = dense.segment_ids(bare.segmentation, ANSWERS)

    def pay(row, factor):
        net = scorer(scale=factor)
        scores, _ = dense.segment_scores(row, net, ANSWERS, ids)
        return paid(row, net, dense.fitted(row, scores, segment_lengths(ids)))

    torch.testing.assert_close(pay(bare, 16.0).sum(1), torch.tensor([9.0, 2.0]))
    torch.testing.assert_close(pay(loss, 16.0), 16 * pay(bare, 16.0))
    torch.testing.assert_close(pay(METHODS["normaliser-none"], 16.0), pay(METHODS["normaliser-none"], 1.0))
    torch.testing.assert_close(pay(METHODS["normaliser-none"], 16.0).sum(1).std(), torch.tensor(1.0))


def test_the_scale_of_what_is_paid_a_token_late_leaves_out_the_last_segment():
    """It is never paid: counted in, rewards would be on another scale than all other rows'."""
    row = replace(METHODS["tlcr-shifted"], segmentation=METHODS["segment"].segmentation, normaliser={"kind": "none"})
    batch = batch_of([[9, 1, 9, 9, 3, 5], [9, 2], [1, 5]], [[3.0, 0, 3.0, 0, 0, 3.0], [0, 0], [0, 3.0]])
    ids, net = dense.segment_ids(row.segmentation, batch), scorer()
    fitted = dense.fitted(row, dense.segment_scores(row, net, batch, ids)[0], segment_lengths(ids))
    assert fitted.unit == pytest.approx(np.std([1 + 3, 0, 1], ddof=1))
    assert paid(row, net, fitted, batch).sum(1).std().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "correction, totals", [({"kind": "centre"}, [3, 2]), ({"kind": "cost", "cost": 0.5}, [7.5, 1.5])]
)
def test_the_constant_per_segment_is_taken_out_of_what_is_paid(correction, totals):
    """Named in a row and left in its rewards, a correction would be an ablation of nothing."""
    row = replace(METHODS["segment"], normaliser={"kind": "none"}, correction=correction)
    assert paid(row, scorer()).sum(1).tolist() == pytest.approx(totals)


@pytest.mark.parametrize("correction", [{"kind": "none"}, {"kind": "centre"}, {"kind": "cost", "cost": 0.5}])
@pytest.mark.parametrize("how", ["none", "repeat", "even", "next"])
def test_the_totals_that_calibration_answers_are_paid_deviate_by_one(how, correction):
    """However scores are corrected and spread: else KL coefficient and value clip mean another thing for each row."""
    batch = batch_of([[9, 1, 9, 9, 3, 5], [9, 2], [1, 5]], [[3.0, 0, 3.0, 0, 0, 3.0], [0, 0], [0, 3.0]])
    row = replace(METHODS["segment"], normaliser={"kind": "global"}, scale="totals", correction=correction)
    row = replace(row, interpolation=how)
    ids, net = dense.segment_ids(row.segmentation, batch), scorer()
    fitted = dense.fitted(row, dense.segment_scores(row, net, batch, ids)[0], segment_lengths(ids))
    assert fitted.unit != pytest.approx(1)
    assert paid(row, net, fitted, batch).sum(1).std().item() == pytest.approx(1)


def by_hand(read, own, ids, how):
    """Scores of segments `ids`, from the ends of the segments `own`, of one answer."""
    ends = [t for t in range(len(own)) if own[t] >= 0 and (t + 1 == len(own) or own[t + 1] != own[t])]
    groups = [[read[t] for t in ends if ids[t] == s] for s in range(max(ids) + 1)]
    return [4 * np.mean(group) if how == "mean" else 4 * sum(group) for group in groups]


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_any_coarser_segments_are_scored_by_the_evaluator_over_those_that_end_inside(how):
    draw = np.random.default_rng(0)
    answers = [draw.integers(1, 50, n).tolist() for n in (12, 5, 9)]
    batch = batch_of(answers, [draw.uniform(0, 3, len(a)).tolist() for a in answers])
    row = Method("x", "", "", segmentation={"kind": "ngram", "n": 4}, trained_with={"kind": "ngram", "n": 2})
    row = replace(row, scores="evaluator")
    ids = dense.segment_ids(row.segmentation, batch)
    scores, mask = dense.segment_scores(row, scorer(aggregate=how, scale=4.0), batch, ids)
    own = dense.segment_ids(row.trained_with, batch)
    for b, answer in enumerate(answers):
        n = len(answer)
        expected = by_hand(answer, own[b, :n].tolist(), ids[b, :n].tolist(), how)
        assert scores[b][mask[b]].tolist() == pytest.approx(expected)
    assert not scores[~mask].any() and not mask.all()


def test_segments_finer_than_the_scorers_and_unknown_scores_are_refused():
    finer = replace(METHODS["segment-as-bandit"], segmentation={"kind": "token"})
    with pytest.raises(ValueError, match="row 0: no segment of the scorer of method 'segment-as-bandit' ends in one"):
        paid(finer, scorer())
    with pytest.raises(ValueError, match="scores is 'mean'; give one of head, evaluator"):
        replace(METHODS["bandit"], scores="mean")


def test_normalisers_are_fitted_on_the_scores_that_are_paid():
    """The mean over its segments of each calibration answer, and so z-scored rewards of segment-as-bandit."""
    draw, rows = np.random.default_rng(0), []
    for _ in range(30):
        sides = {}
        for side in ("chosen", "rejected"):
            n = int(draw.integers(2, 9))
            sides[f"{side}_completion_ids"] = draw.integers(1, 50, n).tolist()
            sides[f"{side}_entropies"] = draw.uniform(0, 3, n).tolist()
        rows.append({"prompt_ids": [7, 7]} | sides)
    net, row = scorer(scale=16.0), METHODS["segment-as-bandit"]
    scores, lengths = scores_of(row, net, Dataset.from_list(rows), TOKENIZER, 0)
    answers = [r[f"{s}_completion_ids"] for s in ("chosen", "rejected") for r in rows]
    batch = batch_of(answers, [r[f"{s}_entropies"] for s in ("chosen", "rejected") for r in rows])
    ends = segment_ends(dense.segment_ids(METHODS["segment"].segmentation, batch))
    expected = [16 * np.array(a)[e[: len(a)].numpy()].mean() for a, e in zip(answers, ends)]
    assert lengths[:, 0].tolist() == list(map(len, answers)) and scores[:, 0].tolist() == pytest.approx(expected)
    z = paid(row, net, dense.fitted(row, scores, lengths), batch).sum(1)
    assert z.mean().item() == pytest.approx(0, abs=1e-5) and z.std().item() == pytest.approx(1, abs=1e-5)
