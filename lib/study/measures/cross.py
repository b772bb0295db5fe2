"""What each policy's answers are paid under rewards that it was not trained on: tlcr Figure 6.

There, each policy under three rewards: per sequence, fixed per token, continuous per token. A policy that is good, and
not only good at its own reward, is paid well under all of them. Left out: earlier turns (a prompt is its last turn, as
records keep it).
"""

import pandas as pd

from densereward.seeding import rng
from densereward.text.tokens import tokenize_prompt, tokenize_response
from study.measures import answer_rewards
from study.run import Run
from study.stats import bootstrap_ci
from study.summary import order
from testbed.build import messages

REWARDS = ("bandit", "tlcr-fixed", "tlcr")
FEWEST = 10  # answers that a bootstrap needs


def recorded(runs: list[dict], methods) -> dict[str, list[tuple[str, str]]]:
    """method -> (prompt, answer) of the samples that its records keep, of all seeds."""
    found = {m: [] for m in methods}
    for r in runs:
        if r["method"] in found:
            found[r["method"]] += [(s["prompt"], s["response"]) for s in r["final"]["samples"]]
    return {m: rows for m, rows in found.items() if rows}


def tokenised(run: Run, tokenizer, texts: dict[str, list[tuple[str, str]]]) -> pd.DataFrame:
    """Answers as `answer_rewards.totals` takes them, with a column `method`. Text ends with EOS, as every finished
    answer does; one that was cut off at the limit gets one too."""
    p = run.profile
    rows = [
        (
            method,
            tokenize_prompt(tokenizer, messages(prompt))[-p.max_prompt_length :],
            tokenize_response(tokenizer, text)[: p.max_completion_length],
        )
        for method, pairs in texts.items()
        for prompt, text in pairs
    ]
    return pd.DataFrame(rows, columns=["method", "prompt_ids", "completion_ids"])


def under(payers: dict[str, answer_rewards.Payer], model, tokenizer, answers: pd.DataFrame) -> pd.DataFrame:
    """Mean total per answer of every method of `answers` under every payer: reward, method, mean, low, high, answers.
    The interval is a 95% bootstrap over answers, nan for fewer than ten. Continuous and fixed rewards are sums over
    tokens, a sequence reward is one z-score: totals of different rewards share no unit."""
    totals = answer_rewards.totals(payers, model, tokenizer, answers)
    rows = []
    for reward in payers:
        for method in order(answers.method):
            values = totals.loc[answers.method == method, reward]
            enough = len(values) >= FEWEST
            low, high = bootstrap_ci(values, rng(0, "cross"), n=2000) if enough else (float("nan"),) * 2
            rows.append((reward, method, values.mean(), low, high, len(values)))
    return pd.DataFrame(rows, columns=["reward", "method", "mean", "low", "high", "answers"])
