"""Which row decides a row's mask, and whether it can."""

from dataclasses import replace

from study.methods import METHODS, Method

BASELINES = ("round", "running mean", "fixed", "td")
PREFERRED = {"ppo": ("round", "advantage"), "grpo": ("group",)}  # trainer: of `masks.preferred_by`; PPO has no groups
OFFLINE = ("dpo", "kto")  # trainers on fixed pairs: b is the mean of all of them, or fixed


def row_of(method: Method) -> Method | None:
    """The row whose rewards decide a row's mask, None without a mask. ValueError for one that has none to give, for
    unknown names, for a mask that does not say its baseline or who is preferred where its trainer leaves a choice (a
    default that changed would make two methods look alike), for a TD error where no critic learns those rewards, and
    for a sign where it has no use."""
    if method.mask is None:
        return None
    by, where = METHODS[method.mask["by"]], f"mask of method {method.name!r}"
    if by.scorer == "none" or by.segmentation["kind"] == "bandit":
        raise ValueError(
            f"{where}: {by.name!r} has no rewards of parts; take 'token', 'segment', 'tlcr' or 'oracle-dense'"
        )
    baselines = (None, "fixed") if method.trainer in OFFLINE else BASELINES
    for name, known in {"baseline": baselines, "preferred": PREFERRED.get(method.trainer, (None,))}.items():
        if (given := method.mask.get(name)) not in known:
            choice = ", ".join("nothing" if x is None else repr(x) for x in known)
            raise ValueError(f"{where}: {name} is {given!r}; with trainer {method.trainer!r} give {choice}")
    parts = ("scorer", "revisions", "segmentation", "trained_with", "normaliser", "correction", "shaping")
    alike = all(getattr(method, part) == getattr(by, part) for part in parts)
    per_token = by.segmentation == {"kind": "token"} and method.trainer == "ppo"
    by_critic = method.mask.get("baseline") == "td"
    if by_critic and not (alike and per_token):
        raise ValueError(f"{where}: a TD error takes the critic of the token rewards that decide; use PPO on 'token'")
    if method.mask.get("signed") and method.trainer != "ppo":
        raise ValueError(f"{where}: it is signed, which likelihoods and losses on pairs cannot take; use PPO")
    scale = method.scale if by_critic else "none"  # the critic's; elsewhere offsets are in deviations of token scores
    return replace(by, interpolation="repeat", scale=scale)
