"""Win rates over training: a reference that were another's, or redrawn for each method, would decide the figure."""

from dataclasses import replace

import pytest
import torch

from densereward.text.models import load_causal_lm, scorer_from
from densereward.text.tokens import tokenize_prompt
from densereward.training import rounds
from study.methods import METHODS
from study.profiles import profile
from study.record import record as recorded
from study.run import Run
from study.stages import scorer as room
from study.stages import watched
from test_baselines import TINY
from testbed import oracle

SMALL = TINY | {"eval_prompts": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **SMALL), 0, root=tmp_path_factory.mktemp("runs"))


def test_a_higher_return_wins_and_an_equal_one_ties(run, tmp_path, monkeypatch):
    prompt = "please name three fruits."
    monkeypatch.setattr(
        watched, "reference_returns", lambda *given: {prompt: oracle.true_return(prompt, "apple, plum.")}
    )
    *_, win_rate = watched.metrics(run)
    answers = ["plum, apple.", "apple, pear, plum.", "apple, saw.", ""]
    completions = [[{"role": "assistant", "content": text}] for text in answers]
    found = win_rate(prompts=[[{"role": "user", "content": prompt}]] * 4, completions=completions)
    assert win_rate.__name__ == "win_rate" and found == [0.5, 1.0, 0.0, 0.0]


def test_every_method_is_compared_with_answers_sampled_as_its_own_are(run):
    plain, in_rounds = (watched.reference_returns(run, x) for x in (False, True))
    assert len(plain) == 16 and plain.keys() == in_rounds.keys() and plain != in_rounds
    assert all(oracle.ask(prompt) for prompt in plain)
    for name in ("bandit", "grpo", "rs"):
        record = recorded(run.of(METHODS[name]))
        assert all(0 <= row["win_rate"] <= 1 for row in record["curves"]), name
    assert len(list((run.root / "stages").glob("reference-*"))) == 2, "one stage for each way to sample, shared"


def test_answers_in_rounds_are_sampled_as_rounds_sample_and_leave_the_global_draws_alone(run):
    model, tokenizer = load_causal_lm(run.sft)
    prompts = [tokenize_prompt(tokenizer, [{"role": "user", "content": "please name three fruits."}])] * 5
    before = torch.get_rng_state()
    found = [watched.sampled_in_rounds(model, tokenizer, prompts, 12, seed, size=5) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state()) and found[0] == found[1] != found[2]
    torch.manual_seed(0)
    assert rounds.sample_answers(model, tokenizer, prompts, 12) == found[0]
    assert len(watched.sampled_in_rounds(model, tokenizer, prompts, 12, 0, size=2)) == 5


def test_on_text_there_is_no_win_rate(tmp_path):
    assert watched.metrics(Run(profile("smoke"), dataset="pairs.jsonl", root=tmp_path)) == []


def test_each_seed_has_reference_answers_and_a_held_out_proxy_of_other_pairs_than_its_own(run, tmp_path, monkeypatch):
    """A reference drawn once is lucky for all seeds alike; a proxy of the same pairs is the one that is hacked."""
    folder, drawn, trained = run.sft, [], []

    def sample(model, tokenizer, prefixes, length, seed):
        drawn.append(seed)
        return [[tokenizer.eos_token_id] for _ in prefixes]

    monkeypatch.setattr(watched.sampling, "sample", sample)
    monkeypatch.setattr(room, "scorer", lambda run: trained.append((run.seed, run.row.name)))
    for seed in (0, 1):
        own = replace(run, seed=seed, root=tmp_path, profile=replace(run.profile, heldout_proxy=True))
        vars(own)["sft"] = folder
        watched.reference_returns(own)
        watched.heldout_scorer(own)
    assert len(set(drawn)) == 2 and trained == [(1, "bandit"), (2, "bandit")]


def test_the_held_out_proxy_is_the_score_of_the_loss(run, tmp_path):
    """The scorer's factor on it: without, curves of two profiles would be on two scales."""
    model, tokenizer = load_causal_lm(run.sft)
    torch.manual_seed(0)
    net = scorer_from(model, scale=4.0).eval()
    torch.nn.init.normal_(net.head.weight)
    net.save_pretrained(tmp_path)
    prompt, answers = [{"role": "user", "content": "please name three fruits."}], ["plum.", "apple, pear."]
    ids = [tokenizer(text)["input_ids"] for text in answers]
    found = watched.heldout_proxy(tmp_path, tokenizer)(prompts=[prompt] * 2, completion_ids=ids)
    for score, answer in zip(found, ids, strict=True):
        whole = torch.tensor([tokenize_prompt(tokenizer, prompt) + answer])
        with torch.no_grad():
            expected = 4.0 * net.token_scores(whole, torch.ones_like(whole))[0, -1].item()
        assert score == pytest.approx(expected, abs=1e-4) and abs(expected) > 0.1
