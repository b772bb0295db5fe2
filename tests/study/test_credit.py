"""Credit fidelity: a measure that rewards the wrong estimate would crown the wrong method."""

import numpy as np
import pytest
import torch

from densereward.text.models import build_tokenizer, tiny_llama
from densereward.training.ppo import gae, whiten
from report import controlled
from study import summary
from study.measures import credit

SPANS = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, -1, -1, -1]])
LAST = torch.tensor([[1, 4, 5], [0, 2, 0]])  # the tokens that decide them


def test_values_are_pooled_over_the_tokens_of_their_span_and_no_others():
    values = torch.arange(12.0).reshape(2, 6)
    sums = [[values[b][SPANS[b] == n].sum().item() for n in range(3)] for b in range(2)]
    assert credit.pool(values, SPANS, "sum").tolist() == sums
    counts = np.array([[2, 3, 1], [1, 2, 1]])
    assert np.allclose(credit.pool(values, SPANS, "mean").numpy(), np.array(sums) / counts)
    noise = values.masked_fill(SPANS < 0, 99.0)
    assert torch.equal(credit.pool(noise, SPANS, "sum"), credit.pool(values, SPANS, "sum"))


def test_the_truth_agrees_with_itself_however_it_is_spread_and_shifted():
    credits = torch.tensor([[1.0, -1.0, 0.2], [1.0, -0.5, 0.0]])
    spread = credits.gather(1, SPANS.clamp(min=0)).masked_fill(SPANS < 0, 0)
    even = spread / torch.tensor([[2, 2, 3, 3, 3, 1], [1, 2, 2, 1, 1, 1]])
    found = credit.fidelity(even, spread + 5.0, SPANS, credits, -credits, LAST)
    assert found["rewards_credit_pearson"] == pytest.approx(1) and found["rewards_credit_sign"] == 1
    assert found["advantages_credit_pearson"] == pytest.approx(1), "a constant is no credit"
    assert found["advantages_monte_carlo_pearson"] == pytest.approx(-1)


def test_everything_on_the_last_token_earns_no_praise():
    credits = torch.tensor([[1.0, -1.0, 0.2], [1.0, -0.5, 0.0]])
    bandit = torch.zeros(2, 6)
    bandit[0, 5], bandit[1, 2] = credits[0].sum(), credits[1, :2].sum()
    assert credit.fidelity(bandit, torch.zeros(2, 6), SPANS, credits, credits, LAST)["rewards_credit_pearson"] < 0.5
    flat = credit.agreement(np.zeros(5), np.arange(5.0))
    assert flat == {"pearson": 0.0, "spearman": 0.0, "kendall": 0.0, "sign": 0.5}


def test_signs_are_those_of_what_is_above_or_below_the_mean():
    """Rewards that are all positive, or truths that are, hold no sign of their own: without centring, a constant would
    agree with every span."""
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert credit.agreement(rising[::-1] + 10, rising)["sign"] == 0
    assert credit.agreement(rising + 10, rising - 2.5)["sign"] == 1, "the estimate is centred"
    assert credit.agreement(rising - 2.5, rising + 10)["sign"] == 1, "the truth is centred"
    assert credit.agreement(np.array([-2.0, 1.0, 1.0]), np.array([5.0, 4.0, 6.0]))["sign"] == 1 / 2, "no sign, no vote"


def test_ranks_are_blind_to_scale_and_count_pairs_in_order():
    """Of six pairs of four spans, one is out of order; how far the values lie apart says nothing."""
    truth, estimate = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 10.0, 9.9, 1e4])
    found = credit.agreement(estimate, truth)
    assert found["kendall"] == pytest.approx((5 - 1) / 6) and found["spearman"] == pytest.approx(0.8)
    assert found["pearson"] < 0.8


