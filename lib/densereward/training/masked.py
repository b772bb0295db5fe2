"""Adaptive masks in TRL's trainers: which tokens of a completion a loss may see. Nothing of a trainer is changed.

Follows adaptive-mask Appendix D: m_t log pi(y_t), token by token inside the sum. Eq. 15 as printed has M(x, y_w, y_l)
times log sigmoid, where it could only weigh whole pairs. Inside the sums, h = sum_t m_t log(pi/pi_ref)(y_t), and of
DPO's loss -log sigmoid(beta (h_w - h_l)) a token keeps the gradient beta m_t sigmoid(-beta (h_w - h_l)), with the sign
of its side: zero where masked, and elsewhere that of plain DPO but for the sigmoid, one number per pair.

How TRL 1.16 takes a mask:
- DPOTrainer and KTOTrainer make labels of the batch's `completion_mask`, which the collator builds: `MaskedCollator`
  edits it. Policy and reference see the same mask, `precompute_ref_log_probs` too, since masks are columns and do not
  change. Zero or not is all that counts, so -1 would train as 1 and is refused. Losses that divide by lengths ("ipo",
  "sigmoid_norm", `ld_alpha`, `use_weighting`) count kept tokens; "sft" is NaN where a batch keeps no chosen token.
  KTO's reference point z is an estimate on whole, unmasked completions of other prompts ("apo_zero_unpaired" has none),
  and KTOTrainer tokenises texts anew: override its `_prepare_dataset` as `TokenisedDPOTrainer` does.
- SFTTrainer folds the dataset's column `completion_mask` into labels before any collator sees it, so for rejection
  sampling (Eq. 16) the labels are made masked (`online.ChosenCollator`). Its loss is a mean over kept tokens.
- GRPOTrainer attends with its `completion_mask`: a zero there hides the token from those after it. `mask_advantages`
  multiplies the surrogate's advantages instead, which is Eq. 14.

A trainer drops columns that it does not know: pass `remove_unused_columns=False`. The KL term of Eq. 16, which
SFTTrainer does not have, and masks that change from round to round are in `online.py`.

Book: adaptive_masks.md
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from densereward.reward.masks import Masked, adaptive_mask
from densereward.training.reward_model import SIDES

COLUMNS = tuple(f"{side}_mask" for side in SIDES)


@dataclass
class MaskedCollator:
    """A TRL collator whose `completion_mask` is also 0 where a row's mask is. `columns` name the rows' masks, lists of
    0 and 1, one per completion token, in the order in which the collator stacks rows: for DPO COLUMNS, for KTO one.

    Truncates like the collator. ValueError, naming the row: a column is missing, a length differs, a value is neither 0
    nor 1."""

    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    columns: tuple[str, ...] = COLUMNS

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.collator(rows)
        completion = batch["completion_mask"]  # [len(columns) * B, L]
        from_end = getattr(self.collator, "truncation_mode", "keep_start") == "keep_end"
        cut = getattr(self.collator, "max_length", None) is not None
        kept: list[list[int]] = []
        for n, (column, i) in zip(completion.sum(1).tolist(), ((c, i) for c in self.columns for i in range(len(rows)))):
            if column not in rows[i]:
                raise ValueError(f"row {i} has no {column!r}; add masks, and train with remove_unused_columns=False")
            mask = list(rows[i][column])
            if len(mask) != n and not (cut and len(mask) > n):
                raise ValueError(f"row {i}: {column} has {len(mask)} values for {n} completion tokens; give one each")
            if not set(mask) <= {0, 1}:
                raise ValueError(f"row {i}: {column} holds more than 0 and 1; this loss would take all else as 1")
            kept.append(mask[len(mask) - n :] if from_end else mask[:n])
        values = torch.tensor(list(chain.from_iterable(kept)), dtype=completion.dtype)
        return batch | {"completion_mask": completion.masked_scatter(completion.bool(), values)}


def mask_pairs(pairs: Dataset, rewards: dict[str, list], baseline: float | None = None, **settings):
    """(pairs with COLUMNS, counts): masks of tokenised pairs by token rewards, {"chosen": [N lists], "rejected": ...}.

    baseline: None is the mean of all token rewards of these pairs. `settings` are `masks.adaptive_mask`'s; segments are
    those of the columns `..._segment_ids` where there are any (`reward_model.with_segments`). counts, per side:
    samples, emptied, tokens, kept, good; and the baseline. ValueError: a response without a reward per token (naming
    row and side), or a signed mask, which no loss on pairs can take.
    """
    padded = {side: _pad(pairs[f"{side}_completion_ids"], rewards[side], side) for side in SIDES}
    if baseline is None:
        baseline = float(torch.cat([values[mask] for values, mask in padded.values()]).mean())
    counts: dict = {"baseline": baseline}
    for side, (values, mask) in padded.items():
        if f"{side}_segment_ids" in pairs.column_names:
            rows = [torch.tensor(ids) for ids in pairs[f"{side}_segment_ids"]]
            settings["segment_ids"] = pad_sequence(rows, batch_first=True, padding_value=-1)
        found = adaptive_mask(values, mask, torch.full((len(pairs),), side == "chosen"), baseline, **settings)
        counts[side] = _count(found, mask)
        pairs = pairs.add_column(f"{side}_mask", _lists(found.mask, mask))
    return pairs, counts


def mask_advantages(batch: dict[str, torch.Tensor], factor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A rollout batch of GRPOTrainer or DensePPOTrainer with advantages [B] or [B, T] times `factor` [B, T], which may
    be signed. adaptive-mask Eq. 14: min(rho A, clip(rho) A) M for M of 0 and 1, and the clipped surrogate of -A where M
    is -1. What losses are divided by, KL, critic and attention stay those of the whole completion."""
    advantages = batch["advantages"]
    if factor.shape != batch["completion_mask"].shape:
        shapes = list(factor.shape), list(batch["completion_mask"].shape)
        raise ValueError("mask has shape {}, completions {}; give a factor per completion token".format(*shapes))
    if advantages.dim() == 1:
        advantages = advantages[:, None]
    return batch | {"advantages": advantages * factor}


def _pad(completions, rewards, what) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards [N, T] and which of them are real, bool [N, T]."""
    lengths = [len(ids) for ids in completions]
    if len(rewards) != len(lengths):
        raise ValueError(f"{what}: rewards of {len(rewards)} responses for {len(lengths)}; give a list for each")
    if wrong := [i for i, (row, n) in enumerate(zip(rewards, lengths)) if len(row) != n]:
        i = wrong[0]
        raise ValueError(f"row {i}, {what}: {len(rewards[i])} rewards for {lengths[i]} tokens; give one per token")
    values = pad_sequence([torch.tensor(row, dtype=torch.float32) for row in rewards], True)
    return values, torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]


def _lists(factor, mask) -> list[list[int]]:
    if (factor.long() < 0).any():
        raise ValueError("the mask is signed, which TRL's losses on labels cannot take; leave signed at False")
    return [row[:n] for row, n in zip(factor.long().tolist(), mask.sum(1).tolist())]


def _count(found: Masked, mask) -> dict[str, int]:
    numbers = {"samples": torch.tensor(len(mask)), "emptied": found.emptied.sum(), "tokens": mask.sum()}
    numbers |= {"kept": (found.mask.bool() & mask).sum(), "good": (found.states == 1).sum()}
    return {name: int(value) for name, value in numbers.items()}
