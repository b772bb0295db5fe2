"""What would break: rows from beyond the three papers that cannot be run, or are compared at a budget that is not
theirs."""

import math
from dataclasses import replace

import pytest
import torch

from densereward.reward.dense import segment_ids
from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.models import TokenScorer, load_causal_lm
from study import plan
from study.measures import measure, signals
from study.methods import CREDIT, METHODS
from study.profiles import profile
from study.record import record as recorded
from study.run import Run, reads_truth
from test_baselines import TINY

NAMES = ("forking", "vine", "vine-full", "macro-lambda")
TOKENS = ("q-rm", "distil")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **TINY), 0, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def records(run):
    return {name: recorded(run.of(name)) for name in ("bandit", *NAMES, *TOKENS)}


def test_they_are_run_and_recorded_on_the_bandits_reward_model(run, records):
    for name in NAMES:
        found = records[name]
        assert len(found["curves"]) == 2 and math.isfinite(found["credit"]["advantages_credit_pearson"]), name
        assert run.of(name).scorer == run.of("bandit").scorer
        assert found["credit"]["rewards_credit_pearson"] == records["bandit"]["credit"]["rewards_credit_pearson"], name
    first = {name: records[name]["curves"][0]["true_return"] for name in ("bandit", "forking", "macro-lambda")}
    assert len(set(first.values())) == 1, "they do not see the same first answers"


def test_what_is_finished_counts_and_fewer_answers_make_up_for_it(records):
    used = {name: records[name]["used"] for name in records}
    curves = {name: records[name]["curves"] for name in records}
    assert used["vine-full"]["responses"] > 2 * 8 * 3 and used["vine-full"]["tokens"] > 2 * used["bandit"]["tokens"]
    assert used["vine"]["responses"] < used["vine-full"]["responses"] / 2
    assert [row["step"] for row in curves["vine"]] == [row["step"] for row in curves["vine-full"]], "fewer updates"


def test_their_advantages_are_those_that_their_trainers_make(run, records):
    answers = measure.reference_credit(run)
    told = {name: measure.paid(run.of(name), answers) for name in ("bandit", *NAMES)}
    gained = {name: signals.advantages(run.of(name), told[name], answers) for name in told}
    mask = told["bandit"].batch["completion_mask"].bool()
    kept = gained["forking"] != 0
    assert 0 < kept.sum() < 0.35 * mask.sum() and not kept[~mask].any()
    entropies = told["forking"].batch["ref_entropies"]
    assert entropies[kept].min() >= entropies[mask & ~kept].max()
    for row, real in zip(gained["macro-lambda"], mask):
        parts = row[real].split(5)
        assert all(part.std(correction=0) < 1e-6 for part in parts), "tokens of a macro action differ"
    assert gained["vine"][mask].unique().numel() > len(mask), "an answer's segments are alike"
    assert torch.equal(gained["vine"], gained["vine-full"]), "what is measured depends on the budget"


def test_macro_actions_that_are_cut_by_text_are_credited_as_they_are_trained(run, records):
    answers = measure.reference_credit(run)
    paid = measure.paid(run.of("macro-lambda"), answers)
    spoken = run.of(replace(METHODS["macro-lambda"], options={"macro": {"kind": "sentence"}, "lam": 0.95}))
    vars(spoken)["policy"] = run.of("macro-lambda").policy  # one critic for both
    gained = signals.advantages(spoken, paid, answers)
    ids = segment_ids({"kind": "sentence"}, paid.batch, paid.tokenizer)
    for row, cut in zip(gained, ids):
        assert all(row[cut == s].std(correction=0) < 1e-6 for s in range(int(cut.max()) + 1))
    assert not torch.equal(gained, signals.advantages(run.of("macro-lambda"), paid, answers))


def test_the_rows_differ_from_the_bandit_in_what_they_say_and_in_nothing_else():
    for name in CREDIT[:-2]:
        row = METHODS[name]
        same = replace(row, name="bandit", label="Bandit (sequence)", source="segment-ppo Table 1")
        assert replace(same, trainer="ppo", options={}) == METHODS["bandit"], name


def told(run, name):
    answers = measure.reference_credit(run)
    paid = measure.paid(run.of(name), answers)
    return paid, signals.advantages(run.of(name), paid, answers)


def test_a_score_that_is_a_tokens_value_is_compared_with_the_critic_and_not_summed(run, records):
    paid, gained = told(run, "q-rm")
    mask = paid.batch["completion_mask"].bool()
    assert run.of("q-rm").scorer == run.of("token").scorer
    critic = TokenScorer.from_pretrained(run.of("q-rm").policy.path / "critic", dtype=torch.float32)
    both = (torch.cat([paid.batch[f"prompt_{x}"], paid.batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    values = critic.token_scores(*both)[:, -mask.size(1) - 1 : -1]
    left = (paid.batch["rewards"] - values)[mask]
    assert torch.allclose(gained[mask], (left - left.mean()) / left.std(correction=0), atol=1e-3)


def test_a_pupil_is_paid_the_log_ratios_of_its_teacher(run, records):
    """With the KL to the SFT model, which the trainer takes off, at the same weight: what is left is the KL to the
    teacher, 0 for the teacher itself."""
    paid, _ = told(run, "distil")
    teacher = load_causal_lm(run.of("oracle-dense").policy.path / "policy")[0]
    length = paid.batch["completion_ids"].size(1)
    both = (torch.cat([paid.batch[f"prompt_{x}"], paid.batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    with torch.no_grad():
        logps, _ = logprobs_and_entropy(teacher, *both, length)
    kl = run.profile.kl_coef * (logps - paid.batch["ref_logps"]) * paid.batch["completion_mask"]  # of the teacher
    assert torch.allclose(paid.batch["rewards"] - kl, torch.zeros_like(kl), atol=1e-5) and kl.abs().sum() > 0
    assert "oracle-dense" in records["distil"]["stage_seconds"] and "scorer" not in records["distil"]["stage_seconds"]
    assert records["distil"]["used"]["preference_labels"] == 0


def test_what_was_taught_by_the_truth_says_so_and_waits_for_its_teacher(run):
    assert reads_truth(METHODS["distil"]) and not reads_truth(METHODS["q-rm"]) and not reads_truth(METHODS["rto"])
    tasks = plan.plan([run.of("distil"), run.of("oracle-dense")])
    assert "oracle-dense, seed 0" in tasks["distil, seed 0"].needs
    assert METHODS["rto"].advised_by == METHODS["implicit"].advised_by == "dpo" and METHODS["bandit"].advised_by is None
