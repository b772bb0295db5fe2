"""APPO: the clipped surrogate times an adaptive mask (adaptive-mask Eq. 14), on PPO's trainer.

The mask comes last: advantages are estimated, whitened over all tokens and then masked, so a kept token learns what it
would without the mask, and no other token is weighed up for those that are gone. The critic learns from all tokens.

Which responses are preferred the paper leaves open ("based on rewards or advantages"). "reward": those whose whole
reward is above the mean of all responses so far, this batch's among them. "advantage": those whose mean whitened
advantage is above 0. Left out: means over several processes; each has its own.
"""

import torch

from densereward.masks import Masked, RunningMean
from densereward.training.masked import mask_advantages
from densereward.training.ppo import DensePPOTrainer


def shares(found: Masked, mask: torch.Tensor, of: str = "") -> dict[str, float]:
    """What a row of curves says of a mask: the share of real tokens that are `kept` (None where there is none), and how
    many responses are `emptied`; `of` is added to these names."""
    real = mask.bool()
    kept, tokens, emptied = torch.stack([(found.mask.bool() & real).sum(), real.sum(), found.emptied.sum()]).tolist()
    return {f"kept{of}": kept / tokens if tokens else None, f"emptied{of}": emptied}


class MaskedPPOTrainer(DensePPOTrainer):
    """`DensePPOTrainer` whose policy learns from the tokens that `decide` keeps, a `masking.Decider`: (batch with
    rewards, preferred bool [B], values [B, T], gamma) -> `masks.Masked`. `curves` say what was kept
    (`shares`), and the share of responses that were `preferred`."""

    def __init__(self, model, *, reward_fn, decide, **rest):
        self.pay, self.decide, self.mean = reward_fn, decide, RunningMean()
        super().__init__(model, reward_fn=self._pay, **rest)

    def _pay(self, batch: dict) -> torch.Tensor:
        rewards = self.pay(batch)
        self._scored = batch | {"rewards": rewards}
        return rewards

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"]
        if self.decide.preferred == "advantage":
            chosen = (batch["advantages"] * mask).sum(1) > 0  # [B]
        else:
            totals = (self._scored["rewards"] * mask).sum(1, keepdim=True)  # [B, 1]
            chosen = (totals > self.mean(totals, torch.ones_like(totals)))[:, 0]
        found = self.decide(self._scored, chosen, batch["old_values"], self.args.gamma)
        if self.model.training:
            self.curves[-1] |= shares(found, mask) | {"preferred": chosen.float().mean().item()}
        return mask_advantages(batch, found.mask)
