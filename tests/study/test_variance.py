"""The noise of a gradient and its mean: what is compared has the same totals; whether it has the same expected gradient
depends on where they are paid, and a page that says otherwise sells less credit as less noise."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from densereward.text import sampling, tokens
from densereward.text.models import tiny_llama
from report import reward_figures
from study.measures import answer_rewards, expected_gradient, variance
from study.methods import METHODS
from study.profiles import profile
from study.run import Run
from test_causal import ROWS, TOKENIZER
from test_constants import PLAIN, Scorer
from testbed import truth


def rng():
    return np.random.default_rng(0)


# --- rewards to go


def test_a_bandit_reward_has_the_variance_of_its_totals_at_every_token():
    totals, mask = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.ones(50, 8)
    bandit = variance.at_end(totals[:, None] / 8 * mask, mask)
    assert torch.allclose(bandit.sum(1), totals) and not bandit[:, :-1].any()
    at, overall = variance.per_token({"bandit": bandit}, mask, rng())
    assert at.variance.tolist() == pytest.approx([totals.var().item()] * 8)
    assert overall.variance.item() == pytest.approx(totals.var(correction=0).item())


def test_independent_token_rewards_are_paid_off_as_the_answer_goes_on():
    """Reward to go at token t of T with variance s2 each: (T - t) s2, against T s2 where all is paid at the end."""
    reward = torch.randn(4_000, 10, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(reward)
    streams = {"token": reward, "token" + variance.AT_END: variance.at_end(reward, mask)}
    at, _ = variance.per_token(streams, mask, rng())
    dense, end = (at[at.method == name].variance.to_numpy() for name in streams)
    assert dense == pytest.approx(np.arange(10, 0, -1), rel=0.1) and end == pytest.approx(np.full(10, 10), rel=0.1)
    assert dense[0] == pytest.approx(end[0]), "nothing is gained at the first token"


def test_padding_is_in_no_mean():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    for baseline in variance.BASELINES:
        found = variance.advantages(torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 5.0]]), mask, baseline)
        assert found[0, 2] == 0
        assert float(found.sum()) == pytest.approx(0.0, abs=1e-6)
    assert variance.advantages(torch.tensor([[1.0, 2.0, 9.0]]), mask[:1], "constant")[0].tolist() == [0.5, -0.5, 0.0]


# --- the expected gradient, over all answers


@pytest.fixture(scope="module")
def exact():
    return expected_gradient.compare(draws=4, seed=1)


CAUSAL = [
    "credit, at the token that decides it",
    "credit, one token later",
    "credit, half there and half one token later",
    "score of each token, at the token",
    "score at a segment's end, at its end",
]


def test_causal_rewards_have_the_expected_gradient_of_their_total_at_the_end_and_no_others(exact):
    """What reads later tokens (an even split of a later score, a length, a place in the answer) is biased."""
    assert exact.paid[exact.causal].unique().tolist() == CAUSAL
    assert exact.bias[exact.causal].max() < 1e-12 and exact.cosine[exact.causal].min() > 1 - 1e-12
    early = exact[~exact.causal]
    assert early.paid.nunique() == 5 and early.groupby("paid").bias.mean().min() > 0.01
    assert early.bias[early.paid.str.contains("which begins before")].min() > 0.05


def test_an_exact_critic_biases_nothing_and_mends_nothing_and_none_is_biased_below_lambda_one(exact):
    assert (exact.critic - exact.bias).abs().max() < 1e-12
    assert exact.alone.min() > 0.01


@pytest.fixture(scope="module")
def tiny():
    """ids, mask, prefixes of all answers; logits, scores drawn for each prefix, log-probabilities."""
    ids, mask, prefixes = expected_gradient.answers()
    draw, many = torch.Generator().manual_seed(0), int(prefixes.max()) + 1
    logits = torch.randn(many, 3, generator=draw, dtype=torch.float64).requires_grad_()
    scores = torch.randn(many, generator=draw, dtype=torch.float64)[prefixes[:, 1:]] * mask
    return ids, mask, prefixes, logits, scores, expected_gradient.log_probs(logits, ids, mask, prefixes)


def to_go(rewards):
    return rewards.flip(1).cumsum(1).flip(1)


def test_every_answer_is_counted_once(tiny):
    ids, mask, prefixes, _, _, logps = tiny
    texts = {tuple(row[m].tolist()) for row, m in zip(ids, mask)}
    ended = {(*t, 0) for n in range(4) for t in itertools.product((1, 2), repeat=n)}
    assert len(ids) == len(texts) and texts == ended | set(itertools.product((1, 2), repeat=4))
    assert logps.sum(1).exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    for t in range(5):
        same = (ids[:, None, :t] == ids[None, :, :t]).all(2)
        assert torch.equal(same, prefixes[:, None, t] == prefixes[None, :, t])


def test_equal_totals_paid_causally_have_the_gradient_of_the_expected_total(tiny):
    """The reference is the derivative of sum_y pi(y) R(y) itself, with no reward to go in it."""
    ids, mask, _, logits, scores, logps = tiny
    found = expected_gradient.streams(scores, ids, mask)
    total = found[CAUSAL[0]].sum(1)
    reference = torch.autograd.grad(logps.sum(1).exp() @ total, logits, retain_graph=True)[0].flatten()
    for name in ("at the end", *CAUSAL[:3]):
        rewards = variance.at_end(found[CAUSAL[0]], mask) if name == "at the end" else found[name]
        assert torch.allclose(rewards.sum(1), total, atol=1e-12), name
        for gained in (to_go(rewards) * mask, *(variance.advantages(rewards, mask, b) for b in variance.BASELINES)):
            gradient = expected_gradient.expected_gradient(logps, logits, gained)
            assert (gradient - reference).norm() < 1e-12 * reference.norm(), name
    assert not torch.allclose(reference, torch.zeros_like(reference), atol=1e-3)


def test_of_an_even_split_the_token_that_decides_last_gets_its_share_only(tiny):
    """One credit, decided by the third token of three: its logits get one third of the gradient, the first's all."""
    ids, mask, prefixes, logits, scores, logps = tiny
    long = (mask.sum(1) == 4)[:, None]
    credit = scores[:, 2:3] * long
    early = torch.cat([credit / 3, credit / 3, credit / 3, 0 * credit], 1)
    late = torch.cat([0 * credit, 0 * credit, credit, 0 * credit], 1)
    got, due = (
        expected_gradient.expected_gradient(logps, logits, to_go(r) * mask).reshape(logits.shape) for r in (early, late)
    )
    for t, share in enumerate((1.0, 2 / 3, 1 / 3)):
        rows = prefixes[:, t].unique()
        rows = rows[due[rows].abs().sum(1) > 0]
        assert len(rows) and torch.allclose(got[rows], share * due[rows], atol=1e-12)


