"""What would break: a judge no better than a coin that decides all the same, a gain read across seeds whose scores
share no zero, or a check that cannot fail."""

import pytest

from report import real_text, smollm2
from report.figures import return_against_kl

WARM, ROUNDS = 2, 6
ROWS = ("sft", "bandit", "segment", "token", "tlcr-clauses")


def run(method: str, seed: int, gain: float, accuracy: float = 0.6) -> dict:
    """A run whose gold score ends `gain` above the SFT model's, which has a zero of its own in each seed."""
    scorer = {"accuracy_test": accuracy, "accuracy_test_se": 0.02, "accuracy_validation": 0.5}
    scorer |= {"pairs": 9, "segment_length": 1.0}
    zero, gain = 100.0 * seed, 0.0 if method == "sft" else gain
    made = {"method": method, "seed": seed, "heldout": dict(scorer), "params": {"profile": {"critic_warmup": WARM}}}
    kl = 20.0 if method in ("token", "segment") else 5.0
    final = {"n": 100, "kl": kl, "length": 80.0, "heldout_proxy": zero + gain, "heldout_proxy_se": 0.1}
    if method != "sft":
        after = [max(0, i - WARM) / (ROUNDS - 1 - WARM) for i in range(ROUNDS)]
        falls = 2 * after[-2] - after[-1] if method in ("token", "segment") else 0
        curve = [zero + gain * x - (falls if i == ROUNDS - 1 else 0) for i, x in enumerate(after)]
        made["reward_model"] = scorer
        made["curves"] = [
            {"rollout": i, "kl": kl * x, "heldout_proxy": y, "proxy_reward": x}
            for i, (x, y) in enumerate(zip(after, curve, strict=True))
        ]
    return made | {"final": final}


def runs(gain: float = 0.1, **more) -> list[dict]:
    return [run(m, seed, gain + 0.01 * seed, **more) for m in ROWS for seed in range(3)]


def test_a_gain_is_read_within_a_seed_in_deviations_of_the_sft_models_scores():
    found = real_text.gains(runs(0.5))
    assert set(found.method) == set(ROWS[1:]) and found["value"].tolist()[:3] == pytest.approx([0.5, 0.51, 0.52])


def test_a_judge_that_is_a_coin_decides_nothing():
    assert real_text.NO in real_text.verdict(runs(0.5, accuracy=0.53))
    told = real_text.verdict(runs(0.5, accuracy=0.55))
    assert real_text.NO not in told and "better than the SFT model: Bandit" in told and "worse: no row" in told
    assert "better than the SFT model: no row" in real_text.verdict(runs(-0.01, accuracy=0.55)), "intervals hold zero"


def test_reward_models_and_their_judge_stand_in_one_table():
    found = real_text.scorers(runs())
    assert len(found) == 5 and found["reward model"].iloc[-1] == "Gold" and set(found.seeds) == {3}
    told = real_text.judged(runs())
    assert list(told["paid more"]) == ["3 of 3"] * 4 and set(told["of each seed"]) == {"+0.10, +0.11, +0.12"}


def broken(letter: str) -> list[dict]:
    made = runs(accuracy=0.55)
    for r in made:
        of, curve = r.get("reward_model", {}), r.get("curves", [])
        if letter == "a":
            r["heldout"]["accuracy_test"] = 0.485
        elif letter == "b" and r["method"] == "token":
            curve[WARM]["heldout_proxy"] += 1e-9
        elif letter == "c" and (r["method"], r["seed"]) == ("tlcr-clauses", 1):
            curve[-1]["proxy_reward"] = curve[-2]["proxy_reward"] = -1.0
        elif letter == "d" and r["method"] == "segment":
            of["segment_length"] = 1.2
        elif letter == "e" and (r["method"], r["seed"]) == ("token", 2):
            of["accuracy_test"] = 0.57
        elif letter == "f" and r["method"] == "bandit":
            r["final"]["length"] = 60.0
        elif letter == "g" and r["method"] == "segment":
            r["final"]["kl"] = 4.0
        elif letter == "h" and r["method"] == "tlcr-clauses":
            r["final"]["heldout_proxy"] += 0.5
    return made


@pytest.mark.parametrize("letter", [None, *"abcdefgh"])
def test_each_expectation_can_fail_and_fails_alone(letter):
    made = broken(letter) if letter else runs(accuracy=0.55)
    found = smollm2.checks(made, real_text.CHECKS)
    assert list(found.prediction[found.holds == "no"].str[0]) == ([letter] if letter else [])


def test_the_gold_score_is_drawn_against_kl():
    _, numbers = return_against_kl(runs(), "heldout_proxy", "gold score\n(its own unit)")
    assert {"kl", "heldout_proxy", "proxy_reward"} <= set(numbers) and set(numbers.method) == set(ROWS[1:])
