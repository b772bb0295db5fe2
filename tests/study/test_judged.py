"""Testbed policies before judges, and published verdicts as a record: a verdict turned around, a rate of other prompts,
a control that is taken at its word."""

import json
from pathlib import Path

import numpy as np
import pytest

from densereward.labels.budget import Budget
from densereward.labels.llm import Chat, LLMError
from study.measures import judged
from study.measures.stored_verdicts import measured
from study.records import ROOT
from test_llm import completion

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROMPT = "hello. please name three fruits."
GOOD, BAD = "maybe apple, maybe pear.", "maybe hammer."


def record(method: str, seed: int, returns, lengths, texts=()) -> dict:
    samples = [{"prompt": PROMPT, "response": text} for text in texts]
    answers = {"true_return": list(returns), "length": list(lengths)}
    return {"method": method, "seed": seed, "final": {"answers": answers, "samples": samples}}


def test_the_same_seeds_are_set_against_each_other():
    records = [record(name, seed, [1.0], [9]) for name, seed in (("sft", 0), ("token", 1), ("token", 0), ("sft", 2))]
    records.append({"method": "token", "seed": 2, "final": {}})  # of real text
    pairs = judged.paired(records, ["sft", "token"])
    assert [(a["method"], a["seed"], b["method"], b["seed"]) for a, b in pairs] == [("token", 0, "sft", 0)]


def test_a_taste_for_length_is_taken_back_where_length_says_nothing_of_quality():
    """And is not where a policy loses by its length: what the book says of control must be what is computed."""
    rng = np.random.default_rng(0)
    n, base = 300, np.full(300, 30)
    longer = rng.integers(-10, 11, n)
    fair = record("token", 0, rng.normal(0.5, 1, n), base + longer)
    rambles = record("segment", 0, np.where(longer > -6, -4.0, 2.0) + rng.normal(0, 0.1, n), base + 10 * (longer + 10))
    sft = record("sft", 0, np.zeros(n), base)
    found = judged.rates([(fair, sft), (rambles, sft)], 2.0).set_index("method")
    assert abs(found["taste controlled"] - found["without taste"])["token"] < 2
    assert found["controlled"]["segment"] > found["oracle"]["segment"] + 30
    assert found["oracle"]["segment"] == 100 * np.mean(longer <= -6) and found.longer["token"] == longer.mean()
    wins = np.array(fair["final"]["answers"]["true_return"]) > 0
    assert found["oracle, error"]["token"] == pytest.approx(100 * wins.std(ddof=1) / np.sqrt(n))
    assert 1 < found["controlled, error"]["token"] < 6, "a rate of 300 prompts has an error of some 3 points"
    none = judged.rates([(fair, sft)], 0.0).iloc[0]
    assert none["with taste"] == pytest.approx(none["without taste"])


def verdicts(chat, *texts: tuple[str, str]):
    ours = record("token", 0, [0.0], [1], [a for a, _ in texts])
    return judged.asked(chat, judged.samples([(ours, record("sft", 0, [0.0], [1], [b for _, b in texts]))], 9))


def test_a_model_that_sees_what_the_oracle_sees_agrees_with_it(endpoint, tmp_path):
    def honest(body) -> str:
        text = body["messages"][-1]["content"]
        good, bad = text.find(GOOD), text.find(BAD)
        return completion(f"[[{'A=B' if min(good, bad) < 0 else 'A>>B' if good < bad else 'B>A'}]]")

    endpoint.reply = honest
    found = verdicts(Chat("m", tmp_path / "c", temperature=0), (GOOD, BAD), (BAD, GOOD), (GOOD, GOOD))
    assert found.oracle.tolist() == found.judge.tolist() == ["model_1", "model_2", "tie"]
    told = judged.agreement(found)
    assert (told["same"], told["kappa"], told["same winner"], told["reversed"]) == (1, 1, 1, 0)
    endpoint.reply = lambda body: completion("[[A>B]]")  # takes what is shown first
    lazy = judged.agreement(verdicts(Chat("lazy", tmp_path / "c"), (GOOD, BAD), (BAD, GOOD)))
    assert (lazy["same"], lazy["reversed"], lazy["both decide"]) == (0, 1, 0)
    endpoint.reply = lambda body: completion("no idea")
    silent = judged.agreement(verdicts(Chat("silent", tmp_path / "c"), (GOOD, BAD)))
    assert silent["unreadable"] == silent["pairs"] == 1 and "same" not in silent
    with pytest.raises(LLMError, match="budget of 1 requests is spent"):
        verdicts(Chat("dear", tmp_path / "c", budget=Budget(requests=1)), (GOOD, BAD))


def test_answers_to_other_prompts_are_not_compared():
    ours, theirs = (record(name, 0, [0.0], [1], [GOOD]) for name in ("token", "sft"))
    theirs["final"]["samples"][0]["prompt"] = "another"
    with pytest.raises(ValueError, match="token, seed 0: the baseline was asked something else"):
        judged.samples([(ours, theirs)], 1)


def test_the_record_of_published_verdicts_is_what_is_measured_today():
    if not (SHARED / "llmbar").exists():
        pytest.skip(f"no published verdicts at {SHARED}")
    stored = json.loads((ROOT / "data" / "results" / "judging.jsonl").read_text().splitlines()[-1])
    found = json.loads(json.dumps(measured(SHARED)))
    assert {name: stored[name] for name in found} == found
    for row in found["win_rates"]:
        assert row["win rate"] == pytest.approx(row["published"], abs=1e-3)
        assert row["length-controlled"] == pytest.approx(row["published, controlled"], abs=0.01)
    overall = found["mt_bench"][-1]
    assert (overall["first"], overall["second"], overall["judged"]) == (8.3625, 8.0375, 160), "as published"
    assert [row["right"] for row in found["llmbar"]][:2] == pytest.approx([95.5, 78.7], abs=0.05)
    cost = {row["judge"]: row for row in found["cost"]}
    assert (cost["MT-Bench, one answer"]["calls"], cost["MT-Bench, pairs"]["calls"]) == (160, 320)
    assert all(row["in"] is None or row["in"] > row["prompt"] + 400 for row in cost.values()), "answers are in it"
