"""Win rates over training: a reference that were another's, or redrawn for each method, would decide the figure."""

from dataclasses import replace

import pytest
import torch

from densereward import pipeline, study, winning
from densereward.methods import METHODS
from densereward.models import load_causal_lm, scorer_from
from densereward.pipeline import Run
from densereward.profiles import profile
from densereward.testbed import oracle
from densereward.tokens import tokenize_prompt
from densereward.training import rounds
from test_baselines import TINY

SMALL = TINY | {"eval_prompts": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **SMALL), 0, root=tmp_path_factory.mktemp("runs"))


def test_a_higher_return_wins_and_an_equal_one_ties(run, tmp_path, monkeypatch):
    prompt = "please name three fruits."
    monkeypatch.setattr(
        winning, "reference_returns", lambda *given: {prompt: oracle.true_return(prompt, "apple, plum.")}
    )
    *_, win_rate = winning.metrics(run, tmp_path)
    answers = ["plum, apple.", "apple, pear, plum.", "apple, saw.", ""]
    completions = [[{"role": "assistant", "content": text}] for text in answers]
    found = win_rate(prompts=[[{"role": "user", "content": prompt}]] * 4, completions=completions)
    assert win_rate.__name__ == "win_rate" and found == [0.5, 1.0, 0.0, 0.0]


def test_every_method_is_compared_with_answers_sampled_as_its_own_are(run):
    folder_of_sft = pipeline.sft_model(run)
    plain, in_rounds = (winning.reference_returns(run, folder_of_sft, x) for x in (False, True))
    assert len(plain) == 16 and plain.keys() == in_rounds.keys() and plain != in_rounds
    assert all(oracle.ask(prompt) for prompt in plain)
    for name in ("bandit", "grpo", "rs"):
        record = study.run_method(run, METHODS[name])
        assert all(0 <= row["win_rate"] <= 1 for row in record["curves"]), name
    assert len(list((run.root / "stages").glob("reference-*"))) == 2, "one stage for each way to sample, shared"


def test_answers_in_rounds_are_sampled_as_rounds_sample_and_leave_the_global_draws_alone(run):
    model, tokenizer = load_causal_lm(pipeline.sft_model(run))
    prompts = [tokenize_prompt(tokenizer, [{"role": "user", "content": "please name three fruits."}])] * 5
    before = torch.get_rng_state()
    found = [winning.sampled_in_rounds(model, tokenizer, prompts, 12, seed, size=5) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state()) and found[0] == found[1] != found[2]
    torch.manual_seed(0)
    assert rounds.sample_answers(model, tokenizer, prompts, 12) == found[0]
    assert len(winning.sampled_in_rounds(model, tokenizer, prompts, 12, 0, size=2)) == 5


def test_on_text_there_is_no_win_rate(tmp_path):
    assert winning.metrics(Run(profile("smoke"), dataset="pairs.jsonl", root=tmp_path), tmp_path) == []


def test_each_seed_has_reference_answers_and_a_held_out_proxy_of_other_pairs_than_its_own(run, tmp_path, monkeypatch):
    """A reference drawn once is lucky for all seeds alike; a proxy of the same pairs is the one that is hacked."""
    folder, drawn, trained = pipeline.sft_model(run), [], []

    def sample(model, tokenizer, prefixes, length, seed):
        drawn.append(seed)
        return [[tokenizer.eos_token_id] for _ in prefixes]

    monkeypatch.setattr(winning.sampling, "sample", sample)
    monkeypatch.setattr(pipeline, "preferences", lambda run, folder: run.seed)
    monkeypatch.setattr(pipeline, "scorer", lambda run, row, sft, prefs: trained.append((run.seed, prefs)) or (sft, {}))
    for seed in (0, 1):
        winning.reference_returns(replace(run, seed=seed, root=tmp_path), folder)
        winning.heldout_scorer(replace(run, seed=seed, profile=replace(run.profile, heldout_proxy=True)), folder)
    assert len(set(drawn)) == 2 and trained == [(1, 1), (2, 2)]


def test_the_held_out_proxy_is_the_score_of_the_loss(run, tmp_path):
    """The scorer's factor on it: without, curves of two profiles would be on two scales."""
    model, tokenizer = load_causal_lm(pipeline.sft_model(run))
    torch.manual_seed(0)
    net = scorer_from(model, scale=4.0).eval()
    torch.nn.init.normal_(net.head.weight)
    net.save_pretrained(tmp_path)
    prompt, answers = [{"role": "user", "content": "please name three fruits."}], ["plum.", "apple, pear."]
    ids = [tokenizer(text)["input_ids"] for text in answers]
    found = winning.heldout_proxy(tmp_path, tokenizer)(prompts=[prompt] * 2, completion_ids=ids)
    for score, answer in zip(found, ids, strict=True):
        whole = torch.tensor([tokenize_prompt(tokenizer, prompt) + answer])
        with torch.no_grad():
            expected = 4.0 * net.token_scores(whole, torch.ones_like(whole))[0, -1].item()
        assert score == pytest.approx(expected, abs=1e-4) and abs(expected) > 0.1