def test_a_stream_is_causal_where_equal_beginnings_are_paid_equally(tiny):
    """Told by comparing all pairs of answers, not by averages."""
    ids, mask, prefixes, _, scores, _ = tiny
    for name, rewards in expected_gradient.streams(scores, ids, mask).items():
        same = prefixes[:, None, 1:] == prefixes[None, :, 1:]
        apart = (rewards[:, None] - rewards[None]).abs() > 1e-12
        assert (not (same & apart).any()) == (name in CAUSAL), name


def test_the_table_prints_exact_zeros_and_ranges(exact):
    shown = expected_gradient.table(exact).set_index("what is paid, and where")
    for name, row in shown.iterrows():
        assert (row.causal == "yes") == (name in CAUSAL) == (row.difference == "0") == (row.cosine == "1")
    even = exact[exact.paid == "score at a segment's end, evenly over it"].bias
    assert shown.difference["score at a segment's end, evenly over it"] == (
        f"{even.mean():.2f} [{even.min():.2f}, {even.max():.2f}]"
    )


# --- gradients


def test_the_gram_matrix_is_that_of_each_responses_own_gradient(small):
    tokenizer, _, frame = small
    torch.manual_seed(1)
    model = tiny_llama(tokenizer, width=8, layers=1, heads=2).eval()
    _, batch = next(answer_rewards.batches(model, tokenizer, frame[:5]))
    weights = torch.randn(batch["completion_mask"].shape) * batch["completion_mask"]
    rows = []
    for i in range(5):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        answer = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        logits = type(model).forward(model, torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(1).gather(1, answer[:, None])[:, 0]
        parts = torch.autograd.grad(logps @ weights[i, : len(answer)], list(model.parameters()))
        rows.append(torch.cat([p.flatten() for p in parts]).double())
    rows = torch.stack(rows)
    assert np.allclose(variance.gram(model, batch, weights), (rows @ rows.T).numpy(), rtol=1e-4, atol=1e-5)


def test_trace_and_signal_are_those_of_the_gradients():
    rows = np.random.default_rng(3).normal(0.5, 1, (40, 6))
    grams = {"segment": rows @ rows.T, "segment" + variance.AT_END: 4 * rows @ rows.T, "bandit": rows @ rows.T}
    found = variance.gradients(grams, rng()).set_index("method")
    trace, total = np.trace(np.cov(rows.T)), rows.sum(0)
    signal = (total @ total - (rows**2).sum()) / (40 * 39)
    assert found.trace["segment"] == pytest.approx(trace) and found.signal["segment"] == pytest.approx(signal)
    assert found.trace_low["segment"] < trace < found.trace_high["segment"]
    assert found.signal_low["segment"] < 6 * 0.25 < found.signal_high["segment"], "the interval misses the truth"
    assert found.loc["segment", ["ratio", "ratio_low", "ratio_high"]].tolist() == pytest.approx([0.25] * 3)
    assert found.gain["segment"] == pytest.approx(0) and np.isnan(found.gain["bandit"])


def test_a_model_whose_gradients_do_not_fit_is_told_apart():
    model = torch.nn.Linear(1_000, 1_000)
    assert variance.fits(model, 100) and not variance.fits(model, 1_000)


# --- as the notebook shows it


def test_streams_have_totals_of_deviation_one_and_the_oracle_is_among_them(small):
    tokenizer, model, frame = small
    _, batch = next(answer_rewards.batches(model, tokenizer, frame))
    payers = {n: answer_rewards.Payer(METHODS[n], Path(), Scorer(), PLAIN, None, None) for n in ("bandit", "segment")}
    streams = variance.streams(Run(profile("smoke")), payers, batch, tokenizer)
    dense = ("segment", "oracle-dense")
    assert list(streams) == ["bandit", *(name + end for name in dense for end in ("", variance.AT_END))]
    for name, rewards in streams.items():
        assert rewards.sum(1).std().item() == pytest.approx(1.0, abs=1e-5), name
    for name in dense:
        assert torch.allclose(streams[name].sum(1), streams[name + variance.AT_END].sum(1), atol=1e-5)
    batch = {key: tensor[[0, 0]] for key, tensor in batch.items()}
    with pytest.raises(ValueError, match="bandit: the totals of 2 responses do not vary"):
        variance.streams(Run(profile("smoke")), payers, batch, tokenizer)


def test_where_only_the_whole_counts_what_is_paid_in_time_is_mostly_noise():
    """Credits of spans that the end takes back unless all is right: the noise that paying in time spares a sum."""
    rows, run = ROWS[:200], Run(profile("smoke"))
    prompts = [tokens.tokenize_prompt(TOKENIZER, row["prompt"]) for row in rows]
    answers = [tokens.tokenize_response(TOKENIZER, row["completion"][0]["content"]) for row in rows]
    model = tiny_llama(TOKENIZER, width=8, layers=1, heads=2).eval()
    batch = sampling.batch_of(model, TOKENIZER, prompts, answers)
    found = variance.by_return(run, batch, TOKENIZER).set_index("return")
    in_time, at_end = (found[name].str.split().str[0].astype(float) for name in ("paid in time", "at the end"))
    assert in_time["additive"] < at_end["additive"] and in_time["whole"] > 2 * at_end["whole"]
    totals = truth.oracle_rewards(METHODS["oracle-sequence"], TOKENIZER, "whole", 1.0, torch.Generator())(batch)
    alone = {"a": variance.at_end(totals / totals.sum(1).std(), batch["completion_mask"])}
    expected = variance.per_token(alone, batch["completion_mask"], rng())[1].variance.item()
    assert at_end["whole"] == pytest.approx(expected, abs=0.006)


def test_the_sentence_the_table_and_the_figures_say_the_same():
    rows = np.random.default_rng(0).normal(0.1, 1, (60, 4))
    names = ("bandit", "segment", "segment" + variance.AT_END)
    noise = variance.gradients({n: s * rows @ rows.T for n, s in zip(names, (1, 0.5, 1))}, rng())
    reward = torch.randn(60, 10, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(reward)
    streams = dict(zip(names, (variance.at_end(reward, mask), reward, variance.at_end(reward, mask))))
    at, overall = variance.per_token(streams, mask, rng())
    said = variance.sentence(noise, "segment")
    assert "less noise than the same totals paid at the end, 0.50 [0.50, 0.50] times" in said
    table = variance.table(overall, noise)
    assert table["times that of the same totals at the end"].dropna().to_dict() == {1: "0.50 [0.50, 0.50]"}
    figure, _ = reward_figures.to_go(at)
    assert len(figure.axes) == 1 and {"as paid", "same total at the end", "Bandit (sequence)"} == {
        " ".join(t.get_text().split()) for t in figure.axes[0].texts
    }
    both = pd.concat([noise.assign(baseline=b) for b in variance.BASELINES])
    figure, _ = reward_figures.gradient_noise(both)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [variance.look(n) for n in names]
