"""PPO on macro actions: a run of tokens counts as one action, in values, advantages and ratios.

Follows MA-RLHF (Chai et al. 2024, arXiv 2410.02743), MA-PPO: a macro action is paid the sum of its tokens' rewards, its
value is the mean of the critic's over its tokens, GAE steps from macro action to macro action, every token's value
regresses on its macro action's return, and the clipped ratio is that of the whole macro action. Fixed n-grams are the
paper's default (n = 5); any segmentation will do. With macro actions of one token this is PPO, to the bit.

Where a macro action ends, its last token stands for it in the loss: it carries the advantage, and the sum of the macro
action's log-probabilities. At a ratio of 1 each token has the gradient of an advantage of its own. At gamma = lambda =
1 nothing else is left of the method: rewards at the end are no nearer to an action for being fewer steps away.

Left out: the released code's clip of each token's ratio, its mean (in place of a sum) of a macro action's rewards, its
clip of the score; macro actions by parsing, perplexity or drawn lengths.

Book: ppo.md
"""

import torch

from densereward.reward.dense import segment_ids
from densereward.reward.segments import segment_ends
from densereward.training.ppo import DensePPOTrainer, gae


def totals(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Sums of x [B, T] over the segments of ids [B, T], -1 in none: [B, T], a segment's in the column of its number."""
    return torch.zeros_like(x).scatter_add(1, ids.clamp(min=0), x.masked_fill(ids < 0, 0))


def macro_gae(rewards, values, ids, gamma: float, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`ppo.gae` over segments: (advantages, returns), both [B, T], alike for the tokens of a segment, zero in none.
    rewards, values, ids [B, T]."""
    counts = totals(torch.ones_like(values), ids)
    found = gae(totals(rewards, ids), totals(values, ids) / counts.clamp(min=1), counts > 0, gamma, lam)
    return tuple(x.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, 0) for x in found)


def at_end(logps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [B, T] summed over each segment, at its last token, and as they are elsewhere."""
    return torch.where(segment_ends(ids), totals(logps, ids).gather(1, ids.clamp(min=0)), logps)


class MacroPPOTrainer(DensePPOTrainer):
    """`DensePPOTrainer` on the macro actions of `segmentation`, of `segments.segment`, none that is random."""

    _name = "Macro PPO"

    def __init__(self, model, *, segmentation: dict, **rest):
        super().__init__(model, **rest)
        self.segmentation, self._joined = segmentation, None

    def _estimate(self, rewards, values, mask, scored):
        self._found = segment_ids(self.segmentation, scored, self.processing_class)
        return macro_gae(rewards, values, self._found, self.args.gamma, self.args.lam)

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        ids, old = self._found, batch["old_per_token_logps"]
        advantages = batch["advantages"] * segment_ends(ids)
        return batch | {"advantages": advantages, "old_per_token_logps": at_end(old, ids), "segment_ids": ids}

    def _compute_loss(self, model, inputs):
        self._joined = inputs["segment_ids"]
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._joined = None

    def _get_per_token_logps_and_entropies(self, *args, **settings):
        logps, *rest = super()._get_per_token_logps_and_entropies(*args, **settings)
        return (logps if self._joined is None else at_end(logps, self._joined)), *rest
