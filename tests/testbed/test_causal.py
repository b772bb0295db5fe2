"""Where a reward is paid: what comes before the token that decides it is no part of that token's reward to go."""

import numpy as np
import pytest
import torch

from densereward.reward import dense
from densereward.reward.masks import segment_means
from densereward.text.models import build_tokenizer
from densereward.text.offsets import token_offsets
from study.cache import Artifact
from study.measures import credit
from study.methods import METHODS, method
from study.profiles import profile
from study.run import Run
from study.stages import reward
from testbed import build, oracle, truth
from testbed import world as w

ASKED = "please name four fruits for a picnic."
ROWS = build.build(w.World(), 0, sft=600)["sft"]
TOKENIZER = build_tokenizer([m["content"] for row in ROWS for m in row["prompt"] + row["completion"]], 768)


def deciding(text: str, prompt: str = ASKED) -> list[tuple[str, str]]:
    """(kind, the text up to and with the deciding token) of each span."""
    ids = [*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id]
    text, offsets = token_offsets(TOKENIZER, ids)
    spans = oracle.parse(prompt, text)
    tokens = oracle.deciding_tokens(spans, offsets)
    return [(s.kind, text[: offsets[t][1]] if t < len(ids) - 1 else "the end") for s, t in zip(spans, tokens)]


def test_an_items_credit_is_decided_by_the_item_and_not_by_its_joint_or_what_follows():
    text = "sure: maybe apple, how about plum is a good choice. i would say bike; the weather is lovely today."
    assert [(kind, head.split()[-1]) for kind, head in deciding(text)[1:]] == [
        ("correct", "apple"),
        ("correct", "plum"),
        ("wrong", "bike"),
        ("off_topic", "weather"),  # "the" alone could still be the river
    ]


def test_a_closing_is_decided_by_what_stands_behind_it():
    assert deciding("apple, hope that helps.")[1] == ("closing", "the end")
    assert deciding("apple, hope that helps, plum.")[1] == ("off_topic", "apple, hope that helps,")
    unfinished = oracle.parse(ASKED, "apple, plum")
    assert unfinished[-1].ending == w.UNFINISHED and deciding("apple, plum")[1] == ("correct", "apple, plum")
    assert deciding("") == [("junk", "the end")]


def test_no_credit_changes_with_what_is_said_after_its_decision():
    """Of 300 generated answers, each cut behind a clause whose credit is decided, and continued in another way."""
    checked = 0
    for row in ROWS[:300]:
        prompt, text = row["prompt"][0]["content"], row["completion"][0]["content"]
        for i, span in enumerate(oracle.parse(prompt, text)[:-1]):
            end = max(span.decided, span.end)
            for behind in (" maybe zebra.", " how about saw, apple."):
                head = text[:end] if span.decided > span.end else text[:end] + ","
                again = oracle.parse(prompt, head + behind)[i]
                assert (again.kind, again.credit) == (span.kind, span.credit), (text, span)
                checked += 1
    assert checked > 1_000


@pytest.fixture(scope="module")
def batch():
    """60 answers as the oracle's reward function takes them, and their spans."""
    prompts = [row["prompt"][0]["content"] for row in ROWS[:60]]
    ids = [[*TOKENIZER(row["completion"][0]["content"])["input_ids"], TOKENIZER.eos_token_id] for row in ROWS[:60]]
    pad = torch.nn.utils.rnn.pad_sequence
    made = {"prompt_ids": pad([torch.tensor(TOKENIZER(p)["input_ids"]) for p in prompts], batch_first=True)}
    made["completion_ids"] = pad([torch.tensor(x) for x in ids], batch_first=True)
    made["completion_mask"] = pad([torch.ones(len(x), dtype=torch.long) for x in ids], batch_first=True)
    return made, truth.spans_of(TOKENIZER, prompts, ids)


def paid(name: str, batch: dict) -> torch.Tensor:
    return truth.oracle_rewards(method(name), TOKENIZER, "additive", 1.0, torch.Generator().manual_seed(0))(batch)


