"""What is chosen of equal trials (`tuning.py` makes them): the grids, as many settings for every trainer, and for each
method with all its trials, those beyond its grid among them, the setting that a held-out proxy chooses, plainly or
cautiously, and the one that the truth does.

Left out: an interval of the best of many trials, which flatters itself; other seeds say what a choice is worth."""

import itertools
from dataclasses import asdict

import numpy as np

from densereward.canonical import canonical
from study.identity import same_method
from study.methods import METHODS

SEEDS = (1000, 1001, 1002)  # that no result uses; reward models: the first
_SAMPLING = {
    "kl_coef": (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.5),
    "actor_learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3),
}
POLICIES = {  # as many settings for each
    **dict.fromkeys(("ppo", "rloo", "grpo", "gtpo", "dense-grpo", "dense-rloo", "remax", "vine"), _SAMPLING),
    **dict.fromkeys(
        ("dpo", "kto"),
        {
            "dpo_beta": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
            "dpo_learning_rate": (1e-4, 3e-4, 1e-3, 3e-3),
        },
    ),
    "online-dpo": {
        "online_dpo_beta": (0.1, 0.2, 0.3, 0.6, 1.0, 3.0, 10.0, 30.0),
        "online_learning_rate": (5e-5, 1e-4, 3e-4, 1e-3),
    },
    "rs": {
        "kl_coef": (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0),
        "online_learning_rate": (5e-5, 1e-4, 3e-4, 1e-3),
    },
    "figa": {"dpo_learning_rate": tuple(float(f"{x:.1e}") for x in np.geomspace(1e-6, 1e-3, 32))},
}


def settings(grid: dict) -> list[dict]:
    """Every combination of a grid, as fields of a profile."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def choices(records: list[dict]) -> dict[str, dict]:
    """For each method with all its trials, the setting with the highest mean score of the held-out proxy over seeds
    (`choices`), a `cautious` one, and that with the highest mean true return (`by_truth`). A trial that was made twice
    counts once, one of a row that has changed since not at all."""
    made: dict[str, dict] = {"choices": {}, "cautious": {}, "by_truth": {}}
    for method_name, trials in sorted(complete(records).items()):
        for name, metric in (("choices", "heldout_proxy"), ("by_truth", "true_return")):
            made[name][method_name] = max(trials, key=lambda of: np.mean([t[metric] for t in of]))[0]["changes"]
        made["cautious"][method_name] = cautious(trials)
    return made


def cautious(trials: list[list[dict]]) -> dict:
    """Of a method's `complete` trials the setting whose answers stray least and that is not told from the best: among
    those whose shortfall from the highest mean score of the held-out proxy, paired by seed, is at most one standard
    error of its mean, the one with the least mean KL (nats). After the one-standard-error rule of Breiman and others
    (Classification and Regression Trees, 1984)."""
    scores = np.array([[t["heldout_proxy"] for t in of] for of in trials])  # [N, seeds]
    short = scores[scores.mean(1).argmax()] - scores
    close = short.mean(1) <= short.std(1, ddof=1) / np.sqrt(short.shape[1])
    within = [of for of, near in zip(trials, close, strict=True) if near]
    return min(within, key=lambda of: np.mean([t["kl"] for t in of]))[0]["changes"]


def complete(records: list[dict], kind: str = "policy trial") -> dict[str, list[list[dict]]]:
    """The trials of a kind of each method that has all of its grid: a list per setting, those of the grid first and in
    its order, then those beside it, of a trial per seed. A setting beside it that lacks a seed is none yet."""
    found: dict[str, dict[str, dict[int, dict]]] = {}
    for r in records:
        row = METHODS.get(r["method"])
        if r["kind"] == kind and row and same_method(r["params"]["method"], asdict(row)):
            found.setdefault(r["method"], {}).setdefault(canonical(r["changes"]), {})[r["seed"]] = r
    whole = {}
    for name, by_setting in found.items():
        made = {at: [of[seed] for seed in SEEDS] for at, of in by_setting.items() if of.keys() >= set(SEEDS)}
        grid = [canonical(changes) for changes in settings(POLICIES[METHODS[name].trainer])]
        if made.keys() >= set(grid):
            whole[name] = [made[at] for at in dict.fromkeys([*grid, *made])]
    return whole
