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


def shares(found: Masked, chosen: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """What a row of curves says of a mask: `kept`, the share of real tokens, `preferred`, the share of responses, and
    `emptied`, how many responses kept none."""
    real = mask.bool()
    kept = (found.mask.bool() & real).sum() / real.sum().clamp(min=1)
    numbers = torch.stack([kept, chosen.float().mean(), found.emptied.sum().to(kept.dtype)]).tolist()
    return dict(zip(("kept", "preferred"), numbers)) | {"emptied": int(numbers[2])}


class MaskedPPOTrainer(DensePPOTrainer):
    """`DensePPOTrainer` whose policy learns from the tokens that `decide` keeps, a `masking.Decider`: (batch with
    rewards, preferred bool [B], values [B, T], gamma) -> `masks.Masked`. `curves` say what was kept (`shares`)."""

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
            self.curves[-1] |= shares(found, chosen, mask)
        return mask_advantages(batch, found.mask)