def test_the_cosine_is_that_of_the_gradients_of_all_answers():
    """Rows that are summed before the cosine, however many are taken at once; a row of padding has no say."""
    tokenizer = build_tokenizer(["the cat sat on the mat"], 280)
    torch.manual_seed(0)
    model = tiny_llama(tokenizer, 16, 1)
    ids, real = torch.randint(3, len(tokenizer), (2, 8)), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    batch = {"prompt_ids": ids[:, :2], "prompt_mask": torch.ones(2, 2, dtype=torch.long)}
    batch |= {"completion_ids": ids[:, 2:], "completion_mask": real}
    worth = torch.tensor([[1.0, -1.0, 0.2], [1.0, -0.5, 0.0]])
    true = worth.gather(1, SPANS.clamp(min=0)).masked_fill(SPANS < 0, 0)
    advantages = true + torch.randn(2, 6) * (SPANS >= 0)

    def gradient(way):
        logps = model(ids).logits[:, 1:-1].log_softmax(-1).gather(2, ids[:, 2:, None])[..., 0]
        found = torch.autograd.grad((logps * way).sum(), list(model.parameters()))
        return torch.cat([g.flatten() for g in found])

    expected = torch.nn.functional.cosine_similarity(gradient(advantages), gradient(true), dim=0).item()
    for rows in (1, 64):
        given = (model, batch, advantages + 9.0 * (SPANS < 0), SPANS, worth, rows)
        assert credit.gradient_cosine(*given) == pytest.approx(expected, abs=1e-4)
    for sign in (1, -3):
        assert credit.gradient_cosine(model, batch, sign * true, SPANS, worth) == pytest.approx(np.sign(sign), abs=1e-4)
    assert credit.gradient_cosine(model, batch, 0 * true, SPANS, worth) == 0
    assert 0 < expected < 1


def test_matched_kl_reads_the_smoothed_curve_and_leaves_out_runs_that_stay_below():
    rounds = range(9)
    near = {"method": "bandit", "seed": 0, "curves": [{"kl": 0.1 * r, "true_return": 1.0 * r} for r in rounds]}
    far = {"method": "segment", "seed": 0, "curves": [{"kl": 1.0 * r, "true_return": 2.0 * r} for r in rounds]}
    found = controlled.matched_kl([near, far], 2.0)
    assert found["method"].tolist() == [summary.label("segment")]
    assert found["mean"].tolist() == [pytest.approx(4.0)]


def test_returns_at_the_sft_models_length_take_out_what_is_linear_in_length():
    """A policy that is better by its length alone is no better at equal length; one that never is that short is left
    out."""

    def run(name, lengths, returns):
        answers = {"length": lengths, "true_return": returns}
        return {"method": name, "seed": 0, "final": {"length": float(np.mean(lengths)), "answers": answers}}

    sft = run("sft", [10, 20, 30], [1.0, 2.0, 3.0])
    longer = run("bandit", [15, 40, 65], [1.5, 4.0, 6.5])
    better = run("token", [10, 30], [2.0, 4.0])
    far = run("segment", [50, 60], [9.0, 9.0])
    found = controlled.at_sft_length([sft, longer, better, far]).set_index("method")["mean"]
    assert found.to_dict() == pytest.approx(
        {summary.label("sft"): 2.0, summary.label("bandit"): 2.0, summary.label("token"): 3.0}
    )
    assert not len(controlled.at_sft_length([{"method": "sft", "seed": 0, "final": {"length": 1.0}}]))


def test_parts_of_fidelity_add_up_to_that_of_the_advantages_at_lambda_one():
    """Against the measure of records, on GAE's own advantages, whitened as there, and by hand where it is plain."""
    draw = torch.Generator().manual_seed(0)
    spans = torch.tensor([[0, 0, 1, 1, 1, 2, -1], [0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, -1]])
    mask, n = (spans >= 0).long(), 3
    deciding = torch.tensor([[1, 3, 5], [0, 4, 0], [5, 0, 0]])
    rewards, values = (torch.randn(spans.shape, generator=draw) * mask for _ in range(2))
    credits = torch.randn(len(spans), n, generator=draw)
    parts = credit.fidelity_parts(rewards, values, spans, credits, deciding)
    advantages = whiten(gae(rewards, values, mask, 1.0, 1.0)[0], mask)
    told = credit.fidelity(rewards, advantages, spans, credits, credits, deciding)
    assert parts["pearson"] == pytest.approx(told["advantages_credit_pearson"], abs=1e-6)
    assert parts["own"] + parts["later"] + parts["values"] == pytest.approx(parts["pearson"])
    held = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    in_time = torch.zeros(spans.shape).scatter_add(1, deciding, credits * held)
    exact = credit.fidelity_parts(in_time, torch.zeros(spans.shape), spans, credits, deciding)
    assert exact["own_pearson"] == pytest.approx(1) and exact["own"] == pytest.approx(exact["own_deviation"])
    early = torch.zeros(spans.shape)
    early[0, 0] = early[1, 1] = 5.0  # before the decision: in no advantage of its span
    paid = credit.fidelity_parts(early, torch.zeros(spans.shape), spans, credits, deciding)
    assert paid["own"] == paid["own_pearson"] == 0
