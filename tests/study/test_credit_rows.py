"""What would break: rows from beyond the three papers that cannot be run, or are compared at a budget that is not
theirs."""

import math
from dataclasses import replace

import pytest
import torch

from study.measures import measure, signals
from study.methods import CREDIT, METHODS
from study.profiles import profile
from study.record import record as recorded
from study.run import Run
from test_baselines import TINY

NAMES = ("forking", "vine", "vine-full", "macro-lambda")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **TINY), 0, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def records(run):
    return {name: recorded(run.of(name)) for name in ("bandit", *NAMES)}


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
    assert used["vine-full"]["responses"] > 2 * 8 * 4 and used["vine-full"]["tokens"] > 2 * used["bandit"]["tokens"]
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


def test_the_rows_differ_from_the_bandit_in_what_they_say_and_in_nothing_else():
    for name in CREDIT:
        row = METHODS[name]
        same = replace(row, name="bandit", label="Bandit (sequence)", source="segment-ppo Table 1")
        assert replace(same, trainer="ppo", options={}) == METHODS["bandit"], name
