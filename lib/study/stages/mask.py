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
"""

from dataclasses import asdict
from pathlib import Path

import torch
from datasets import Dataset

from densereward.progress import progress
from densereward.reward import dense, masks, segments
from densereward.reward.masks import Masked, RunningMean, adaptive_mask, td_baseline
from densereward.reward.recipe import Recipe
from densereward.text.models import to_device
from densereward.training import masked
from densereward.training.reward_model import SIDES, answers, with_segments
from study.stages import reward
from testbed import truth

ROWS = 64  # responses per pass of a scorer over a dataset


def key(run) -> dict:
    """What a stage's key holds of a row's mask: its field, and the row that decides."""
    return {"mask": run.row.mask, "decided_by": asdict(run.mask.row)} if run.mask else {}


def needs(run) -> list:
    """What a stage with a mask needs for it: the scorer of the row that decides, if it learns one."""
    return [run.mask.scorer] if run.mask and run.mask.scorer else []


class Decider:
    """Masks of batches: `rewards` is batch -> [B, T] of the deciding row, `mask` the row's field.

    Keys of `mask` but `by`, `baseline` and `preferred` (which `deciding.row_of` has looked at) and `segments` (of
    `segments.segment`: each is decided as one, by its mean) are arguments of `masks.adaptive_mask`."""

    def __init__(self, rewards, mask: dict, tokenizer=None):
        self.rewards, self.mean = rewards, RunningMean()
        self.settings = {name: x for name, x in mask.items() if name not in ("by", "baseline", "preferred", "segments")}
        self.baseline, self.preferred = mask.get("baseline"), mask.get("preferred")
        self.cut, self.tokenizer = mask.get("segments"), tokenizer

    @torch.no_grad()
    def __call__(self, batch: dict, chosen: torch.Tensor, values=None, gamma: float = 1.0) -> Masked:
        """The mask of a batch that reward functions take; `chosen`, bool [B], are its preferred responses, `values`
        [B, T] a critic's, for a TD error."""
        rewards, real = self.rewards(batch), batch["completion_mask"]
        ids = self.cut and dense.segment_ids(self.cut, batch, self.tokenizer)
        baseline = 0.0  # of "fixed"
        if self.baseline == "td":
            baseline = td_baseline(values, real, gamma)
        elif self.baseline in ("round", "running mean"):
            baseline = (self.mean if self.baseline == "running mean" else RunningMean())(rewards, real)
        return adaptive_mask(rewards, real, chosen, baseline, segment_ids=ids, **self.settings)


def decider(run, tokenizer, folder: Path) -> Decider | None:
    """The row's `Decider`, None without a mask; what the deciding rewards were fitted with is saved in
    `folder`/mask."""
    if run.mask is None:
        return None
    (folder / "mask").mkdir(exist_ok=True)  # by each of several processes
    paid, _ = reward.fitted(run.mask, folder / "mask", tokenizer)
    return Decider(paid, run.row.mask, tokenizer)


def mask_dataset(pairs: Dataset, decide: Decider, tokenizer, seed: int) -> tuple[Dataset, dict]:
    """(preference pairs with a mask per side, counts), by `training.masked.mask_pairs`: what `decide` says of a batch,
    said of the whole dataset; b is the mean of all pairs unless it is fixed. Entropies, where a cut or the deciding
    row reads them, are those of the dataset's columns."""
    if decide.cut:
        pairs = with_segments(pairs, Recipe(name="mask", segmentation=decide.cut), tokenizer, seed)
    rewards: dict[str, list] = {side: [] for side in SIDES}
    for start in progress("masks, batches", range(0, len(pairs), ROWS)):
        rows = pairs.select(range(start, min(start + ROWS, len(pairs)))).to_list()
        for side in SIDES:
            batch = {name: to_device(x) for name, x in answers(rows, side, tokenizer).items()}
            paid = decide.rewards(batch).tolist()
            rewards[side] += [values[: len(row[f"{side}_completion_ids"])] for values, row in zip(paid, rows)]
    baseline = 0.0 if decide.baseline == "fixed" else None
    return masked.mask_pairs(pairs, rewards, baseline, **decide.settings)


CODE = [masks, masked, segments, truth]  # what any mask rests on, for the cache
