"""What verdicts of LLM judges add up to: MT-Bench's means, how far the order of two answers decides, and how often a
judge agrees with known labels (LLMBar).

A verdict that could not be read is None: it has a count of its own, is left out of means, and is never a tie.

Book: judging.md
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy
from sklearn.metrics import cohen_kappa_score

from study.stats import mean_interval


def mt_bench(judgments: pd.DataFrame, categories: Mapping) -> pd.DataFrame:
    """MT-Bench's table (Zheng et al. 2023, arXiv 2306.05685): a row per category and one of "all", with the mean score
    (1..10) of the first turn, of the second and of both, the standard error of the last over questions, and counts.

    judgments: columns question, turn (1 or 2), score (nan where unreadable). categories: question -> category.
    Raises ValueError for a score out of range, a question without category, and a turn judged twice."""
    wrong = judgments[~(judgments.score.between(1, 10) | judgments.score.isna())]
    if len(wrong):
        raise ValueError(f"question {wrong.question.iloc[0]}: score {wrong.score.iloc[0]}; it is 1..10, or nan")
    if judgments.duplicated(["question", "turn"]).any():
        twice = judgments[judgments.duplicated(["question", "turn"])].iloc[0]
        raise ValueError(f"question {twice.question}: turn {twice.turn} is judged twice; pass one model's judgments")
    rows = judgments.assign(category=judgments.question.map(categories), score=judgments.score.astype(float))
    if rows.category.isna().any():
        raise ValueError(f"question {rows.question[rows.category.isna()].iloc[0]} has no category")

    def line(part: pd.DataFrame) -> dict:
        turns = {name: part.score[part.turn == turn].mean() for turn, name in ((1, "first"), (2, "second"))}
        by_question = part.groupby("question").score.mean().dropna()
        counts = {"judged": int(part.score.notna().sum()), "unreadable": int(part.score.isna().sum())}
        return turns | {"both": part.score.mean(), "standard_error": by_question.sem()} | counts

    lines = {category: line(part) for category, part in rows.groupby("category", sort=False)}
    return pd.DataFrame.from_dict(lines | {"all": line(rows)}, orient="index")


def position_bias(first: Sequence, second: Sequence, one: str = "model_1", other: str = "model_2") -> dict:
    """How far the order of two answers decides. `first` are the winners (`one`, `other`, "tie" or None) where `one`'s
    answer was shown first, `second` those where it was shown second, in the same order of pairs.

    Returns pairs; unreadable (pairs with a None in either order), and of the rest: same, reversed (one wins in one
    order, the other in the other), tie_in_one; to_first and to_second (of the reversed, by the place that won);
    flip, the share that says something else in the other order, and reversal, the share reversed, each with a 95%
    Wilson interval (low, high); wins of each by agreement in both orders (no agreement is a tie, as MT-Bench has it).
    Raises ValueError for unequal lengths or another word."""
    pairs = _pairs(first, second, {one, other, "tie"})
    read = [pair for pair in pairs if None not in pair]
    same = [pair[0] for pair in read if pair[0] == pair[1]]
    reversals = [pair for pair in read if set(pair) == {one, other}]
    flips = len(read) - len(same)
    return {
        "pairs": len(pairs),
        "unreadable": len(pairs) - len(read),
        "same": len(same),
        "reversed": len(reversals),
        "tie_in_one": flips - len(reversals),
        "to_first": reversals.count((one, other)),
        "to_second": reversals.count((other, one)),
        "flip": _share(flips, len(read)),
        "reversal": _share(len(reversals), len(read)),
        "wins": {
            one: same.count(one),
            other: same.count(other),
            "tie": len(read) - same.count(one) - same.count(other),
        },
    }


def agreement(first: Sequence, second: Sequence, labels: Sequence) -> dict:
    """How often a judge picks the labelled answer (LLMBar, Zeng et al. 2024, arXiv 2310.07641). `first` and `second`
    are the answers picked ("1", "2", or None for no readable pick) with the answers shown in either order.

    Returns right in each order, in both, and equal (the same pick in both orders, right or not), each as (count,
    share, low, high) with a 95% Wilson interval of the share; average, (share, low, high), Student's t over items, as
    the two orders of an item are no independent picks; kappa between the orders, over the items picked in both; and
    unreadable picks. An unreadable pick is wrong. Raises ValueError for unequal lengths or other words."""
    words = {"1", "2"}
    pairs = _pairs(first, second, words)
    labels = [str(label) for label in labels]
    if len(labels) != len(pairs) or not set(labels) <= words:
        raise ValueError(f"{len(labels)} labels for {len(pairs)} items, of {sorted(set(labels))}; pass '1' or '2' each")
    right = np.array([[pick == label for pick in pair] for pair, label in zip(pairs, labels)])  # [N, 2]
    counts = {"first": right[:, 0], "second": right[:, 1], "both": right.all(1)}
    counts["equal"] = np.array([pair[0] == pair[1] and pair[0] is not None for pair in pairs])
    read = [pair for pair in pairs if None not in pair]
    return {name: (int(of.sum()), *_share(int(of.sum()), len(pairs))) for name, of in counts.items()} | {
        "average": mean_interval(right.mean(1)),
        "kappa": float(cohen_kappa_score(*zip(*read))) if read else float("nan"),
        "unreadable": sum(pick is None for pair in pairs for pick in pair),
    }


def _pairs(first: Sequence, second: Sequence, words: set[str]) -> list[tuple]:
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"{len(first)} verdicts in one order and {len(second)} in the other; pass one of each per pair"
        )
    pairs = list(zip(first, second))
    unknown = {verdict for pair in pairs for verdict in pair} - words - {None}
    if unknown:
        raise ValueError(f"verdicts {sorted(map(str, unknown))} are none of {sorted(words)}; pass None for unreadable")
    return pairs


def _share(count: int, n: int) -> tuple[float, float, float]:
    """(share, low, high) with Wilson's 95% interval; nan of none."""
    if not n:
        return (float("nan"),) * 3
    interval = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    return count / n, float(interval.low), float(interval.high)
