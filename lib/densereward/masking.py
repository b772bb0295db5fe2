"""A row's mask: which tokens of a batch its trainer learns from, decided by another row's rewards.

Follows adaptive-mask Section 3.2.1, Eq. 13, 17, 18. The rewards of the row `mask["by"]` (a token or segment reward
model on the same pairs, TLCR's discriminator, or the oracle, a control), normalised as that row does and repeated over
a segment's tokens, are compared with the baseline. What the paper leaves open is chosen here and in the trainers:

- b is updated "dynamically" by the reward model's results. "round": the mean reward of the batch's tokens. "running
  mean": that of all tokens sampled so far, which lags: as answers improve, ever more tokens are good, and the mask of a
  rejected answer empties. "fixed": 0, the mean on the preference pairs that the normaliser was fitted on (its "offline
  inference results"), which drifts most. "td": the critic's, which makes the difference a TD error. A TD error takes
  the critic of the rewards that decide: the row's own must be the same. What the critic knows of the KL penalty stays.
- Preferred are the answers of a PPO row above the mean total of their round, or with a mean advantage above 0; those of
  GRPO above their group; elsewhere a pair's chosen answers, or a prompt's best.
- Offsets are in standard deviations of the deciding scores.

Left out: means over several processes; each has its own.
"""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from datasets import Dataset

from densereward import dense, masks, pipeline, revised, rollouts
from densereward.masks import Masked, RunningMean, adaptive_mask, td_baseline
from densereward.methods import LEARNED, METHODS, Method
from densereward.pipeline import Run, to_device
from densereward.progress import progress
from densereward.stages import Artifact
from densereward.testbed import truth
from densereward.training import masked
from densereward.training.reward_model import SIDES, answers, with_segments

BASELINES = ("round", "running mean", "fixed", "td")
PREFERRED = {"ppo": ("round", "advantage"), "grpo": ("group",)}  # trainer: of `masks.preferred_by`; PPO has no groups
OFFLINE = ("dpo", "kto")  # trainers on fixed pairs: b is the mean of all of them, or fixed
ROWS = 64  # responses per pass of a scorer over a dataset


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


def scorer(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> Path | None:
    """The folder of the reward model that decides a row's mask, trained where it is not there yet; None for a row
    without a mask, or whose mask the oracle decides."""
    row = row_of(method)
    return revised.scorer(run, row, folder_of_sft, prefs)[0] if row and row.scorer in LEARNED else None


def key(method: Method) -> dict:
    """What a stage's key holds of a row's mask: its field, and the row that decides."""
    row = row_of(method)
    return {"mask": method.mask, "decided_by": asdict(row)} if row else {}


class Decider:
    """Masks of batches: `rewards` is batch -> [B, T] of the deciding row, `mask` the row's field.

    Keys of `mask` but `by`, `baseline` (of BASELINES), `preferred` (of PREFERRED, read by the trainers) and `segments`
    (of `segments.segment`: each is decided as one, by its mean) are arguments of `masks.adaptive_mask`."""

    def __init__(self, rewards, mask: dict, tokenizer=None):
        self.rewards, self.mean = rewards, RunningMean()
        self.settings = {name: x for name, x in mask.items() if name not in ("by", "baseline", "preferred", "segments")}
        self.baseline, self.preferred = mask.get("baseline"), mask.get("preferred")
        self.cut = mask.get("segments") and replace(METHODS["token"], segmentation=mask["segments"])
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, batch: dict, chosen: torch.Tensor, values=None, gamma: float = 1.0) -> Masked:
        """The mask of a batch that reward functions take; `chosen`, bool [B], are its preferred responses, `values`
        [B, T] a critic's, for a TD error."""
        rewards, real = self.rewards(batch), batch["completion_mask"]
        ids = self.cut and dense.segment_ids(self.cut, batch, self.tokenizer)
        if self.baseline == "td":
            baseline = td_baseline(values, real, gamma)
        elif self.baseline in ("round", "running mean"):
            baseline = (self.mean if self.baseline == "running mean" else RunningMean())(rewards, real)
        elif self.baseline == "fixed":
            baseline = 0.0
        else:
            raise ValueError(f"baseline is {self.baseline!r}; choose one of {', '.join(BASELINES)}")
        return adaptive_mask(rewards, real, chosen, baseline, segment_ids=ids, **self.settings)


def decider(
    run: Run,
    method: Method,
    folder_of_sft: Path,
    prefs: Artifact,
    folder_of_scorer: Path | None,
    tokenizer,
    folder: Path,
) -> Decider | None:
    """The row's `Decider`, None without a mask; what the deciding rewards were fitted with is saved in `folder`/mask.
    `folder_of_scorer` is what `scorer` found."""
    if method.mask is None:
        return None
    (folder / "mask").mkdir()
    row = row_of(method)
    paid, _ = rollouts.reward(run, row, folder_of_sft, prefs, folder_of_scorer, tokenizer, folder / "mask")
    return Decider(paid, method.mask, tokenizer)


def mask_dataset(pairs: Dataset, decide: Decider, tokenizer, seed: int) -> tuple[Dataset, dict]:
    """(preference pairs with a mask per side, counts), by `training.masked.mask_pairs`: what `decide` says of a batch,
    said of the whole dataset; b is the mean of all pairs unless it is fixed. Entropies are those of the dataset's
    columns."""
    if decide.cut:
        pairs = with_segments(pairs, decide.cut, tokenizer, seed)
    rewards: dict[str, list] = {side: [] for side in SIDES}
    for start in progress("masks, batches", range(0, len(pairs), ROWS)):
        rows = pairs.select(range(start, min(start + ROWS, len(pairs)))).to_list()
        for side in SIDES:
            batch = {name: to_device(x) for name, x in answers(rows, side, tokenizer).items()}
            paid = decide.rewards(batch).tolist()
            rewards[side] += [values[: len(row[f"{side}_completion_ids"])] for values, row in zip(paid, rows)]
    baseline = 0.0 if decide.baseline == "fixed" else None
    return masked.mask_pairs(pairs, rewards, baseline, **decide.settings)


CODE = [masks, masked, pipeline.segments, truth]  # what any mask rests on, for the cache
