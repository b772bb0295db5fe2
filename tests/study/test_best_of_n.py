"""Best of n is exact against all subsets; steps add up to the true return; step by step, what is kept is the best."""

import itertools
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.seeding import rng
from densereward.text.models import build_tokenizer, load_causal_lm, scorer_from, tiny_llama
from densereward.text.tokens import tokenize_prompt, tokenize_response
from densereward.training import step_model
from report import process_figures
from report.notebooks import ROOT
from study.measures import best_of_n, process_outcome, stepwise
from study.profiles import profile
from study.records import read_records
from study.run import Run
from testbed import build, oracle, world
from testbed.gold_steps import steps

SFT = ROOT / "data" / "models" / "cpu" / "sft"


@pytest.fixture(scope="module")
def tokenizer():
    return load_causal_lm(SFT)[1]


@pytest.fixture(scope="module")
def letters():
    """A tokenizer whose tokens are single bytes."""
    return build_tokenizer(["a"], 261)


def dialogues(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rows = build.dialogues(world.World(), "test", n, rng(seed, "test"))
    return [r["prompt"][0]["content"] for r in rows], [r["completion"][0]["content"] for r in rows]


# --- the estimator


def brute(scores, returns, n):
    """Mean over all subsets of n of the return of the highest score, equal ones alike."""
    found = []
    for chosen in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in chosen)
        best = [returns[i] for i in chosen if scores[i] == top]
        found.append(sum(best) / len(best))
    return sum(found) / len(found)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**31), st.booleans())
def test_the_best_of_n_is_the_mean_over_all_subsets(N, P, seed, ties):
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 3, (P, N)) if ties else draw.normal(size=(P, N))
    returns = draw.normal(size=(P, N))
    found = best_of_n.best_of(scores, returns, range(1, N + 1))
    want = [[brute(scores[p], returns[p], n) for n in range(1, N + 1)] for p in range(P)]
    assert np.allclose(found, want)
    assert np.allclose(found[:, 0], returns.mean(1)), "the best of one is a sample"
    perfect = best_of_n.best_of(returns, returns, range(1, N + 1))
    assert (np.diff(perfect) >= -1e-12).all() and np.allclose(perfect[:, -1], returns.max(1))
    assert (perfect >= found - 1e-12).all(), "nobody picks better than the truth"


def test_weights_are_chances_at_any_size():
    for N in (1, 32, 1000):
        w = best_of_n.weights(N, [1, max(1, N // 2), N])
        assert np.allclose(w.sum(0), 1) and (w >= 0).all()
    w = best_of_n.weights(32, [4])[:, 0]
    assert w[9] == pytest.approx(math.comb(9, 3) / math.comb(32, 4))


@pytest.mark.parametrize(
    "scores, returns, ns, says",
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], [3], "from 1 to 2"),
        ([[1.0, 2.0]], [[1.0, 2.0]], [0], "from 1 to 2"),
        ([[1.0, 2.0]], [[1.0]], [1], "give both as"),
        ([[1.0, 2.0], [float("nan"), 1.0]], [[1.0, 2.0]] * 2, [1], "prompt 1: a score is not a number"),
    ],
)
def test_what_cannot_be_estimated_is_refused(scores, returns, ns, says):
    with pytest.raises(ValueError, match=says):
        best_of_n.best_of(scores, returns, ns)


def test_leads_are_paired_by_prompt():
    """A reader that is better by one everywhere leads by one without an interval, however far prompts are apart."""
    base = np.random.default_rng(0).normal(0, 5, (40, 2))
    found = best_of_n.summed({"a": base, "b": base + 1}, [1, 2], "a", np.random.default_rng(1))
    b = found[found.reader == "b"]
    assert np.allclose(b[["lead", "lead_low", "lead_high"]], 1) and np.allclose(b["mean"], base.mean(0) + 1)
    assert (b.low < b["mean"]).all() and (b.high > b["mean"]).all()


# --- steps


@pytest.mark.parametrize("cut", [None, 5, 1])
def test_the_credits_of_steps_add_up_to_the_true_return(tokenizer, letters, cut):
    prompts, texts = dialogues(60)
    prompts, texts = [*prompts, *prompts[:3]], [*texts, "", ".", "nonsense without an end"]
    for t in (tokenizer, letters):
        ids = [tokenize_response(t, text)[:cut] for text in texts]
        found = steps(t, prompts, ids)
        want = [oracle.true_return(p, t.decode(i, skip_special_tokens=True)) for p, i in zip(prompts, ids)]
        assert np.allclose(found.credit.sum(1), want, atol=1e-5)
        assert not found.credit[~found.ends].any() and (found.ends | ~found.spans).all()
        assert [row.nonzero()[-1].item() for row in found.ends] == [len(i) - 1 for i in ids]


