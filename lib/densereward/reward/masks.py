"""Adaptive masks: which tokens of a preferred or rejected sample may teach, decided by token rewards.

Follows adaptive-mask Section 3.2.1 and Appendix E. A token is good where its reward stands above a baseline b, bad
where it stands below; a preferred sample teaches by its good tokens, a rejected one by its bad tokens (Eq. 13). What
makes good and bad is a row of DECISIONS: the two-way threshold of Eq. 13, the three-way one of Eq. 17, and the Schmitt
trigger that Appendix E names: Eq. 17 has no memory, a Schmitt trigger holds its last decision while the reward is
between the thresholds. b is a number, a `RunningMean`, or what makes reward less b the TD error of a critic
(`td_baseline`). Which sampled answers are preferred the paper leaves open ("based on rewards or advantages"):
`preferred_by`.

Where the padding mask is 0 nothing counts, not even NaN. Left out: how b and the offset are chosen, which it does not
say.

Book: adaptive_masks.md
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from densereward.reward.segments import choose, segment_lengths, spread

PREFERRED = ("round", "group", "advantage")


class Masked(NamedTuple):
    """What `adaptive_mask` returns: `mask` [B, T] (bool, or 1, 0, -1 where it is signed); `states` [B, T], 1 good, -1
    bad, 0 neutral or padding; `emptied`, bool [B]: samples that the rule left no token of."""

    mask: torch.Tensor
    states: torch.Tensor
    emptied: torch.Tensor


def adaptive_mask(
    rewards, mask, chosen, baseline=0.0, decision="threshold", delta=0.0, segment_ids=None, signed=False
) -> Masked:
    """Masks of token rewards [B, T] with their padding mask [B, T]; `chosen`, bool [B], are the preferred samples.
    adaptive-mask Eq. 13, 17, 18.

    baseline: b, a number or a tensor that broadcasts to [B, T]. decision: a key of DECISIONS; delta: its offset, in
    units of reward. segment_ids [B, T] (`segments.segment`, -1 outside): each segment is decided as one, by the mean of
    reward less baseline over its tokens; tokens outside every segment are neutral. signed: Eq. 18's values in place of
    0 and 1; as a factor on what a sample's token teaches, -1 turns it round, so on rejected samples a good token has
    -1. A sample without a kept token is dropped, all zeros as Eq. 13 has it, and counted in `emptied`.

    ValueError: unknown names, shapes that differ, a delta below 0 or without an effect, a reward less baseline of a
    real token that is not finite (naming the row).
    """
    choose("decision", decision, DECISIONS)
    if not delta >= 0 or (decision == "threshold" and delta):
        raise ValueError(f"delta is {delta!r}; give an offset of 0 or more, and 0 for decision 'threshold'")
    real = mask.bool()
    if rewards.shape != real.shape or chosen.shape != real.shape[:1]:
        shapes = [list(x.shape) for x in (rewards, mask, chosen)]
        raise ValueError(f"rewards, mask and chosen have shapes {shapes}; give [B, T], [B, T] and [B]")
    excess = (rewards - baseline).expand_as(rewards)  # [B, T]
    if (bad := (~excess.isfinite() & real).any(1)).any():
        raise ValueError(f"row {int(bad.nonzero()[0])}: a reward less its baseline is not finite; look at the scorer")
    excess = excess.masked_fill(~real, 0)
    if segment_ids is not None:
        real = real & (segment_ids >= 0)
        excess = segment_means(excess, torch.where(real, segment_ids, -1))
    states = DECISIONS[decision](excess, delta).masked_fill(~real, 0)  # [B, T]
    side = torch.where(chosen.bool(), 1, -1)[:, None]
    factor = states * side if signed else states == side
    return Masked(factor, states, ~factor.bool().any(1))


def threshold(excess, delta):
    """Eq. 13: good where the reward is above b, else bad, a reward of exactly b too."""
    return torch.where(excess > 0, 1, -1)


def three_way(excess, delta):
    """Eq. 17: good above b + delta, bad below b - delta, neutral between."""
    return (excess > delta).long() - (excess < -delta).long()


def schmitt(excess, delta):
    """A trigger with memory: as three_way, but what lies between keeps the state of the last token that did not.
    Neutral before the first such token."""
    states = three_way(excess, delta)
    index = torch.arange(states.shape[1], device=states.device)
    last = torch.where(states != 0, index, 0).cummax(1).values  # decided last, [B, T]
    return states.gather(1, last)


DECISIONS = {"threshold": threshold, "three-way": three_way, "schmitt": schmitt}


def preferred_by(how, rewards, advantages, mask):
    """Which sampled answers are preferred, bool [B]. "round": those whose total of `rewards` [B, T] is above the mean
    total of this batch. "group", "advantage": those whose `advantages` ([B, T], or [B, 1] where it is one per answer)
    are above 0 on average; a trainer with groups makes them 0 at the mean of a prompt's answers. `mask` [B, T]. Always
    of this batch alone, that of all processes: against the mean of all rounds almost every answer is preferred once the
    policy has improved."""
    choose("preferred", how, PREFERRED)
    if how == "round":
        totals = (rewards * mask).sum(1)  # [B]
        total, count = _summed(totals.sum(), totals.new_tensor(len(totals)))
        return totals > total / count
    return (advantages * mask).sum(1) > 0


class RunningMean:
    """b as the mean of all token rewards so far, on all processes, those of the batch at hand among them. Call it with
    rewards and mask [B, T]; it returns a scalar tensor. It lags behind rewards that rise, and more tokens become
    good."""

    def __init__(self):
        self.total = self.count = 0

    def __call__(self, rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        real = mask.bool()
        total, count = _summed(rewards.detach().double().masked_fill(~real, 0).sum(), real.sum())
        self.total, self.count = self.total + total, self.count + count
        return (self.total / self.count.clamp(min=1)).to(rewards.dtype)


def _summed(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """A sum and a count, those of all processes that train together."""
    both = torch.stack([total.double(), count.double()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(both)
    return both


def td_baseline(values, mask, gamma: float = 1.0):
    """b [B, T] = V(s_t) - gamma V(s_t+1) of a critic's values [B, T], so that reward less b is the TD error and Eq. 13
    asks for its sign. values[:, t] is that of the state before token t; after the last real token it is 0."""
    values = values.masked_fill(~mask.bool(), 0)
    return values - gamma * F.pad(values[:, 1:], (0, 1))


def segment_means(values, segment_ids):
    """The mean of each token's segment, zero outside: [B, T] from values and segment_ids [B, T]. In double."""
    lengths = segment_lengths(segment_ids)  # [B, S]
    values = values.masked_fill(segment_ids < 0, 0).double()
    totals = values.new_zeros(len(values), lengths.shape[1] + 1).scatter_add(1, segment_ids + 1, values)[:, 1:]
    return spread(totals / lengths.clamp(min=1), segment_ids)


def flips(states, mask, neutral: bool = False):
    """Changes from one token to the next in each row of states [B, T]: long [B]. Between good and bad, whatever lies
    between them, or of any two of the three states (`neutral`). Appendix E: what the neutral zone should make rarer."""
    real = mask.bool()
    if not neutral:
        decided = real & (states != 0)
        states = schmitt(states, 0)  # fills neutral tokens with the last decision
        real = decided.long().cummax(1).values.bool() & real
    return ((states[:, 1:] != states[:, :-1]) & real[:, 1:] & real[:, :-1]).sum(1)
