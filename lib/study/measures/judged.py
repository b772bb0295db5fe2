"""Testbed policies before judges: the oracle, a judge that likes length as well, a language model behind an endpoint.

From records alone: their answers to the same test prompts, against those of a baseline of the same seed. The judge that
likes length is the oracle with a taste, P(A before B) = sigma(difference of true returns + taste * tanh(difference of
lengths / its standard deviation)), AlpacaEval's own form, so that length control is asked to undo what it is made for.
What it should give back is known here: the same judge's rate without the taste.

Left out: more than one language model, and its prompts in other words.

Book: judging.md
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import scipy
from sklearn.metrics import cohen_kappa_score

from densereward.labels.llm import Chat
from densereward.progress import progress
from study.measures import judges
from study.measures.verdicts import position_bias
from study.measures.winrate import length_controlled, win_rate
from testbed import oracle

RATES = ("oracle", "controlled", "without taste", "with taste", "taste controlled", "longer")
ERRORS = ("oracle, error", "controlled, error")
COLUMNS = (*RATES, *ERRORS)
RESAMPLES = 30  # of prompts, for the error of a controlled rate
SIDES = ("model_1", "model_2", "tie")  # the method's answer, the baseline's, neither


def paired(records: Iterable[dict], methods: Iterable[str], baseline: str = "sft") -> list[tuple[dict, dict]]:
    """(record, the baseline's of its seed) of each method and seed that hold test answers with true returns, in the
    order of `methods`."""
    found = {(r["method"], r["seed"]): r for r in records if "true_return" in r["final"].get("answers", {})}
    names = [name for name in methods if name != baseline]
    keys = [(name, seed) for name in names for method, seed in sorted(found) if method == name]
    return [(found[key], found[baseline, key[1]]) for key in keys if (baseline, key[1]) in found]


def rates(pairs: list[tuple[dict, dict]], taste: float) -> pd.DataFrame:
    """A row per pair of records: method, seed, and RATES, per cent of test prompts won against the baseline: by the
    oracle (ties half), that controlled for length; by the soft judge without and with its taste (logits), the latter
    controlled; and by how many tokens the answers are longer. Then ERRORS, the standard errors of the first two over
    prompts, in points."""
    rows = []
    for record, baseline in pairs:
        ours, theirs = (pd.DataFrame(r["final"]["answers"]) for r in (record, baseline))  # length, true_return [N]
        gain, longer = (ours[name] - theirs[name] for name in ("true_return", "length"))
        sure, soft = (np.sign(gain) + 1) / 2, scipy.special.expit(gain)
        liked = scipy.special.expit(gain + taste * np.tanh(longer / (longer.std() or 1.0)))
        lengths = ours.length, theirs.length, range(len(gain))
        raw, controlled = win_rate(sure), length_controlled(sure, *lengths, resamples=RESAMPLES)
        tamed = length_controlled(liked, *lengths, resamples=0).rate
        found = raw.rate, controlled.rate, 100 * soft.mean(), 100 * liked.mean(), tamed, longer.mean()
        found += raw.standard_error, controlled.standard_error
        rows.append({"method": record["method"], "seed": record["seed"]} | dict(zip(COLUMNS, map(float, found))))
    return pd.DataFrame(rows, columns=["method", "seed", *COLUMNS])


def samples(pairs: list[tuple[dict, dict]], most: int) -> list[dict]:
    """The answers that records keep as text, the first `most` of each: method, seed, prompt, answer, baseline (text),
    and the winner by the oracle (SIDES). Raises ValueError where the two answer other prompts."""
    rows = []
    for record, baseline in pairs:
        for ours, theirs in list(zip(record["final"]["samples"], baseline["final"]["samples"]))[:most]:
            prompt = ours["prompt"]
            if theirs["prompt"] != prompt:
                raise ValueError(f"{record['method']}, seed {record['seed']}: the baseline was asked something else")
            gain = np.subtract(*(oracle.true_return(prompt, one["response"]) for one in (ours, theirs)))
            winner = SIDES[2] if abs(gain) < 1e-9 else SIDES[int(gain < 0)]
            row = {"method": record["method"], "seed": record["seed"], "prompt": prompt, "oracle": winner}
            rows.append(row | {"answer": ours["response"], "baseline": theirs["response"]})
    return rows


def asked(chat: Chat, rows: list[dict]) -> pd.DataFrame:
    """`samples` with what the model behind `chat` says, in both orders as in Arena-Hard: first, second (the method's
    answer shown first, second; SIDES, None where unreadable), judge (what both say, else a tie), outcomes (counts).
    Raises what `chat.ask` raises."""

    def one(row: dict) -> dict:
        games = judges.arena_hard_games(
            chat, row["prompt"], row["prompt"], "model", row["answer"], "baseline", row["baseline"]
        )
        second, first = (_winner(game["verdict"], game["model_a"] == "model") for game in games)
        both = None if None in (first, second) else first if first == second else SIDES[2]
        return row | {"first": first, "second": second, "judge": both, "games": games}

    with ThreadPoolExecutor(chat.concurrency) as pool:
        done = list(progress("verdicts", pool.map(one, rows), len(rows), chat.budget.__str__))
    return pd.DataFrame(done)


def agreement(verdicts: pd.DataFrame) -> dict:
    """How a judge's verdicts (`asked`) agree with the oracle's, over pairs read in both orders: pairs, unreadable,
    same (share, with Wilson's 95% interval), kappa (Cohen's, over won, lost and tied), of those in which both name a
    winner, how many and the share with the same; reversed, the share turned around by the order."""
    bias = position_bias(verdicts["first"].tolist(), verdicts["second"].tolist())
    read = verdicts[verdicts.judge.notna()]
    same = int((read.judge == read.oracle).sum())
    decided = read[(read.judge != SIDES[2]) & (read.oracle != SIDES[2])]
    row = {"pairs": len(verdicts), "unreadable": bias["unreadable"]}
    if len(read):
        interval = scipy.stats.binomtest(same, len(read)).proportion_ci(method="wilson")
        row |= {"same": same / len(read), "low": float(interval.low), "high": float(interval.high)}
        row["kappa"] = float(cohen_kappa_score(read.oracle, read.judge, labels=list(SIDES)))
    row |= {"both decide": len(decided), "same winner": float((decided.judge == decided.oracle).mean())}
    return row | {"reversed": bias["reversal"][0]}


def _winner(verdict: str | None, model_first: bool) -> str | None:
    """The winner (SIDES) of one of Arena-Hard's five labels."""
    if verdict is None or "=" in verdict:
        return None if verdict is None else SIDES[2]
    return SIDES[0] if (verdict[0] == "A") == model_first else SIDES[1]
