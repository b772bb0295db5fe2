"""What would break: token rewards that do not say what the reviser's labels say."""

import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from densereward.reward.log_odds import READINGS
from densereward.reward.rewards import fit_normaliser, normalise
from densereward.text.models import TokenScorer, build_tokenizer, scorer_from, tiny_llama
from densereward.training.discriminator import (
    NO_LABEL,
    Discriminator,
    as_labels,
    as_scorer,
    collate,
    discriminator_metrics,
    probabilities,
    soft_loss,
    train_discriminator,
)
from study.profiles import profile

TOKENIZER = build_tokenizer(["the cat sat on the mat", "a dog and a cat"], 280)
probability = st.floats(0, 1)


def slow_loss(logits, labels):
    """Eq. 6, token by token."""
    responses = []
    for row, targets in zip(logits.tolist(), labels.tolist(), strict=True):
        losses = []
        for logit, target in zip(row, targets, strict=True):
            if target != NO_LABEL:
                d = 1 / (1 + math.exp(-logit))
                losses.append(-target * math.log(d) - (1 - target) * math.log(1 - d))
        responses.append(sum(losses) / len(losses))
    return sum(responses) / len(responses)


def test_the_loss_is_equation_6_over_labelled_tokens():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 7), torch.tensor([0.0, 0.5, 1.0])[torch.randint(3, (3, 7))]
    labels[0, :3] = labels[1, 5:] = NO_LABEL
    assert soft_loss(logits, labels).item() == pytest.approx(slow_loss(logits, labels), rel=1e-5)
    least = soft_loss(torch.zeros(1, 4), torch.full((1, 4), 0.5))
    assert least.item() == pytest.approx(math.log(2))  # neutral tokens are best left undecided


def test_labels_stand_at_the_tokens_of_the_completion():
    rows = [
        {"prompt_ids": [5, 6], "completion_ids": [7, 8, 9], "labels": [0.0, 0.5, 1.0]},
        {"prompt_ids": [5], "completion_ids": [7], "labels": [1.0]},
    ]
    batch = collate(rows, 0)
    assert batch["labels"].tolist() == [[-1, -1, 0, 0.5, 1], [-1, 1, -1, -1, -1]]
    without_eos = [rows[0] | {"labels": [0.0, 0.5, NO_LABEL]}]
    assert soft_loss(torch.randn(1, 5), collate(without_eos, 0)["labels"]).isfinite()
    unlabelled = collate([*rows[:1], rows[1] | {"labels": [NO_LABEL]}], 0)["labels"]
    assert soft_loss(torch.randn(2, 5), unlabelled).isfinite(), (
        "an answer whose labels were cut off ends training in NaN"
    )
    logits = torch.tensor([[9.0, 9.0, 1.0, 2.0, 9.0]])
    of_two = soft_loss(logits[:, 2:4], torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(soft_loss(logits, collate(without_eos, 0)["labels"]), of_two)
    assert batch["input_ids"][0].tolist() == [5, 6, 7, 8, 9]
    assert batch["attention_mask"].sum().item() == 7


@given(probability)
def test_readings_are_signed_and_bounded_by_equation_7(p):
    read = {name: reading(torch.tensor([p], dtype=torch.float64)).item() for name, reading in READINGS.items()}
    assert read["continuous"] == pytest.approx(2 * p - 1)
    assert read["without-negative"] + read["without-positive"] == pytest.approx(read["continuous"])
    assert read["without-negative"] >= 0 >= read["without-positive"]
    assert read["fixed"] == (1 if p >= 0.6 else -1 if 1 - p >= 0.6 else 0)
    assert read["double-softmax"] == pytest.approx(math.tanh((2 * p - 1) / 2))
    assert abs(read["double-softmax"]) <= math.tanh(0.5) + 1e-9
    confident = math.log(1.5) / 2  # of p above one half, where a second softmax reaches .6
    if abs(abs(p - 0.5) - confident) > 1e-9:
        assert read["fixed-double-softmax"] == (abs(p - 0.5) > confident) * (1 if p > 0.5 else -1)


def test_the_pipeline_reads_log_odds():
    scores, mask = torch.tensor([[2.0, -1.0, 0.0], [5.0, 0.0, 0.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    fitted = fit_normaliser("continuous", scores, mask)
    expected = (2 * scores.sigmoid() - 1) * mask
    torch.testing.assert_close(normalise(scores, mask, fitted), expected)


def labelled(n: int) -> Dataset:
    """Token 40 is what a reviser takes out, token 50 what it brings in, 60 what it leaves."""
    torch.manual_seed(1)
    ids = torch.tensor([40, 50, 60])[torch.randint(3, (n, 6))]
    labels = torch.tensor([0.0, 1.0, 0.5])[ids // 10 - 4]
    rows = zip(ids.tolist(), labels.tolist(), strict=True)
    return Dataset.from_list([{"prompt_ids": [5], "completion_ids": c, "labels": y} for c, y in rows])


def test_it_learns_what_the_reviser_changed_and_is_saved_as_a_scorer(tmp_path):
    torch.manual_seed(0)
    net = scorer_from(tiny_llama(TOKENIZER, 32, 1), Discriminator, aggregate="sum")
    p = profile("smoke", rm_learning_rate=1e-2)
    curve = train_discriminator(net, TOKENIZER, labelled(1024), tmp_path, 0, 2 * p.rm_batch, p.rm_learning_rate)
    found = discriminator_metrics(*probabilities(net, labelled(100), TOKENIZER.pad_token_id))
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert found["token_accuracy"] > 0.95 > 0.5 > found["token_majority"]
    assert found["edited_accuracy"] > 0.95 and found["ece"] < 0.1
    ids = torch.tensor([[5, 40, 50, 60]])
    loaded = TokenScorer.from_pretrained(tmp_path)
    kept, same = (x.token_scores(ids, torch.ones_like(ids)) for x in (loaded, as_scorer(net)))
    torch.testing.assert_close(kept, same)
    assert kept[0, 1] < -1 < 1 < kept[0, 2] and abs(kept[0, 3]) < 0.5


def test_metrics_count_three_labels_and_calibrate_on_two():
    labels = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    p = torch.tensor([0.1, 0.7, 0.5, 0.9, 0.9, 0.55])
    assert as_labels(p).tolist() == [0, 1, 0.5, 1, 1, 0.5]
    found = discriminator_metrics(p, labels)
    assert found["token_accuracy"] == pytest.approx(3 / 6) and found["token_majority"] == pytest.approx(2 / 6)
    assert found["edited_accuracy"] == pytest.approx(3 / 4) and found["edited_majority"] == 0.5
    expected = (abs(0.1 - 0) + abs(0.7 - 0) + abs(0.9 - 1) + abs(0.55 - 1)) / 4
    assert found["ece"] == pytest.approx(expected, abs=1e-6)
    assert sum(row["tokens"] for row in found["reliability"]) == 4
    assert "ece" not in discriminator_metrics(torch.tensor([0.5]), torch.tensor([0.5]))
