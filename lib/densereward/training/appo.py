"""APPO: the clipped surrogate times an adaptive mask (adaptive-mask Eq. 14), on PPO's trainer.

The mask comes last: advantages are estimated, whitened over all tokens and then masked, so a kept token learns what it
would without the mask, and no other token is weighed up for those that are gone. The critic learns from all tokens.

Which responses are preferred is `masks.preferred_by`'s: by their total among those of the round, or by their mean
whitened advantage. One answer to a prompt has no group.

Book: adaptive_masks.md
"""

import torch

from densereward.reward.masks import Masked, preferred_by
from densereward.training.masked import mask_advantages
from densereward.training.ppo import DensePPOTrainer


def shares(found: Masked, mask: torch.Tensor, of: str = "") -> dict[str, float]:
    """What a row of curves says of a mask: the share of real tokens that are `kept` (None where there is none), and how
    many responses are `emptied`; `of` is added to these names."""
    real = mask.bool()
    kept, tokens, emptied = torch.stack([(found.mask.bool() & real).sum(), real.sum(), found.emptied.sum()]).tolist()
    return {f"kept{of}": kept / tokens if tokens else None, f"emptied{of}": emptied}


def good(found: Masked, mask: torch.Tensor, rows) -> float | None:
    """The share of the real tokens of some rows that a mask takes for good, None where there is none; `rows` is an
    index of [B]."""
    real = mask[rows].bool()
    hits, tokens = torch.stack([((found.states[rows] == 1) & real).sum(), real.sum()]).tolist()
    return hits / tokens if tokens else None


def sides(found: Masked, mask: torch.Tensor, chosen: torch.Tensor) -> dict[str, float | None]:
    """What a row of curves says of a mask's two sides: the share of responses that are `preferred` (`chosen`, bool
    [B]), and the share of tokens that are `good` among these and among the others."""
    parts = {f"good_{side}": good(found, mask, x) for side, x in (("preferred", chosen), ("rejected", ~chosen))}
    return {"preferred": chosen.float().mean().item()} | parts


class MaskedPPOTrainer(DensePPOTrainer):
    """`DensePPOTrainer` whose policy learns from the tokens that `decide` keeps, a `mask.Decider`: (batch with
    rewards, preferred bool [B], values [B, T], gamma) -> `masks.Masked`. `curves` say what was kept
    (`shares`), who was preferred and what was good (`sides`)."""

    def __init__(self, model, *, decide, **rest):
        super().__init__(model, **rest)
        self.decide = decide

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"]
        chosen = preferred_by(self.decide.preferred, self.scored["rewards"], batch["advantages"], mask)  # [B]
        found = self.decide(self.scored, chosen, batch["old_values"], self.args.gamma)
        if self.model.training:
            self.curves[-1] |= shares(found, mask) | sides(found, mask, chosen)
        return mask_advantages(batch, found.mask)