def test_the_oracle_pays_each_credit_at_its_deciding_token_and_the_same_totals_everywhere(batch):
    batch, spans = batch
    rewards = paid("oracle-dense", batch)
    for row, parsed in enumerate(spans.parsed):
        for i, span in enumerate(parsed):
            here = [j for j in range(len(parsed)) if spans.deciding[row, j] == spans.deciding[row, i]]
            if span.ending == 0:
                expected = sum(parsed[j].credit for j in here)
                assert rewards[row, spans.deciding[row, i]] == pytest.approx(expected, abs=1e-5)
    for name in ("oracle-dense-even", "oracle-sequence"):
        assert torch.allclose(paid(name, batch).sum(1), rewards.sum(1), atol=1e-4)


def test_what_only_the_end_decides_is_paid_there_and_once():
    """Of an answer that was cut off: its items where they are named, what the lack of a full stop costs at the end."""
    ids = [torch.tensor([TOKENIZER(text)["input_ids"]]) for text in (ASKED, "apple, plum would do")]
    made = {"prompt_ids": ids[0], "completion_ids": ids[1], "completion_mask": torch.ones_like(ids[1])}
    (found,), deciding = paid("oracle-dense", made).tolist(), truth.spans_of(TOKENIZER, [ASKED], ids[1].tolist())[2][0]
    assert deciding[-1] < len(found) - 1, "something must stand behind the last item"
    expected = {int(t): w.CREDITS["correct"] for t in deciding} | {len(found) - 1: w.UNFINISHED}
    assert {t: x for t, x in enumerate(found) if x} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["oracle-dense-noisy", "oracle-sequence-noisy"])
def test_the_oracles_noise_is_a_draw_per_span_of_its_own_stream_and_another_for_each_rollout(name, batch):
    """One draw for all seeds, or for all rollouts, is a bias that a policy learns, and no noise."""
    (batch, spans), row, unit = batch, method(name), 2.5
    clean = truth.oracle_rewards(row, TOKENIZER, "additive", unit, torch.Generator())(batch).sum(1)
    for seed in (0, 1):
        draw, again = (torch.Generator().manual_seed(seed) for _ in range(2))
        pay = truth.oracle_rewards(row, TOKENIZER, "additive", unit, draw, row.noise)
        for _ in range(2):
            expected = row.noise * torch.randn(spans.credits.shape, generator=again)
            for noise, parsed in zip(expected, spans.parsed):
                noise[len(parsed) :] = 0  # an answer has no noise of spans that it does not have
            assert torch.allclose(pay(batch).sum(1), clean + expected.sum(1) / unit, atol=1e-4)


def test_each_seed_of_a_run_has_noise_of_its_own(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "load_from_disk", lambda path: None)
    monkeypatch.setattr(truth, "return_deviation", lambda *given: 1.0)

    def paid_by(seed):
        run = Run(profile("smoke"), seed, root=tmp_path).of("oracle-dense-noisy")
        vars(run)["preferences"] = Artifact(tmp_path, {})
        return reward.fitted(run, tmp_path, TOKENIZER)[0](batch[0])

    assert torch.equal(paid_by(0), paid_by(0)) and not torch.allclose(paid_by(0), paid_by(1), atol=1e-2)


def test_an_even_split_pays_more_than_half_of_an_items_credit_before_the_item(batch):
    """58.5% of it was, over 18,913 spans: outside the reward to go of the token that earned it."""
    batch, (ids, credits, deciding, _) = batch
    even, index = paid("oracle-dense-even", batch), torch.arange(batch["completion_mask"].size(1))
    behind = torch.stack([
        (even * (ids == n) * (index >= deciding[:, n : n + 1])).sum(1) for n in range(credits.size(1))
    ], 1)  # fmt: skip
    share = credit.causal_share(ids, deciding, credits, "even")
    weights = credits.abs()
    direct = float((behind.abs() / weights.clamp(min=1e-9) * weights).sum() / weights.sum())
    assert share == pytest.approx(direct, abs=1e-5) and 0.3 < share < 0.5
    assert credit.causal_share(ids, deciding, credits, "decided") == 1


def test_causal_share_by_hand():
    cut = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1]])
    at, worth = torch.tensor([[1, 6, 7]]), torch.tensor([[2.0, -1.0, 9.0]])  # the last decision is in no segment
    assert credit.causal_share(cut, at, worth, "even") == pytest.approx((2 * 3 / 4 + 1 * 1 / 3) / 3)
    assert credit.causal_share(cut, at, worth, "none") == 1
    each = torch.arange(8)[None]
    assert credit.causal_share(each, at, worth, "even") == 1, "a segment per token has nothing to spread"