def test_a_finished_answers_end_is_worth_nothing_and_no_full_stop_costs(tokenizer):
    prompt = "please name four fruits."
    for text, end in (("apple, plum.", 0.0), ("apple, plum", world.UNFINISHED)):
        found = steps(tokenizer, [prompt], [tokenize_response(tokenizer, text)])
        assert found.credit[0, -1] == pytest.approx(end)
        assert found.credit[found.spans].tolist() == [1.0, 1.0]


def test_aggregates_against_their_definitions():
    scores = torch.tensor([[0.5, 9.0, -1.0, 0.25, 7.0], [2.0, 3.0, 7.0, 7.0, 7.0]])
    spans = torch.tensor([[1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    ends = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    found = {how: f(scores, spans, ends).tolist() for how, f in best_of_n.AGGREGATES.items()}
    log = [math.log(1 / (1 + math.exp(-x))) for x in (0.5, -1.0, 2.0)]
    want = {
        "sum": [-0.25, 5],
        "mean": [-0.25, 2],
        "min": [-1, 2],
        "last": [-1, 2],
        "product": [log[0] + log[1], log[2]],
    }
    assert found.keys() == want.keys()
    assert all(found[how] == pytest.approx(want[how]) for how in want)


# --- the process model


def test_labels_are_credits_at_steps_and_noise_is_of_the_stated_size(tokenizer):
    prompts, texts = dialogues(200)
    rows = Dataset.from_dict(
        {"prompt_ids": [tokenize_prompt(tokenizer, build.messages(p)) for p in prompts]}
        | {
            f"{side}_completion_ids": [tokenize_response(tokenizer, t) for t in texts]
            for side in ("chosen", "rejected")
        }
    )
    truth = steps(tokenizer, prompts, rows["chosen_completion_ids"][:])
    clean, noisy = (
        process_outcome.step_labels(rows, tokenizer, c, torch.Generator().manual_seed(1)) for c in (0.0, 1.0)
    )
    batches = [step_model.collate(part.to_list(), tokenizer.pad_token_id)["labels"] for part in (clean, noisy)]
    labels, other = (x[~x.isnan()] for x in batches)
    assert torch.equal(labels, truth.credit[truth.ends])
    error = other - labels
    assert len(error) > 1000 and error.std() == pytest.approx(1.0, abs=0.08) and abs(error.mean()) < 0.1
    with pytest.raises(ValueError, match="noise is -1"):
        process_outcome.step_labels(rows, tokenizer, -1, torch.Generator())


def test_the_loss_is_the_squared_error_at_steps_by_answer():
    nan = float("nan")
    labels = torch.tensor([[nan, 1.0, nan, 3.0], [nan, nan, 2.0, nan]])
    scores = torch.tensor([[9.0, 0.0, 9.0, 1.0], [9.0, 9.0, 5.0, 9.0]], requires_grad=True)
    loss = step_model.step_loss(scores, labels)
    assert loss.item() == pytest.approx(((1 + 4) / 2 + 9) / 2)
    loss.backward()
    assert (scores.grad != 0).tolist() == (~labels.isnan()).tolist() and scores.grad.isfinite().all()


def test_a_process_model_learns_what_steps_are_worth(tokenizer, tmp_path):
    """From a random trunk, on a few hundred answers: held-out step scores follow the true credit."""
    p = profile("smoke", rm_learning_rate=3e-3)
    torch.manual_seed(0)
    net = scorer_from(tiny_llama(tokenizer, width=32, layers=2), step_model.ProcessModel, aggregate="sum")
    made = []
    for n, seed in ((800, 0), (100, 1)):
        prompts, texts = dialogues(n, seed)
        ids = (
            [tokenize_prompt(tokenizer, build.messages(x)) for x in prompts],
            [tokenize_response(tokenizer, x) for x in texts],
        )
        made.append({"prompt_ids": ids[0], "chosen_completion_ids": ids[1], "rejected_completion_ids": ids[1]})
    train, test = map(Dataset.from_dict, made)
    before = process_outcome.held_out(net, tokenizer, test)["step_pearson"]
    rows = process_outcome.step_labels(train, tokenizer, 0.0, torch.Generator().manual_seed(0))
    step_model.train_process(net, tokenizer, rows, tmp_path, 0, 2 * p.rm_batch, p.rm_learning_rate)
    after = process_outcome.held_out(net, tokenizer, test)
    assert after["step_pearson"] > before + 0.2, (before, after)
    assert after["accuracy_sum"] == 0.5, "equal answers tie"
    again = step_model.ProcessModel.from_pretrained(tmp_path)
    assert process_outcome.held_out(again, tokenizer, test)["step_pearson"] == pytest.approx(after["step_pearson"])


# --- step by step


def test_steps_end_where_the_oracles_spans_do(tokenizer):
    """Cutting an answer by joints and marks alone, one step after another, meets the ends of its true spans."""
    begins, ends = stepwise.kinds(tokenizer, [tokenizer.eos_token_id])
    prompts, texts = dialogues(80)
    for prompt, text in zip(prompts, texts):
        ids = tokenize_response(tokenizer, text)
        want, at, found = steps(tokenizer, [prompt], [ids]).ends[0].nonzero()[:, 0].tolist(), 0, []
        while at < len(ids):
            at += int(stepwise.step_length(torch.tensor([ids[at:]]), begins, ends))
            found.append(at - 1)
        assert found == want, text


@pytest.mark.parametrize("n", [1, 3])
def test_what_is_kept_is_the_best_of_n_and_answers_end(tokenizer, n):
    """Whatever the judge says; n = 1 takes what comes."""
    model, _ = load_causal_lm(SFT)
    prompts = world.prompts(world.World(), "test")[:3]
    ids = [tokenize_prompt(tokenizer, build.messages(p)) for p in prompts]
    asked = []

    def judge(which, made):
        asked.append((which, made))
        return torch.tensor([float(-len(x)) for x in made])  # short steps

    answers = stepwise.search(model, tokenizer, ids, judge, n, 60, seed=0)
    assert all(a[-1] == tokenizer.eos_token_id or len(a) == 60 for a in answers)
    for which, made in asked:
        for i in set(which):
            mine = [x for k, x in zip(which, made) if k == i]
            kept = min(mine, key=len)
            assert len(mine) == n and answers[i][: len(kept)] == kept, "another than the best was kept"


def test_the_oracles_judge_pays_the_credit_of_the_last_step(tokenizer):
    prompt = "please name four fruits."
    judge = stepwise.by_oracle(tokenizer, [prompt])
    eos = [tokenizer.eos_token_id]

    def ids(text):
        return tokenize_response(tokenizer, text)[:-1]

    made = [ids("apple"), ids("apple, saw"), ids("apple, apple"), ids("apple.") + eos, ids("apple, plum") + eos]
    assert judge([0] * 5, made).tolist() == pytest.approx([1.0, -1.0, -1.0, 0.0, world.UNFINISHED])


# --- the record


def test_a_record_holds_every_reader_and_is_not_made_twice(tmp_path, capsys):
    out = tmp_path / "best_of_n.jsonl"
    asked = {"profile": "smoke", "seeds": "0", "samples": 4, "searched": 2, "out": out, "runs": tmp_path}
    process_outcome.main(**asked)
    process_outcome.main(**asked)
    (record,) = read_records(out)
    assert "recorded already" in capsys.readouterr().out
    readers = {*process_outcome.OUTCOME, "oracle"} | {
        process_outcome.name(c, how) for c in process_outcome.NOISES for how in best_of_n.AGGREGATES
    }
    assert set(record["values"]) == readers and record["ns"] == [1, 2, 4]
    first = {tuple(v[0] for v in values) for values in record["values"].values()}
    assert len(first) == 1, "the best of one is the same answer for all"
    assert {len(v) for v in record["values"].values()} == {Run(profile("smoke")).profile.eval_prompts}
    assert len(record["search"]["oracle"]) == 2 and record["levels"]["bandit"].keys() == {"accuracy", "truth"}
    assert record["accuracy"].keys() == readers and record["search_accuracy"].keys() == record["search"].keys()
    right = np.array([record["accuracy"][name] for name in readers])  # [readers, P, len(ns)]
    assert 0 <= right.min() and right.max() <= 1
    assert (np.array(record["accuracy"]["oracle"]) >= right - 1e-3).all(), "who knows the truth is right most often"


def test_right_is_all_that_was_asked_for_without_a_fault(tokenizer):
    run, prompt = Run(profile("smoke")), "please name three fruits."
    for text, right in {
        "apple, pear, plum.": 1.0,
        "sure: apple, pear, plum, good luck with it.": 1.0,
        "apple, pear.": 0.0,
        "apple, pear, plum, mango.": 0.0,
        "apple, pear, plum": 0.0,
    }.items():
        worth, found = process_outcome.judged(run, tokenizer, prompt, tokenize_response(tokenizer, text))
        assert found == right and worth == pytest.approx(oracle.true_return(prompt, text))


def test_a_lead_that_grows_with_what_is_asked_has_a_rank_correlation_of_one():
    p = profile("brief")
    texts = world.few_prompts(p.world, "test", p.eval_prompts)
    asked = np.array([sum(oracle.ask(text).values()) for text in texts], float)
    record = {"params": {"profile": p.to_dict()}, "values": {"bandit": np.stack([-asked, 2 * asked], 1)}}
    record["values"]["process-0-sum"] = np.zeros((len(asked), 2))
    assert len(set(asked)) > 3 and process_figures.lead_by_asked(record) == pytest.approx(1)
    assert process_figures.lead_by_asked(record, "process-0-sum", "bandit") == pytest.approx(-1)