def test_what_shaping_moves_ahead_of_the_decision_is_not_in_time():
    """Pooling and attention (ABC) pay tokens before the decision: rows whose own pay is in time said 1.0."""
    each, pools = torch.arange(6)[None], torch.tensor([[0, 0, 0, 0, 1, 1]])
    at, worth = torch.tensor([[1, 5]]), torch.tensor([[2.0, -1.0]])
    assert credit.causal_share(each, at, worth, "even") == 1

    def pooled(paid):
        return segment_means(paid, pools)

    assert credit.causal_share(each, at, worth, "even", pooled) == pytest.approx((2 * 3 / 4 + 1 * 1 / 2) / 3)
    looks = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])

    def attended(paid):
        return 0.8 * looks * paid.sum(1, keepdim=True) + 0.2 * paid

    whole = torch.zeros(1, 6, dtype=torch.long)
    expected = (2 * (0.8 * 0.5 + 0.2) + 1 * (0.8 * 0.1 + 0.2)) / 3
    assert credit.causal_share(whole, at, worth, "none", attended) == pytest.approx(expected)
    drawn = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    assert credit.causal_share(each, at, worth, "even", lambda paid: paid + drawn) == pytest.approx(1), (
        "adds, moves not"
    )


def test_advantages_are_read_at_the_deciding_token():
    """Right at every decision and noise before it: all of the fidelity, which a mean over spans has not."""
    spans, at = torch.tensor([[0, 0, 0, 1, 1, 1]]), torch.tensor([[2, 5]])
    worth = torch.tensor([[1.0, -1.0]])
    advantages = torch.tensor([[-9.0, 0.0, 1.0, 9.0, 0.0, -1.0]])
    found = credit.fidelity(advantages, advantages, spans, worth, worth, at)
    assert found["advantages_credit_pearson"] == pytest.approx(1)
    assert found["span_advantages_credit_pearson"] == pytest.approx(-1)


@pytest.mark.parametrize("name", ["bandit", "token", "segment", "sentence"])
def test_totals_of_calibration_answers_deviate_by_one_whatever_the_granularity(name):
    """A KL coefficient of .1 and a value clip of .25 then mean the same: summed z-scores deviate by 4 to 12."""
    rng, row = np.random.default_rng(0), METHODS[name]
    lengths = torch.zeros(200, 12, dtype=torch.long)
    for i, n in enumerate(rng.integers(4, 13, 200)):
        lengths[i, : 1 if name == "bandit" else n] = torch.from_numpy(rng.integers(1, 5, 1 if name == "bandit" else n))
    scores = torch.from_numpy(rng.normal(size=(200, 12)) + rng.normal(size=(200, 1))) * (lengths > 0)
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.repeat_interleave(torch.arange(12), n) for n in lengths], batch_first=True, padding_value=-1
    )
    for how in ("even", "none", "repeat"):
        row = method(name, interpolation=how)
        fitted = dense.fitted(row, scores, lengths)
        totals = dense.dense_rewards(row, scores, lengths > 0, ids, fitted).sum(1)
        assert totals.std() == pytest.approx(1, abs=1e-6)
        literal = dense.fitted(method(name, scale="none"), scores, lengths)
        assert literal.unit == 1 and (name != "bandit" or fitted.unit == pytest.approx(1) or how == "repeat")
    with pytest.raises(ValueError, match="give one of none, totals"):
        dense.fitted(method(name, scale="total"), scores, lengths)


def test_a_perfect_answer_is_worth_what_no_answer_exceeds():
    text = "sure: apple, pear. maybe plum and lemon; have a nice day."
    assert oracle.true_return(ASKED, text) == pytest.approx(oracle.perfect(ASKED)) == pytest.approx(4.2)
    for returns in oracle.RETURNS:
        best = oracle.perfect(ASKED, returns)
        assert oracle.true_return(ASKED, text, returns) == pytest.approx(best)
        assert all(
            oracle.true_return(row["prompt"][0]["content"], row["completion"][0]["content"], returns)
            <= oracle.perfect(row["prompt"][0]["content"], returns) + 1e-9
            or returns == "excess+0.2"  # there more is better, without end
            for row in ROWS[:200]
        )
